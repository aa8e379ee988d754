"""Residual paths that are dropped at random, for the same samples under every layout.

transformers draws them from the process's own generator, so that it depends on the layout which
samples they hit. Here they are drawn from (seed, step) for the whole global batch, and each process
takes the numbers of its rows: Huang et al. 2016, "Deep Networks with Stochastic Depth",
arXiv:1603.09382.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from vit_colossal.data.transforms import seeded, stable_seed
from vit_colossal.model.build import blocks
from vit_colossal.plan.model_spec import ModelSpec

#: Residual paths of one block: around attention and MLP.
_PATHS = 2


class Drops:
    """A number from 0 to 1 for each path and each sample of a step's global batch.

    Attributes:
        active: whether the model drops any.
        current: fp32 [paths, b], of the rows that are computed now.
    """

    def __init__(self, seed: int, paths: int, global_batch: int, device: torch.device) -> None:
        self.seed, self.paths, self.global_batch = seed, paths, global_batch
        self.device, self.active = device, False
        self.current = torch.ones(paths, 0)
        self._taken = [0] * paths
        self._parts: list[torch.Tensor] = []
        self._next = 0

    def begin(self, step: int, parts: Iterable[torch.Tensor]) -> None:
        """Draw those of a step.

        Args:
            step: optimizer steps that are done.
            parts: of each forward pass, in their order, the places in the global batch of the
                samples that this process computes, int64 [b].
        """
        if not self.active:
            return
        with seeded(stable_seed("drop path", self.seed, step)):
            numbers = torch.rand(self.paths, self.global_batch)
        self._parts = [numbers[:, rows].to(self.device) for rows in parts]
        self._next = 0

    def advance(self) -> None:
        """Go on to the rows of the next forward pass."""
        self.current = self._parts[self._next % len(self._parts)]
        self._taken = [0] * self.paths
        self._next += 1

    def take(self, first: int) -> torch.Tensor:
        """The numbers [b] of a block's next path.

        Args:
            first: the number of its first path in the model.
        """
        self._taken[first] += 1
        return self.current[first + self._taken[first] - 1]

    def again(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        """For ``torch.utils.checkpoint``: what is computed again has the numbers that it had.

        It begins with the first path of a block; transformers runs no hooks there.
        """
        return nullcontext(), self._with(self.current)

    @contextmanager
    def _with(self, numbers: torch.Tensor) -> Iterator[None]:
        before = self.current, self._taken
        self.current, self._taken = numbers, [0] * self.paths
        try:
            yield
        finally:  # it is left by an exception once all is there that the backward pass needs
            self.current, self._taken = before


class DroppedPath(torch.nn.Module):
    """Takes the place of a block's drop path; called once or twice in a forward pass.

    Attributes:
        rate: share of the samples whose path is dropped.
        first: the number in the model of the block's first path.
    """

    def __init__(self, rate: float, first: int, drops: Drops) -> None:
        super().__init__()
        self.rate, self.first, self.drops = rate, first, drops

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return hidden_states
        keep = 1.0 - self.rate
        kept = (self.drops.take(self.first) + keep).floor().to(hidden_states.dtype)
        return hidden_states.div(keep) * kept.view(-1, *[1] * (hidden_states.ndim - 1))


def take_over(
    model: torch.nn.Module, spec: ModelSpec, seed: int, global_batch: int, device: torch.device
) -> Drops:
    """Put drawn paths in the place of a plain model's own; before boosting.

    Args:
        model: the model.
        spec: what it is.
        seed: of the run.
        global_batch: samples of a step.
        device: where this process computes.

    Returns:
        What is drawn.
    """
    held = blocks(model, spec)
    drops = Drops(seed, _PATHS * len(held), global_batch, device)
    for index, block in enumerate(held):
        for name, child in list(block.named_children()):
            if type(child).__name__.endswith("DropPath"):
                rate: Any = child.drop_prob
                path = DroppedPath(rate, _PATHS * index, drops)
                setattr(block, name, path.train(child.training))
                drops.active = True
    if drops.active:
        model.register_forward_pre_hook(lambda each, _: drops.advance() if each.training else None)
    return drops
