"""The training loop, and what it reports and saves on the way."""

from __future__ import annotations

import logging
import math
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from tqdm import tqdm

from vit_colossal.checkpoints.resume import identity, layout
from vit_colossal.checkpoints.writer import Checkpointer, checkpoint_bytes
from vit_colossal.errors import UserError
from vit_colossal.evaluation.exact import Evaluation
from vit_colossal.rundir.metrics import Reporter, peak_memory_bytes
from vit_colossal.training.step import StepOutput, train_step
from vit_colossal.training.stop import Consensus, LossWatch, StopRequest, Watchdog

if TYPE_CHECKING:
    from vit_colossal.training.job import Trainer

logger = logging.getLogger("vit_colossal")


class TrainingFailed(UserError):
    """The run cannot go on."""


class Loop:
    """Where a run is: steps taken, last evaluation, best accuracy."""

    def __init__(self, trainer: Trainer, reporter: Reporter, run_dir: Path) -> None:
        self.trainer, self.reporter = trainer, reporter
        self.config = trainer.plan.config
        plan, data = trainer.plan, trainer.data
        self.checkpoints = Checkpointer(trainer.engine, run_dir, identity(plan, data), layout(plan))
        self.meter = Meter(trainer, reporter)
        self.watch = LossWatch(trainer.engine.device)
        self.watchdog = Watchdog(self.config.timeout)
        self.consensus = Consensus()
        self.step = 0
        self.evaluated_step = 0
        self.best = -1.0
        self.without_gain = 0
        self.evaluation: Evaluation | None = None

    def resume(self) -> None:
        """Continue from the plan's checkpoint, if it has one."""
        checkpoint = self.trainer.plan.checkpoint
        if checkpoint is not None:
            progress = self.checkpoints.resume(checkpoint)
            self.step = checkpoint.step
            self.evaluated_step = int(progress["evaluated_step"])
            self.best = float(progress["best"])
            self.without_gain = int(progress.get("without_gain", 0))

    def run(self, stop: StopRequest) -> int:
        """Train to the end; returns the signal that ended it before, or 0.

        Raises:
            TrainingFailed: the loss was not finite for too many steps.
            CheckpointError: a checkpoint could not be written.
        """
        trainer = self.trainer
        per_epoch = trainer.steps_per_epoch
        while self.step < trainer.total_steps:
            if self._evaluation_due():
                self._evaluate()
            if self.without_gain >= (self.config.early_stopping_patience or math.inf):
                self._return_to_best()
                break
            epoch, first = divmod(self.step, per_epoch)
            length = min(per_epoch, trainer.total_steps - epoch * per_epoch)
            self.reporter.start_epoch(epoch, trainer.epochs, length, first)
            for batches in trainer.train_batches.batches(epoch, first):
                self.step += 1
                output = train_step(trainer.engine, batches)
                self.watch.update(output.loss)
                if self.meter.update(self.step, output):
                    self.watch.look()
                number, streak = self.consensus.exchange(stop.number, self.watch.streak)
                if streak >= self.config.max_bad_steps:
                    self._give_up(streak)
                if number:
                    return self._leave(number, streak)
                if self.step == trainer.total_steps:
                    break
                if self._save_due() and self.step % per_epoch:
                    self._save()
        if self._evaluation_due():
            self._evaluate()
        self._finish_saving()
        return 0

    def _evaluation_due(self) -> bool:
        at_end = self.step == self.trainer.total_steps
        boundary = self.step > 0 and self.step % self.trainer.steps_per_epoch == 0
        return (boundary or at_end) and self.evaluated_step < self.step

    def _evaluate(self) -> None:
        """Evaluate at the end of an epoch, and save."""
        last = self.step == self.trainer.total_steps
        self.evaluation = self.trainer.evaluate(predictions=last)
        self.evaluated_step = self.step
        self.meter.evaluated(self.step, self.evaluation)
        better = self.evaluation.accuracy > self.best
        self.without_gain = 0 if better else self.without_gain + 1
        self.best = max(self.best, self.evaluation.accuracy)
        asked = self._save_due() or self.config.save_every is None
        if self.config.save_every != 0 and (asked or (better and self.config.keep_best)):
            self._save(best=better)

    def _return_to_best(self) -> None:
        """End early, with the weights of the best evaluation where they were kept."""
        if self.trainer.engine.is_lead:
            logger.info(
                "stopped early after step %d: the best accuracy, %.4f, is %d evaluations old",
                self.step,
                self.best,
                self.without_gain,
            )
        self._finish_saving()
        with self._patience():
            self.checkpoints.return_to_best()
        self.evaluation = self.trainer.evaluate(predictions=True)
        self.meter.evaluated(self.step, self.evaluation)

    def _save_due(self) -> bool:
        return bool(self.config.save_every) and self.step % (self.config.save_every or 1) == 0

    def _save(self, *, best: bool = False) -> None:
        """Save, unless the weights may be spoiled by a loss that is not finite."""
        streak = torch.tensor(self.watch.look(), device=self.trainer.engine.device)
        dist.all_reduce(streak, op=dist.ReduceOp.MAX)
        if not int(streak):
            progress: dict[str, Any] = {
                "evaluated_step": self.evaluated_step,
                "best": self.best,
                "without_gain": self.without_gain,
            }
            with self._patience():
                self.checkpoints.save(self.step, progress, best=best)

    def _finish_saving(self) -> None:
        with self._patience():
            self.checkpoints.finish()

    def _patience(self) -> AbstractContextManager[None]:
        return self.watchdog.patient(checkpoint_bytes(self.trainer.num_parameters))

    def _leave(self, number: int, streak: int) -> int:
        if self.config.save_every != 0 and not streak:
            self._save()
        self._finish_saving()
        if self.trainer.engine.is_lead:
            logger.info(
                "stopped by signal %d after step %d; %s",
                number,
                self.step,
                self.checkpoints.last_good(),
            )
        return number

    def _give_up(self, streak: int) -> None:
        self._finish_saving()
        # The answer of a step comes one step later, hence the + 1.
        first = self.step - streak
        raise TrainingFailed(
            f"the loss is not finite since step {max(first, 1)}: stopped after {streak} such steps "
            f"(--max-bad-steps); {self.checkpoints.last_good()}. Try a lower --lr or "
            "--clip-grad-norm 1"
        )


