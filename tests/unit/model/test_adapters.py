"""Where adapters stand, what they are merged into, and what stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from families import LABELS, TINY
from vit_colossal import TrainConfig
from vit_colossal.families.names import named_weights
from vit_colossal.model.adapters import adapt, merged
from vit_colossal.model.build import blocks, build_model
from vit_colossal.model.optim import freeze
from vit_colossal.plan.model_spec import read_spec


@pytest.mark.parametrize("name", TINY)
def test_every_linear_layer_of_a_block_is_adapted_and_nothing_else(
    name: str, tmp_path: Path
) -> None:
    TINY[name].save(tmp_path)
    spec, config = read_spec(str(tmp_path), {}), TrainConfig(lora_rank=2, lora_alpha=6)
    model = build_model(spec, LABELS, 7)
    # Swin v2's position biases are computed of distances, not of the images.
    linear = {
        module
        for block in blocks(model, spec)
        for name, module in block.named_modules()
        if isinstance(module, torch.nn.Linear) and "position_bias" not in name
    }
    state = torch.get_rng_state()
    adapt(model, spec, config)
    freeze(model, spec, config)
    assert torch.equal(torch.get_rng_state(), state)
    adapted = [module for module in model.modules() if hasattr(module, "base_layer")]
    assert {module.base_layer for module in adapted} == linear
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * len(linear) + 2
    assert all("lora_" in name or name.startswith("classifier.") for name in trained)


def test_the_merged_model_computes_what_the_adapted_one_does(tmp_path: Path) -> None:
    TINY["vit"].save(tmp_path)
    spec, config = read_spec(str(tmp_path), {}), TrainConfig(lora_rank=2, lora_alpha=6)
    plain, adapted = (build_model(spec, LABELS, 7).eval() for _ in range(2))
    adapt(adapted, spec, config)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = plain(pixels).logits
        assert torch.equal(adapted(pixels).logits, before)  # they begin at zero
        for parameter in (p for n, p in adapted.named_parameters() if "lora_B" in n):
            parameter.add_(0.1)
        expected = adapted(pixels).logits
        weights = merged({n: p.bfloat16() for n, p in named_weights(adapted)}, config.lora_scale)
        assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
        weights = merged(dict(named_weights(adapted)), config.lora_scale)
        assert list(weights) == [name for name, _ in named_weights(plain)]
        for name, parameter in named_weights(plain):
            parameter.copy_(weights[name])
        assert torch.allclose(plain(pixels).logits, expected, atol=1e-5)
    assert not torch.allclose(expected, before, atol=1e-2)
