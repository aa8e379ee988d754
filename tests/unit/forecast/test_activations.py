"""The formula of kept activations beside what autograd keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from families import TINY
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.forecast.activations import activation_bytes
from vit_colossal.forecast.outline import outline
from vit_colossal.model.build import build_model
from vit_colossal.model.optim import freeze
from vit_colossal.plan.plan import Device, RunPlan, make_plan
from vit_colossal.strategies.drop_path import take_over

LABELS = ("0", "1")
BATCH = 4
#: Widths at which what is left out of the formula is small, as it is in real models.
WIDE = {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 512, "image_size": 64}

#: Of the whole model: what is kept outside of the blocks is known less well.
WITHIN = 0.03
#: SigLIP's own pooling, which no classifier reads, keeps something too.
WITHIN_FAMILIES = 0.05


def planned(model: str, **settings: Any) -> RunPlan:
    config = TrainConfig(model=model, dataset="digits", global_batch_size=BATCH, **settings)
    return make_plan(config, 1, Device("cpu"))


def kept_bytes(plan: RunPlan) -> int:
    """What autograd keeps in a forward pass, each piece of memory once, without the weights."""
    model = build_model(plan.spec, LABELS, 0).train()
    freeze(model, plan.spec, plan.config)
    take_over(model, plan.spec, 0, BATCH, torch.device("cpu"))
    autocast = plan.config.precision == "bf16" and plan.config.plugin == "ddp"
    if plan.config.precision == "bf16" and not autocast:
        model.to(torch.bfloat16)
    if plan.config.grad_checkpoint:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        # Autocast's copies of weights are counted with the buffers.
        copied = autocast and tensor.ndim in (2, 4) and BATCH * plan.spec.tokens not in tensor.shape
        copied &= tensor.dtype == torch.bfloat16 and BATCH not in tensor.shape
        if storage.data_ptr() not in weights and not copied:
            found[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    size = plan.spec.image_size
    pixels = torch.randn(BATCH, 3, size, size, dtype=next(model.parameters()).dtype)
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        model(pixel_values=pixels)
    return sum(found.values())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"plugin": "zero1", "precision": "bf16"},
        {"plugin": "ddp", "precision": "bf16"},
        {"freeze_layers": 2},
        {"freeze": "backbone"},
        {"grad_checkpoint": True},
        {"model_overrides": {**WIDE, "attention_probs_dropout_prob": 0.1}},
        {"model_overrides": {**WIDE, "hidden_dropout_prob": 0.1}},
        {"model_overrides": {**WIDE, "hidden_act": "quick_gelu"}},
        {"model_overrides": {**WIDE, "hidden_act": "gelu_new"}},
        {"model_overrides": {**WIDE, "hidden_act": "gelu_pytorch_tanh"}},
        {"model_overrides": {**WIDE, "hidden_act": "relu"}},
        {"model_overrides": {**WIDE, "hidden_act": "silu"}},
    ],
    ids=str,
)
def test_what_a_forward_pass_keeps(settings: dict[str, Any]) -> None:
    overrides = settings.pop("model_overrides", WIDE)
    plan = planned("vit-micro", model_overrides={**overrides, "num_hidden_layers": 4}, **settings)
    predicted = activation_bytes(plan, outline(plan, len(LABELS))).kept
    assert predicted == pytest.approx(kept_bytes(plan), rel=WITHIN)


_ENCODER = {**WIDE, "num_hidden_layers": 6, "patch_size": 8}
_RATIO = {**_ENCODER, "mlp_ratio": 4}
_REGISTERS = {**_ENCODER, "num_register_tokens": 4}


@pytest.mark.parametrize(
    ("model_type", "encoder"),
    [
        ("deit", _ENCODER),
        ("dinov2", _RATIO),
        ("dinov2", {**_RATIO, "use_swiglu_ffn": True}),
        ("dinov2_with_registers", _RATIO),
        ("dinov3_vit", _REGISTERS),
        ("dinov3_vit", {**_REGISTERS, "use_gated_mlp": True, "hidden_act": "silu"}),
        ("siglip", _ENCODER),
        ("clip", _ENCODER),
    ],
    ids=[
        *("deit", "dinov2", "dinov2 gated", "registers", "dinov3", "dinov3 gated"),
        *("siglip", "clip"),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_plain_family(
    model_type: str, encoder: dict[str, Any], precision: str, tmp_path: Path
) -> None:
    replace(TINY[model_type], encoder=encoder, labels=LABELS).save(tmp_path)
    plan = planned(str(tmp_path), plugin="zero1", precision=precision, freeze="none")
    predicted = activation_bytes(plan, outline(plan, len(LABELS))).kept
    assert predicted == pytest.approx(kept_bytes(plan), rel=WITHIN_FAMILIES)
