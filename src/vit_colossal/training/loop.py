"""The training loop, and what it reports and saves on the way."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

from vit_colossal.checkpoints.writer import Checkpointer, checkpoint_bytes
from vit_colossal.data.samples import Batch
from vit_colossal.errors import UserError
from vit_colossal.evaluation.exact import Evaluation
from vit_colossal.rundir.metrics import Reporter
from vit_colossal.runtime.group import hosts_of_ranks
from vit_colossal.training.job import Job
from vit_colossal.training.meter import Meter
from vit_colossal.training.step import StepOutput, train_step
from vit_colossal.training.stop import Consensus, LossWatch, StopRequest, Watchdog

logger = logging.getLogger("vit_colossal")


class TrainingFailed(UserError):
    """The run cannot go on."""


class Batches(Protocol):
    """Where a loop's batches come from."""

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[list[Batch]]: ...


class Recorder:
    """Looks on while a loop trains; this one does nothing. All ranks have one of the same kind."""

    def before(self, step: int) -> None:
        """Called when ``step`` steps are done and another one follows."""

    def after(self, output: StepOutput) -> None:
        """Called with what a step told."""


class Loop:
    """Where a run is: steps taken, last evaluation, best accuracy."""

    def __init__(
        self,
        job: Job,
        reporter: Reporter,
        checkpoints: Checkpointer,
        *,
        batches: Batches | None = None,
        watch: LossWatch | None = None,
        recorder: Recorder | None = None,
        evaluates: bool = True,
    ) -> None:
        """Prepare to train from the first step.

        Args:
            job: what is trained.
            reporter: where events go.
            checkpoints: where states are saved.
            batches: instead of the job's own.
            watch: of the losses, instead of a plain one.
            recorder: what looks on.
            evaluates: after each epoch and at the end.
        """
        self.job, self.reporter, self.checkpoints = job, reporter, checkpoints
        self.config = job.plan.config
        self._batches = batches
        self.watch = watch or LossWatch(job.engine.device)
        self.recorder = recorder or Recorder()
        self.evaluates = evaluates
        self.meter = Meter(job, reporter)
        self.consensus = Consensus()
        self.step = 0
        self.watchdog = Watchdog(self.config.timeout, hosts_of_ranks(), lambda: self.step)
        self.evaluated_step = 0
        self.best = -1.0
        self.without_gain = 0
        self.evaluation: Evaluation | None = None
        self._returned_to: int | None = None

    @property
    def model_step(self) -> int:
        """The step whose weights the model has, which may be an earlier one in the end."""
        return self.step if self._returned_to is None else self._returned_to

    def resume(self) -> None:
        """Continue from the plan's checkpoint, if it has one."""
        checkpoint = self.job.plan.checkpoint
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
        job = self.job
        per_epoch = job.steps_per_epoch
        self.meter.begin()
        while self.step < job.total_steps:
            if self._evaluation_due():
                self._evaluate()
            if self.without_gain >= (self.config.early_stopping_patience or math.inf):
                self._stop_early()
                break
            epoch, first = divmod(self.step, per_epoch)
            length = min(per_epoch, job.total_steps - epoch * per_epoch)
            self.reporter.start_epoch(epoch, job.epochs, length, first)
            for batches in (self._batches or job.train_batches).batches(epoch, first):
                self.recorder.before(self.step)
                self.step += 1
                output = train_step(job.engine, batches)
                self.recorder.after(output)
                self.watch.update(output.loss)
                if self.meter.update(self.step, output):
                    self.watch.look()
                number, streak = self.consensus.exchange(stop.number, self.watch.streak)
                if streak >= self.config.max_bad_steps:
                    self._give_up(streak)
                if number:
                    return self._leave(number)
                if self.step == job.total_steps:
                    break
                if self._save_due() and self.step % per_epoch:
                    self._save()
        if self._evaluation_due():
            self._evaluate()
        self._finish_saving()
        if self.config.save_best_model and self.without_gain and self._returned_to is None:
            self._return_to_best()
        return 0

    def _evaluation_due(self) -> bool:
        at_end = self.step == self.job.total_steps
        boundary = self.step > 0 and self.step % self.job.steps_per_epoch == 0
        return self.evaluates and (boundary or at_end) and self.evaluated_step < self.step

    def _evaluate(self) -> None:
        """Evaluate at the end of an epoch, and save."""
        last = self.step == self.job.total_steps
        with self.meter.standing_still():
            self.evaluation = self.job.evaluate(predictions=last)
        self.evaluated_step = self.step
        self.meter.evaluated(self.step, self.evaluation)
        better = self.evaluation.accuracy > self.best
        self.without_gain = 0 if better else self.without_gain + 1
        self.best = max(self.best, self.evaluation.accuracy)
        asked = self._save_due() or self.config.save_every is None
        if self.config.save_every != 0 and (asked or (better and self.config.keep_best)):
            self._save(best=better)

    def _stop_early(self) -> None:
        """End with the weights of the best evaluation where they were kept."""
        if self.job.engine.is_lead:
            logger.info(
                "stopped early after step %d: the best accuracy, %.4f, is %d evaluations old",
                self.step,
                self.best,
                self.without_gain,
            )
        self._finish_saving()
        self._return_to_best()

    def _return_to_best(self) -> None:
        with self._patience():
            self._returned_to = self.checkpoints.return_to_best()
        self.evaluation = self.job.evaluate(predictions=True)
        self.meter.evaluated(self.step, self.evaluation)

    def _save_due(self) -> bool:
        return bool(self.config.save_every) and self.step % (self.config.save_every or 1) == 0

    def _save(self, *, best: bool = False) -> None:
        """Save; a state that is not finite is left out by the writer, which looks at all of it."""
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
        return self.watchdog.patient(checkpoint_bytes(self.job.num_parameters))

    def _leave(self, number: int) -> int:
        if self.config.save_every != 0:
            self._save()
        self._finish_saving()
        if self.job.engine.is_lead:
            logger.info(
                "stopped by signal %d after step %d; %s",
                number,
                self.step,
                self.checkpoints.last_good(),
            )
        return number

    def require_finite(self, evaluation: Evaluation) -> None:
        """Raise TrainingFailed when what the run ended with is no result, on every rank alike.

        Args:
            evaluation: of the weights that would be saved.
        """
        self.consensus.exchange(0, self.watch.look())
        # Once more, as each answer is that of the exchange before.
        _, streak = self.consensus.exchange(0, 0)
        at_end = self.step == self.job.total_steps  # else the weights are those of an earlier step
        what = "last step" if streak and at_end else "evaluation"
        if (streak and at_end) or not math.isfinite(evaluation.loss):
            raise TrainingFailed(
                f"the loss of the {what} is not finite, so no model is saved; "
                f"{self.checkpoints.last_good()}. Try a lower --lr or --clip-grad-norm 1"
            )

    def _give_up(self, streak: int) -> None:
        self._finish_saving()
        # The answer of a step comes one step later: the streak began that much earlier.
        first = self.step - streak
        raise TrainingFailed(
            f"the loss is not finite since step {max(first, 1)}: stopped after {streak} such steps "
            f"(--max-bad-steps); {self.checkpoints.last_good()}. Try a lower --lr or "
            "--clip-grad-norm 1"
        )
