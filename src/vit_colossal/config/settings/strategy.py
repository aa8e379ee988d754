"""How the work is divided: plugin, degrees, precision, and Gemini's own settings."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, FiniteFloat

from vit_colossal.config.plugins import DEFAULT_PLUGIN
from vit_colossal.config.settings.base import Settings, alias

Precision = Literal["fp32", "bf16", "fp16"]


class StrategySettings(Settings):
    """The plugin and what it needs to know."""

    title: ClassVar[str] = "how the work is divided"

    plugin: str = DEFAULT_PLUGIN
    """ColossalAI plugin: ddp, zero1, zero2, gemini, hybrid, or one of another distribution; on the
    command line also package.module:NAME. Upstream's names: torch_ddp, torch_ddp_fp16,
    low_level_zero, hybrid_parallel. train takes auto: the layout that is predicted to be the
    fastest of those that fit."""
    tp: int = alias("tp", "tp_size", default=1, ge=1)
    """Tensor-parallel degree (hybrid)."""
    pp: int = alias("pp", "pp_size", default=1, ge=1)
    """Pipeline stages (hybrid)."""
    layers_per_stage: str | None = Field(None, pattern=r"^\d+(,\d+)*$")
    """Encoder layers of each pipeline stage, such as 5,7; default balanced, with what the
    embeddings and the head cost."""
    pp_style: str = "1f1b"
    """The pipeline's schedule: 1f1b is the only one; the others of ColossalAI are refused, with the
    reason."""
    zero: int = alias("zero", "zero_stage", default=0, ge=0, le=2)
    """ZeRO stage inside the hybrid plugin: shards the optimizer over data-parallel replicas."""
    precision: Precision | None = None
    """fp32, bf16 or fp16. Default: bf16 on CUDA (fp16 where bf16 is missing), fp32 on CPU; bf16
    where the plugin refuses fp32."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """Where to train; auto takes CUDA when there is a device for each local process."""
    nproc: int | None = Field(None, ge=1, exclude=True)
    """Start this many local processes (not under torchrun or colossalai run)."""
    grad_checkpoint: bool = False
    """Recompute activations in the backward pass: less memory, about a third more compute."""
    compile: bool = False
    """torch.compile each encoder layer: faster steps, slower first ones, other rounding."""

    gemini_placement: Literal["static", "auto"] = "static"
    """Gemini's placement policy; auto moves chunks between GPU and host by measured use."""
    gemini_shard_param_frac: FiniteFloat = Field(1.0, ge=0, le=1)
    """Share of the parameters that Gemini shards (static placement)."""
    gemini_offload_optim_frac: FiniteFloat = Field(0.0, ge=0, le=1)
    """Share of the optimizer states kept in host memory (static placement, CUDA)."""
    gemini_offload_param_frac: FiniteFloat = Field(0.0, ge=0, le=1)
    """Share of the parameters kept in host memory (static placement, CUDA)."""
    gemini_min_chunk_m: FiniteFloat = Field(32.0, gt=0)
    """Smallest chunk in units of 2^20 elements; a model that fits one chunk is replicated, not
    sharded."""
    gemini_search_range_m: FiniteFloat = Field(32.0, gt=0)
    """Range of the chunk-size search in units of 2^20 elements."""
    gemini_hidden_dim: int | None = Field(None, ge=1)
    """Hidden size that sets the step of Gemini's chunk-size search."""