class Meter:
    """Losses between two log lines, kept on the device; the host waits only when it logs."""

    def __init__(self, trainer: Trainer, reporter: Reporter) -> None:
        self.trainer, self.reporter = trainer, reporter
        self.loss_sum: torch.Tensor | None = None
        self.grad_norm: torch.Tensor | float | None = None
        self.lr = 0.0
        self.steps = 0
        self.since = time.monotonic()
        self.last_accuracy = ""

    def update(self, step: int, output: StepOutput) -> bool:
        """Take one step's loss; log when it is time, and say so. All ranks call this alike."""
        if output.loss is not None:
            self.loss_sum = output.loss if self.loss_sum is None else self.loss_sum + output.loss
        self.grad_norm, self.lr = output.grad_norm, output.lr
        self.steps += 1
        trainer = self.trainer
        if step % trainer.plan.config.log_every == 0 or step == trainer.total_steps:
            self._log(step)
            return True
        self.reporter.progress(1)
        return False

    def _log(self, step: int) -> None:
        trainer, engine = self.trainer, self.trainer.engine
        memory = torch.tensor(float(peak_memory_bytes(engine.device)), device=engine.device)
        dist.all_reduce(memory, op=dist.ReduceOp.MAX)
        loss = 0.0
        if engine.last_stage and self.loss_sum is not None:
            mean = self.loss_sum / (self.steps * engine.dims.dp)
            dist.all_reduce(mean, group=engine.dp_group)
            loss = mean.item()
        seconds = (time.monotonic() - self.since) / self.steps
        values = {
            "loss": loss,
            "lr": self.lr,
            "images_per_second": trainer.plan.batches.global_batch / seconds,
            "peak_memory_mib": memory.item() / 2**20,
        }
        epoch = step / trainer.steps_per_epoch
        norm = {} if self.grad_norm is None else {"grad_norm": float(self.grad_norm)}
        self.reporter.event("train", step, epoch, **values, **norm)
        self._show(step, epoch, values, seconds * (trainer.total_steps - step))
        self.loss_sum, self.steps, self.since = None, 0, time.monotonic()

    def _show(self, step: int, epoch: float, values: dict[str, float], left_s: float) -> None:
        """One line, or the bar's words; ``left_s`` is what the steps to come will take."""
        trainer = self.trainer
        left, speed = tqdm.format_interval(left_s), values["images_per_second"]
        accuracy = f"acc {self.last_accuracy}, " if self.last_accuracy else ""
        # What a narrow terminal cuts off at the end should not be a number.
        self.reporter.progress(
            1,
            f"loss {values['loss']:.4f}, {accuracy}lr {values['lr']:.1e}, left {left}, "
            f"{speed:.0f} img/s",
        )
        if trainer.engine.is_lead and not self.reporter.shows_steps:
            logger.info(
                "step %d/%d  epoch %.2f  loss %.4f  lr %.2e  %.0f images/s  peak %.0f MiB%s  "
                "left %s",
                step,
                trainer.total_steps,
                epoch,
                *values.values(),
                f"  accuracy {self.last_accuracy}" if self.last_accuracy else "",
                left,
            )

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        """Report an evaluation; its time does not count as training."""
        trainer = self.trainer
        epoch = step / trainer.steps_per_epoch
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
        if trainer.engine.is_lead:
            logger.info(
                "evaluation after epoch %.2f: loss %.4f  %s", epoch, evaluation.loss, evaluation
            )
        self.since = time.monotonic()
