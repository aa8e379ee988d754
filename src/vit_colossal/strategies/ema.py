"""An exponential moving average of the weights, kept in the pieces in which a strategy holds them.

Each rank averages the pieces of the fp32 weights that it updates, so the average costs four bytes
for each of those and no communication. To be used, it changes places with the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vit_colossal.model.optim import ema_decay
from vit_colossal.strategies.engine import Engine
from vit_colossal.strategies.parts import Part


class Ema:
    """The average of one rank's pieces; starts from the initial weights.

    Attributes:
        values: fp32, by parameter name, shaped like the ``master`` of this rank's part.
    """

    def __init__(self, engine: Engine, decay: float) -> None:
        self.engine, self.decay = engine, decay
        self.values = {part.name: part.master.detach().clone() for part in self._parts()}

    def update(self, step: int) -> None:
        """Move the average towards the weights after ``step`` steps."""
        parts = self._parts()
        values = [self.values[part.name] for part in parts]
        # Gemini may have moved its weights to another device since.
        pairs = zip(parts, values, strict=True)
        weights = [part.master.detach().to(value.device) for part, value in pairs]
        if values:  # a pipeline stage may have frozen layers only
            torch._foreach_lerp_(values, weights, 1 - ema_decay(self.decay, step))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Compute with the average for a while; every rank has to call this.

        An error inside ends the run, so nothing is put back then: the peers may be gone.
        """
        self._exchange()
        yield
        self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for part in self._parts():
            value = self.values[part.name]
            weights = part.master.clone()
            part.master.copy_(value)
            value.copy_(weights)
        self.engine.strategy.refresh(self.engine)

    def _parts(self) -> list[Part]:
        return [part for part in self.engine.parts if not part.frozen]
