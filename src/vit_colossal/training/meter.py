"""The loss, speed and memory that a run logs, and the mean of the replicas' losses."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from tqdm import tqdm

from vit_colossal.evaluation.exact import Evaluation
from vit_colossal.rundir.metrics import Reporter, peak_memory_bytes
from vit_colossal.strategies.engine import Engine
from vit_colossal.training.job import Job
from vit_colossal.training.step import StepOutput

logger = logging.getLogger("vit_colossal")


class Meter:
    """Losses between two log lines, kept on the device; the host waits only when it logs."""

    def __init__(self, job: Job, reporter: Reporter) -> None:
        self.job, self.reporter = job, reporter
        self.log_every = min(job.plan.config.log_every, job.steps_per_epoch)
        self.loss_sum: torch.Tensor | None = None
        self.grad_norm: torch.Tensor | float | None = None
        self.lr = 0.0
        self.steps = 0
        self.last_accuracy = ""
        self.begin()

    def begin(self) -> None:
        """Training begins; computing features, or reading a checkpoint, came before."""
        self.since = time.monotonic()

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """What is done meanwhile is no training, and does not count in its speed."""
        start = time.monotonic()
        yield
        self.since += time.monotonic() - start

    def update(self, step: int, output: StepOutput) -> bool:
        """Take one step's loss; log when it is time, and say so. All ranks call this alike."""
        if output.loss is not None:
            self.loss_sum = output.loss if self.loss_sum is None else self.loss_sum + output.loss
        self.grad_norm, self.lr = output.grad_norm, output.lr
        self.steps += 1
        job = self.job
        if step % self.log_every == 0 or step == job.total_steps:
            self._log(step)
            return True
        self.reporter.progress(1)
        return False

    def _log(self, step: int) -> None:
        job, engine = self.job, self.job.engine
        memory = torch.tensor(float(peak_memory_bytes(engine.device)), device=engine.device)
        dist.all_reduce(memory, op=dist.ReduceOp.MAX)
        mean = torch.zeros((), device=engine.device)
        if engine.last_stage and self.loss_sum is not None:
            mean = self.loss_sum / (self.steps * engine.dims.dp)
            dist.all_reduce(mean, group=engine.dp_group)
        if engine.pipelined:
            dist.broadcast(mean, src=engine.dims.loss_rank)
        seconds = (time.monotonic() - self.since) / self.steps
        values = {
            "loss": mean.item(),
            "lr": self.lr,
            "images_per_second": self._images(step) / (seconds * self.steps),
            "peak_memory_mib": memory.item() / 2**20,
        }
        epoch = step / job.steps_per_epoch
        norm = {} if self.grad_norm is None else {"grad_norm": float(self.grad_norm)}
        self.reporter.event("train", step, epoch, **values, **norm)
        self._show(step, epoch, values, seconds * (job.total_steps - step))
        self.loss_sum, self.steps, self.since = None, 0, time.monotonic()

    def _images(self, step: int) -> int:
        """Trained on since the last line."""
        cut, count = self.job.train_batches.cut, len(self.job.data.train)
        return cut.trained(count, step) - cut.trained(count, step - self.steps)

    def _show(self, step: int, epoch: float, values: dict[str, float], left_s: float) -> None:
        """One line, or the bar's words; ``left_s`` is what the steps to come will take."""
        job = self.job
        left, speed = tqdm.format_interval(left_s), values["images_per_second"]
        accuracy = f"acc {self.last_accuracy}, " if self.last_accuracy else ""
        # What a narrow terminal cuts off at the end should not be a number.
        self.reporter.progress(
            1,
            f"loss {values['loss']:.4f}, {accuracy}lr {values['lr']:.1e}, left {left}, "
            f"{speed:.0f} img/s",
        )
        if job.engine.is_lead and not self.reporter.shows_steps:
            logger.info(
                "step %d/%d  epoch %.2f  loss %.4f  lr %.2e  %.0f images/s  peak %.0f MiB%s  "
                "left %s",
                step,
                job.total_steps,
                epoch,
                *values.values(),
                f"  accuracy {self.last_accuracy}" if self.last_accuracy else "",
                left,
            )

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        """Report an evaluation."""
        job = self.job
        epoch = step / job.steps_per_epoch
        self.last_accuracy = f"{evaluation.accuracy:.4f}"
        self.reporter.event(
            "eval",
            step,
            epoch,
            loss=evaluation.loss,
            accuracy=evaluation.accuracy,
            correct=evaluation.correct,
            total=evaluation.total,
            correct_top5=evaluation.correct_top5,
            macro_f1=evaluation.macro_f1,
        )
        if job.engine.is_lead:
            logger.info(
                "evaluation after epoch %.2f: loss %.4f  %s", epoch, evaluation.loss, evaluation
            )


def replica_means(engine: Engine, losses: list[torch.Tensor]) -> list[float]:
    """Means of this replica's and its peers' losses, in double precision, in order of rank.

    Args:
        engine: every rank has to call this.
        losses: of n steps, fp32 scalars; empty on the stages that see none.

    Returns:
        The n means, on every rank.
    """
    means: list[Any] = [[]]
    if losses:
        mine = torch.stack(losses).float()
        every = [torch.empty_like(mine) for _ in range(engine.dims.dp)]
        dist.all_gather(every, mine, group=engine.dp_group)
        means = [(torch.stack(every).double().sum(0) / len(every)).tolist()]
    if engine.pipelined:
        dist.broadcast_object_list(means, src=engine.dims.loss_rank)
    found: list[float] = means[0]
    return found
