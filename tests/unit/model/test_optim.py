"""Why AdamW's fused kernel is left off on the CPU, held by measuring it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from vit_colossal.config.train_config import TrainConfig
from vit_colossal.model.fused_adamw import FusedAdamW, Place
from vit_colossal.model.optim import build_optimizer

STEPS = 20


def _second_moments(pieces: Sequence[int], *, fused: bool) -> torch.Tensor:
    """Train one vector that lies in pieces of these lengths, as ZeRO's shards do."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(sum(pieces), generator=generator)
    gradients = torch.randn(STEPS, sum(pieces), generator=generator)
    params = [torch.nn.Parameter(part.clone()) for part in weights.split(list(pieces))]
    optimizer = torch.optim.AdamW(params, lr=1e-3, fused=fused, foreach=not fused)
    for gradient in gradients:
        for param, part in zip(params, gradient.split(list(pieces)), strict=True):
            param.grad = part.clone()
        optimizer.step()
    return torch.cat([optimizer.state[param]["exp_avg_sq"] for param in params])


@pytest.mark.parametrize("pieces", [(500, 500), (334, 334, 332), (250, 250, 250, 250)])
def test_shards_get_the_bits_of_the_whole(pieces: tuple[int, ...]) -> None:
    """What every plugin's equality with the plain loop rests on."""
    whole = _second_moments([sum(pieces)], fused=False)
    assert torch.equal(_second_moments(pieces, fused=False), whole)


@pytest.mark.parametrize("pieces", [(500, 500), (334, 334, 332), (250, 250, 250, 250)])
def test_shards_under_sgd_get_the_bits_of_the_whole(pieces: tuple[int, ...]) -> None:
    config = TrainConfig(lr=1e-2, optimizer="sgd")
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(1000, generator=generator)
    gradients = torch.randn(STEPS, 1000, generator=generator)

    def trained(lengths: Sequence[int]) -> torch.Tensor:
        params = [torch.nn.Parameter(part.clone()) for part in weights.split(list(lengths))]
        groups = [{"params": params, "lr": 1e-2, "weight_decay": 0.1}]
        optimizer = build_optimizer(groups, config, "cpu")
        for gradient in gradients:
            for param, part in zip(params, gradient.split(list(lengths)), strict=True):
                param.grad = part.clone()
            optimizer.step()
        return torch.cat([param.detach() for param in params])

    whole = trained([1000])
    assert not whole.equal(weights)
    assert trained(pieces).equal(whole)


def test_the_fused_kernel_s_bits_depend_on_the_shards() -> None:
    """Should this fail, the fused kernel has become fit for use here: see build_optimizer."""
    whole = _second_moments([1000], fused=True)
    assert not all(
        torch.equal(_second_moments(pieces, fused=True), whole)
        for pieces in ((500, 500), (334, 334, 332), (250, 250, 250, 250))
    )


@pytest.mark.parametrize("count", [10, 31, 500, 1000, 1003])
@pytest.mark.parametrize("shards", [1, 2, 3, 5])
def test_pieces_that_know_their_place_get_the_bits_of_the_whole(count: int, shards: int) -> None:
    """Weights and moments alike; the last shards are padded, as ZeRO's are."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(count, generator=generator)
    gradients = torch.randn(STEPS, count, generator=generator)
    length = -(-count // shards)

    def padded(values: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.cat([values, torch.zeros(shards * length - count)]).split(length))

    whole = torch.nn.Parameter(weights.clone())
    plain = torch.optim.AdamW([whole], lr=1e-3, weight_decay=0.1, fused=True)
    pieces = [torch.nn.Parameter(piece.clone()) for piece in padded(weights)]
    groups = [{"params": pieces, "lr": 1e-3, "weight_decay": 0.1}]
    ours = FusedAdamW(groups, betas=(0.9, 0.999), eps=1e-8)
    ours.places = {id(p): Place(i * length, count) for i, p in enumerate(pieces)}
    for gradient in gradients:
        whole.grad = gradient.clone()
        for piece, part in zip(pieces, padded(gradient), strict=True):
            piece.grad = part.clone()
        plain.step()
        ours.step()
    assert torch.equal(torch.cat([p.detach() for p in pieces])[:count], whole.detach())
    for moment in ("exp_avg", "exp_avg_sq"):
        found = torch.cat([ours.state[p][moment] for p in pieces])
        assert torch.equal(found[:count], plain.state[whole][moment])
