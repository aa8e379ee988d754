"""Dropped paths are those of (seed, step, place in the global batch), whoever computes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from families import LABELS, SIDE, TINY
from vit_colossal.families.table import FAMILIES
from vit_colossal.model.build import build_model, checkpoint_activations
from vit_colossal.plan.model_spec import read_spec
from vit_colossal.strategies.drop_path import DroppedPath, Drops, take_over

CPU = torch.device("cpu")
DROPPING = [name for name, t in TINY.items() if FAMILIES[t.model_type].drop_path is not None]


def test_numbers_depend_on_seed_step_and_place_alone() -> None:
    whole, half = Drops(1, 4, 8, CPU), Drops(1, 4, 8, CPU)
    whole.active = half.active = True
    places = torch.arange(8)
    whole.begin(3, places[None])
    half.begin(3, places.view(2, 4))
    whole.advance()
    half.advance()
    first = half.current
    half.advance()
    assert torch.equal(whole.current, torch.cat([first, half.current], dim=1))
    before = torch.get_rng_state()
    whole.begin(4, places[None])
    assert torch.equal(torch.get_rng_state(), before)
    other = whole._parts[0]
    assert not torch.equal(other, torch.cat([first, half.current], dim=1))
    assert len(other.unique()) == other.numel()


@pytest.mark.parametrize(
    "name", [n for n in DROPPING if FAMILIES[TINY[n].model_type].checkpoints_layers]
)
def test_what_is_computed_again_drops_the_same(name: str, tmp_path: Path) -> None:
    """Two forward passes before the first backward, as in a pipeline."""
    TINY[name].save(tmp_path)
    spec = replace(read_spec(str(tmp_path), {}), drop_path=0.5)
    pixels, places = torch.randn(8, 3, SIDE, SIDE), torch.arange(8).view(2, 4)
    gradients = []
    for again in (False, True):
        model = build_model(spec, LABELS, 0).train()
        drops = take_over(model, spec, seed=7, global_batch=8, device=CPU)
        if again:
            checkpoint_activations(model, drops.again if drops.active else None)
        drops.begin(0, places)
        outputs = [model(pixel_values=pixels[rows]).logits.square().sum() for rows in places]
        for output in outputs:
            output.backward()
        found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        gradients.append(found)
    for key, gradient in gradients[0].items():
        assert torch.equal(gradients[1][key], gradient), key


@pytest.mark.parametrize("name", DROPPING)
def test_a_model_computes_each_sample_as_in_any_other_batch(name: str, tmp_path: Path) -> None:
    TINY[name].save(tmp_path)
    spec = replace(read_spec(str(tmp_path), {}), drop_path=0.5)
    model = build_model(spec, LABELS, 0).train()
    assert model.config.drop_path_rate == 0.5
    drops = take_over(model, spec, seed=7, global_batch=8, device=CPU)
    assert drops.active
    pixels = torch.randn(8, 3, SIDE, SIDE)
    places = torch.arange(8)

    def outputs(step: int, parts: torch.Tensor) -> torch.Tensor:
        drops.begin(step, parts)
        with torch.no_grad():
            return torch.cat([model(pixel_values=pixels[rows]).logits for rows in parts])

    whole = outputs(0, places[None])
    torch.testing.assert_close(outputs(0, places.view(4, 2)), whole, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(outputs(1, places[None]), whole, rtol=1e-3)
    same = pixels[:1].expand_as(pixels)
    drops.begin(0, places[None])
    with torch.no_grad():
        assert len(model(pixel_values=same).logits[:, 0].unique()) > 1  # by sample, not by batch
    model.eval()
    with torch.no_grad():
        plain = model(pixel_values=pixels).logits
        assert torch.equal(plain, model(pixel_values=pixels).logits)


def test_the_share_that_is_dropped_and_what_the_others_are_scaled_by() -> None:
    drops = Drops(1, 2, 4096, CPU)
    drops.active = True
    path = DroppedPath(0.25, 0, drops)
    drops.begin(0, torch.arange(4096)[None])
    drops.advance()
    first, second = path(torch.ones(4096, 2, 3)), path(torch.ones(4096, 2, 3))
    for found in (first, second):
        assert found.unique().tolist() == [0.0, pytest.approx(4 / 3)]
        assert (found == 0).float().mean() == pytest.approx(0.25, abs=0.02)
    assert not torch.equal(first, second)
