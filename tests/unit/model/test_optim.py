"""Why AdamW's fused kernel is left off on the CPU, held by measuring it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

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


def test_the_fused_kernel_s_bits_depend_on_the_shards() -> None:
    """Should this fail, the fused kernel has become fit for use here: see build_optimizer."""
    whole = _second_moments([1000], fused=True)
    assert not all(
        torch.equal(_second_moments(pieces, fused=True), whole)
        for pieces in ((500, 500), (334, 334, 332), (250, 250, 250, 250))
    )
