"""The clipping norm from whole tensors, wherever they lie, has PyTorch's bits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.utils import clip_grad_norm_

from vit_colossal.runtime.clipping import norm_of, total_norm, total_norm_of_stages

SIZES = [(48, 36), (36,), (36, 3, 4, 4), (1, 17, 36), (36,), (108, 36), (11, 36), (11,)]


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[dist.ProcessGroup]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


def gradients(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator) for size in SIZES]


def pytorchs(tensors: list[torch.Tensor]) -> torch.Tensor:
    parameters = [torch.nn.Parameter(torch.zeros_like(tensor)) for tensor in tensors]
    for parameter, tensor in zip(parameters, tensors, strict=True):
        parameter.grad = tensor.clone()
    return clip_grad_norm_(parameters, 1.0)


def test_flat_copies_have_the_same_norm() -> None:
    for seed in range(20):
        tensors = gradients(seed)
        padded = [torch.cat([t.flatten(), torch.zeros(5)])[: t.numel()] for t in tensors]
        assert total_norm([norm_of(tensor) for tensor in padded]) == pytorchs(tensors)


def test_parameters_without_a_gradient_are_left_out(alone: dist.ProcessGroup) -> None:
    names = [str(number) for number in range(2 * len(SIZES))]
    for seed in range(20):
        tensors = gradients(seed)
        named = dict(zip(names[1::2], tensors, strict=True))
        backwards = dict(reversed(named.items()))
        assert total_norm_of_stages(backwards, names, alone) == pytorchs(tensors)


def test_a_norm_that_is_not_finite_is_not_lost(alone: dist.ProcessGroup) -> None:
    named = {"a": torch.tensor([1.0]), "b": torch.tensor([float("nan")])}
    assert total_norm_of_stages(named, ["a", "b"], alone).isnan()
