"""What each step of a loop told, kept for a comparison."""

from __future__ import annotations

import torch

from vit_colossal.strategies.engine import Engine
from vit_colossal.training.loop import Recorder
from vit_colossal.training.meter import replica_means
from vit_colossal.training.step import StepOutput


class StepRecorder(Recorder):
    """Keeps every step's loss, gradient norm (None where none is known) and learning rate."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.losses: list[torch.Tensor] = []
        self.grad_norms: list[float | None] = []
        self.lrs: list[float] = []

    def after(self, output: StepOutput) -> None:
        if output.loss is not None:
            self.losses.append(output.loss)
        norm = output.grad_norm
        self.grad_norms.append(None if norm is None else float(norm))
        self.lrs.append(output.lr)

    def mean_losses(self) -> list[float]:
        """The global batches' losses; all ranks call it."""
        return replica_means(self.engine, self.losses)
