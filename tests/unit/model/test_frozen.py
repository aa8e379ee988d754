"""A model in two parts computes what the whole does, in every family."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from families import SIDE, TINY
from vit_colossal import TrainConfig
from vit_colossal.families.table import FAMILIES
from vit_colossal.model.build import build_model
from vit_colossal.model.frozen import frozen_part, random_rates
from vit_colossal.model.optim import freeze
from vit_colossal.plan.model_spec import read_spec

HEADS = [(name, None) for name in TINY]
LAYERS = [
    (name, count) for name in TINY if FAMILIES[TINY[name].model_type].encoder for count in (1, 3)
]


def trained(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """The logits, and the gradients of what is trained, by name."""
    logits = model(pixel_values=pixels).logits
    logits.square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert all(gradient is not None for gradient in gradients.values())
    return {"logits": logits, **gradients}  # type: ignore[dict-item]


@pytest.mark.parametrize(("name", "layers"), [*HEADS, *LAYERS])
def test_the_parts_compute_what_the_whole_does(
    name: str, layers: int | None, tmp_path: Path
) -> None:
    TINY[name].save(tmp_path)
    spec = read_spec(str(tmp_path), {})
    frozen = {"freeze": "backbone"} if layers is None else {"freeze_layers": layers}
    model = build_model(spec, TINY[name].labels, 0).eval()
    freeze(model, spec, TrainConfig.model_validate(frozen))
    part = frozen_part(model, spec)
    # Behind a CLIP's last layer nothing but the head is trained.
    assert part.whole == (layers is None or (name == "clip" and layers == 3))
    assert part.layers == (layers or spec.shape.num_layers)
    pixels = torch.randn(3, 3, SIDE, SIDE)
    whole = copy.deepcopy(model)
    with part.watched(model) as seen, torch.no_grad():
        model(pixel_values=pixels)
    [features] = seen
    assert features.shape[1:].numel() == part.values
    model.forward = part.rest_of(model)
    expected, found = trained(whole, pixels), trained(model, features)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.parametrize(
    ("name", "key"), [("vit", "attention_probs_dropout_prob"), ("clip", "attention_dropout")]
)
def test_rates_of_what_is_dropped_are_found_where_the_encoder_has_them(
    name: str, key: str, tmp_path: Path
) -> None:
    tiny = replace(TINY[name], encoder={**TINY[name].encoder, key: 0.2})
    tiny.save(tmp_path)
    spec = read_spec(str(tmp_path), {})
    assert random_rates(build_model(spec, tiny.labels, 0), spec) == {key: 0.2}
