"""The run configuration: typed, documented fields, and a dump that runs again.

pydantic checks the types and ranges and reports all problems at once; what needs
several fields, the number of processes, the model or the data is checked in ``validation``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import (
    AliasChoices,
    Field,
    FiniteFloat,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    CliUnknownArgs,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from vit_colossal.errors import ConfigError

PluginName = Literal["ddp", "zero1", "zero2", "gemini", "hybrid"]
Precision = Literal["fp32", "bf16", "fp16"]

#: Names that ColossalAI's own examples use for the same strategies.
PLUGIN_ALIASES = {
    "torch_ddp": "ddp",
    "torch_ddp_fp16": "ddp",
    "low_level_zero": "zero1",
    "hybrid_parallel": "hybrid",
}


def _alias(*names: str, **options: Any) -> Any:
    """A field that also answers to other spellings; the first name is the one shown and dumped."""
    default = options.pop("default", None)
    return Field(
        default,
        validation_alias=AliasChoices(*names),
        serialization_alias=names[0],
        **options,
    )


class TrainConfig(BaseSettings):
    """Fine-tune a Vision Transformer with a ColossalAI plugin."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        protected_namespaces=(),
        use_attribute_docstrings=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    # --- strategy
    plugin: PluginName = "ddp"
    """ColossalAI plugin. Also: torch_ddp, torch_ddp_fp16, low_level_zero, hybrid_parallel."""
    tp: int = _alias("tp", "tp_size", default=1, ge=1)
    """Tensor-parallel degree (hybrid)."""
    pp: int = _alias("pp", "pp_size", default=1, ge=1)
    """Pipeline stages (hybrid)."""
    zero: int = _alias("zero", "zero_stage", default=0, ge=0, le=2)
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

    # --- Gemini
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

    # --- model
    model: str | None = _alias("model", "model_name_or_path")
    """A local directory, a hub name, or a preset trained from scratch:
    vit-micro, vit-tiny, vit-small, vit-base, vit-large."""
    model_overrides: dict[str, int | float | str | bool] = _alias("model_config", default={})
    """ViTConfig keys for a preset, as key=value (may be repeated): --model-config image_size=32."""

    # --- data
    dataset: str | None = None
    """A local folder or parquet/arrow file, digits (built in), beans, cifar10, or any hub name."""
    dataset_config: str | None = None
    """Configuration name of a hub data set."""
    dataset_revision: str | None = None
    """Revision (branch, tag or commit) of a hub data set."""
    image_column: str | None = None
    """Image column; found from the features when there is one."""
    label_column: str | None = None
    """Label column; found from the features when there is one."""
    train_split: str | None = None
    """Training split, or a part of one: train[:4500]; default train."""
    eval_split: str | None = None
    """Evaluation split; default the first of validation, valid, val, dev, test."""
    val_split: FiniteFloat = Field(0.1, gt=0, lt=1)
    """Share of the training images held out (stratified) when there is no evaluation split."""
    max_train_samples: int | None = Field(None, ge=1)
    """Use only the first N training images."""
    max_eval_samples: int | None = Field(None, ge=1)
    """Use only the first N evaluation images."""
    cache_dir: Path | None = None
    """Where decoded images are kept; default $VIT_COLOSSAL_CACHE or ~/.cache/vit_colossal."""
    num_workers: int = Field(0, ge=0)
    """Loader processes per rank; 0 reads the cache in the training process."""
    random_resized_crop: bool = False
    """Augment: random crops resized to the model's size."""
    min_crop_scale: FiniteFloat = Field(0.08, gt=0, le=1)
    """Smallest area share of a random crop."""
    horizontal_flip: bool = False
    """Augment: mirror half of the images."""

    # --- optimization
    global_batch_size: int | None = Field(None, ge=1)
    """Samples per optimizer step over all replicas. Default 16 for a pretrained model, 64 from
    scratch."""
    batch_size: int | None = Field(None, ge=1)
    """Upstream's spelling: samples per data-parallel replica and step, in place of
    --global-batch-size."""
    num_microbatches: int | None = Field(None, ge=1)
    """Micro-batches of one replica's batch under a pipeline; default keeps the bubble under 12 %
    where the batch allows."""
    microbatch_size: int | None = Field(None, ge=1)
    """Samples per micro-batch, instead of --num-microbatches."""
    grad_accumulation: int = Field(1, ge=1)
    """Split each step's batch into this many sequential parts; the global batch stays the same."""
    epochs: int | None = _alias("epochs", "num_epoch", "num_epochs", ge=1)
    """Passes over the training split. Default 3 for a pretrained model, 20 from scratch."""
    max_steps: int | None = Field(None, ge=1)
    """Stop after this many optimizer steps; the schedule spans them."""
    lr: FiniteFloat | None = _alias("lr", "learning_rate", ge=0)
    """Peak learning rate, never scaled. Default 2e-4 for a pretrained model, 1e-3 from scratch."""
    lr_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape after the warm-up."""
    warmup_ratio: FiniteFloat = Field(0.1, ge=0, lt=1)
    """Share of all steps with linearly rising learning rate."""
    weight_decay: FiniteFloat = Field(0.05, ge=0)
    """AdamW weight decay."""
    decay_all: bool = False
    """One parameter group: decay biases and norms too (transformers leaves them out)."""
    adam_beta1: FiniteFloat = Field(0.9, ge=0, lt=1)
    """AdamW beta1."""
    adam_beta2: FiniteFloat = Field(0.999, ge=0, lt=1)
    """AdamW beta2."""
    adam_eps: FiniteFloat = Field(1e-8, gt=0)
    """AdamW epsilon."""
    clip_grad_norm: FiniteFloat = Field(0.0, ge=0)
    """Clip the global gradient norm to this value; 0 is off."""
    seed: int = Field(42, ge=0, lt=2**32)
    """Seeds the weights of a new head or model, the order and the augmentation."""

    # --- output
    output_dir: Path | None = _alias("output_dir", "output_path")
    """The run directory; default runs/DATASET-PLUGIN-TIME."""
    overwrite: bool = Field(False, exclude=True)
    """Replace the run that --output-dir holds."""
    resume: str | None = None
    """Continue: auto (if the run has a checkpoint), last, best, or the path of a checkpoint."""
    save_every: int | None = Field(None, ge=0)
    """Steps between checkpoints; default after each epoch, 0 for none."""
    keep_last: int = Field(2, ge=1)
    """Checkpoints kept beside the best one."""
    keep_best: bool = True
    """Keep the checkpoint with the best evaluation accuracy."""
    max_bad_steps: int = Field(3, ge=1)
    """Stop after this many consecutive steps whose loss is not finite."""
    timeout: FiniteFloat = Field(120.0, gt=0)
    """Seconds after which a rank that hangs ends the run (start-up: at least 600)."""
    log_every: int = Field(10, ge=1)
    """Steps between log lines."""
    tensorboard: bool = True
    """Write TensorBoard events where tensorboard is installed."""
    check_reference: str | None = Field(None, exclude=True)
    """After training, compare the accuracy with this reference; exit with 3 if it is significantly
    below."""
    references: Path | None = Field(None, exclude=True)
    """File with the reference that --check-reference names; default the package's own."""
    debug: bool = Field(False, exclude=True)
    """Show tracebacks."""

    unknown: CliUnknownArgs = Field(default=[], exclude=True)

    @field_validator("model_overrides", mode="before")
    @classmethod
    def _typed_overrides(cls, values: Any) -> Any:
        """Flags arrive as text; YAML's own rules turn ``32`` into a number."""
        if not isinstance(values, dict):
            return values
        return {k: yaml.safe_load(v) if isinstance(v, str) else v for k, v in values.items()}

    @field_validator("plugin", mode="before")
    @classmethod
    def _plugin_alias(cls, value: Any) -> Any:
        return PLUGIN_ALIASES.get(value, value) if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _fp16_in_plugin_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("plugin") == "torch_ddp_fp16":
            values = {**values, "precision": values.get("precision") or "fp16"}
        return values

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags and files only: a stray environment variable never changes a run."""
        return (init_settings,)

    def dump(self) -> str:
        """The configuration as YAML that ``--config`` reads back to an equal one."""
        values = self.model_dump(mode="json", by_alias=True, exclude={"unknown"})
        return yaml.safe_dump(
            {key: value for key, value in values.items() if value is not None}, sort_keys=False
        )

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated again."""
        try:
            return type(self).model_validate({**dict(self), **changes})
        except ValidationError as error:
            raise ConfigError(problems_of(error)) from None


def problems_of(error: ValidationError) -> list[str]:
    """pydantic's findings, one line each, in terms of flags."""
    lines = []
    for item in error.errors():
        name = str(item["loc"][0]) if item["loc"] else "configuration"
        if item["type"] == "extra_forbidden":
            lines.append(f"{name}: no such setting (see --help)")
            continue
        message = item["msg"].removeprefix("Value error, ")
        lines.append(
            f"--{name.replace('_', '-')} {item['input']}: {message[0].lower()}{message[1:]}"
        )
    return lines
