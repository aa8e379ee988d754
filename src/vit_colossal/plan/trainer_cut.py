"""How transformers' Trainer cuts an epoch into updates, for ``--order transformers``."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vit_colossal.config.train_config import TrainConfig


@dataclass(frozen=True)
class TrainerCut:
    """The sizes of the Trainer run that is imitated.

    A slice is one forward pass of every process of that run; an update takes several of them.

    Attributes:
        processes: of that run.
        slice_size: samples of a slice, over all of its processes.
        accumulation: slices of an update; the last one of an epoch takes what is left.
    """

    processes: int
    slice_size: int
    accumulation: int

    def steps_per_epoch(self, num_samples: int) -> int:
        """Updates in one epoch: slices and updates are both rounded up."""
        return math.ceil(math.ceil(num_samples / self.slice_size) / self.accumulation)

    def last_step(self, num_samples: int) -> int:
        """Samples in the last update of an epoch, repeated ones included."""
        before = (self.steps_per_epoch(num_samples) - 1) * self.slice_size * self.accumulation
        return num_samples - before + self.repeated(num_samples)

    def repeated(self, num_samples: int) -> int:
        """Samples that an epoch sees twice: several processes need slices of one size."""
        return -num_samples % self.slice_size if self.processes > 1 else 0

    def __str__(self) -> str:
        """With the names of ``TrainingArguments``."""
        return (
            f"{self.processes} processes, per_device_train_batch_size "
            f"{self.slice_size // self.processes}, gradient_accumulation_steps {self.accumulation}"
        )


def trainer_cut(config: TrainConfig) -> TrainerCut | None:
    """The run that a resolved configuration imitates; None in our own order."""
    if config.order is None or config.order_processes is None:
        return None
    slice_size = (config.global_batch_size or 0) // config.grad_accumulation
    return TrainerCut(config.order_processes, slice_size, config.grad_accumulation)


def order_problems(config: TrainConfig) -> list[str]:
    """What an imitated Trainer run cannot have; of a configuration whose global batch is known."""
    processes = config.order_processes
    if config.order is None:
        if processes is None:
            return []
        return [f"--order-processes {processes} has no effect without --order transformers: add it"]
    if processes is None:
        return [
            "--order transformers needs --order-processes, the number of processes of the Trainer "
            "run: its batches depend on it"
        ]
    problems = []
    divisor, batch = processes * config.grad_accumulation, config.global_batch_size
    if batch and batch % divisor:
        problems.append(
            f"--global-batch-size {batch} is not divisible by --order-processes {processes} x "
            f"--grad-accumulation {config.grad_accumulation}: give the Trainer run's "
            "per_device_train_batch_size x processes x gradient_accumulation_steps"
        )
    for name in ("mixup", "cutmix"):
        if getattr(config, name):
            problems.append(f"--{name} is nothing that Trainer does: drop it or --order")
    return problems
