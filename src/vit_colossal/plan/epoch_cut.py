"""How an epoch is cut into optimizer steps: by global batches, or as transformers' Trainer does.

How a batch is cut over replicas and micro-batches stands in `plan.parallel_dims`, which rows a
replica gets in `data.loaders`.
"""

from __future__ import annotations

from dataclasses import dataclass

from vit_colossal.config.train_config import TrainConfig
from vit_colossal.text import counted


@dataclass(frozen=True)
class EpochCut:
    """The sizes of an epoch's steps: all alike, but for the last.

    A slice is one forward pass of all replicas; a step takes several of them.

    Attributes:
        slice_size: samples of a slice, over all replicas.
        accumulation: slices of a step.
        keeps_last: whether the samples that are left at the end of an epoch make a step, a smaller
            one; otherwise they sit out.
    """

    slice_size: int
    accumulation: int = 1
    keeps_last: bool = False

    @property
    def global_batch(self) -> int:
        """Samples of a whole step."""
        return self.slice_size * self.accumulation

    def samples(self, num_samples: int) -> int:
        """How many samples an epoch trains on, of a split of ``num_samples``."""
        left = 0 if self.keeps_last else num_samples % self.global_batch
        return num_samples - left

    def steps_per_epoch(self, num_samples: int) -> int:
        """Optimizer steps in one epoch."""
        return -(-self.samples(num_samples) // self.global_batch)

    def last_step(self, num_samples: int) -> int:
        """Samples in the last step of an epoch."""
        before = (self.steps_per_epoch(num_samples) - 1) * self.global_batch
        return self.samples(num_samples) - before

    def trained(self, num_samples: int, steps: int) -> int:
        """Samples in the first ``steps`` steps of a run, over its epochs."""
        epochs, rest = divmod(steps, self.steps_per_epoch(num_samples))
        return epochs * self.samples(num_samples) + rest * self.global_batch


@dataclass(frozen=True)
class TrainerCut(EpochCut):
    """The sizes of the Trainer run that ``--order transformers`` imitates.

    Attributes:
        processes: of that run.
    """

    processes: int = 1

    def samples(self, num_samples: int) -> int:
        """With those that come for the second time."""
        return num_samples + self.repeated(num_samples)

    def repeated(self, num_samples: int) -> int:
        """Samples that an epoch sees twice: several processes need slices of one size."""
        return -num_samples % self.slice_size if self.processes > 1 else 0

    def __str__(self) -> str:
        """With the names of ``TrainingArguments``."""
        return (
            f"{counted(self.processes, 'process', 'processes')}, per_device_train_batch_size "
            f"{self.slice_size // self.processes}, gradient_accumulation_steps {self.accumulation}"
        )


def epoch_cut(config: TrainConfig) -> EpochCut:
    """How a resolved configuration cuts its epochs; a :class:`TrainerCut` with ``--order``."""
    slice_size = (config.global_batch_size or 1) // config.grad_accumulation
    if config.order is not None and config.order_processes is not None:
        processes = config.order_processes
        return TrainerCut(slice_size, config.grad_accumulation, True, processes)
    return EpochCut(slice_size, config.grad_accumulation, config.last_batch == "train")


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
    if config.last_batch == "drop":
        problems.append(
            "--last-batch drop: Trainer trains on the last batch: use train, or drop --order"
        )
    return problems
