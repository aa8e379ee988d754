"""Build once, loop, own the state."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from vit_colossal.data.loaders import EvalBatches, Shard
from vit_colossal.engine import build_engine
from vit_colossal.evaluate import Evaluation, evaluate
from vit_colossal.metrics import NullReporter, Reporter, RunReporter, peak_memory_bytes
from vit_colossal.model import build_model, build_processor, count_parameters, flops_per_image
from vit_colossal.parallel_dims import bubble
from vit_colossal.run_data import RunData, train_batches
from vit_colossal.runtime.kernels import kernels_in_use
from vit_colossal.train_step import StepOutput, train_step
from vit_colossal.validation import RunPlan
from vit_colossal.weights import gather_weights, save_pretrained

logger = logging.getLogger("vit_colossal")


@dataclass(frozen=True)
class TrainResult:
    """What a run produced. ``model_dir`` is a plain Hugging Face directory."""

    evaluation: Evaluation
    steps: int
    run_dir: Path
    model_dir: Path


class Trainer:
    """One run on one rank."""

    def __init__(self, plan: RunPlan, data: RunData, device: torch.device) -> None:
        self.plan, self.data = plan, data
        config, rank = plan.config, dist.get_rank()
        shard = Shard(plan.dims.coordinate(rank).dp, plan.dims.dp)
        self.train_batches = train_batches(plan, data.train, shard)
        self.eval_batches = EvalBatches(data.evaluation, plan.batches.forward_batch, shard)
        self.steps_per_epoch = self.train_batches.steps_per_epoch
        epochs = config.epochs or 1
        self.total_steps = config.max_steps or epochs * self.steps_per_epoch
        self.epochs = math.ceil(self.total_steps / self.steps_per_epoch)
        self.model = build_model(plan.spec, data.labels, config.seed)
        self.num_parameters = count_parameters(self.model)
        self.engine = build_engine(
            plan, self.model, data.image_mean, data.image_std, self.total_steps, device
        )

    def fit(self, run_dir: Path) -> TrainResult:
        """Train, evaluate after each epoch, save the model."""
        config, engine = self.plan.config, self.engine
        reporter: Reporter = NullReporter()
        if engine.is_lead:
            reporter = RunReporter(run_dir, tensorboard=config.tensorboard)
            self._announce()
        meter = _Meter(self, reporter)
        step = 0
        evaluation = None
        for epoch in range(self.epochs):
            steps = min(self.steps_per_epoch, self.total_steps - step)
            reporter.start_epoch(epoch, self.epochs, steps, 0)
            for batches in self.train_batches.batches(epoch):
                step += 1
                meter.update(step, train_step(engine, batches))
                if step == self.total_steps:
                    break
            evaluation = self.evaluate()
            meter.evaluated(step, evaluation)
        assert evaluation is not None  # total_steps >= 1
        model_dir = self.save(run_dir / "model")
        if engine.is_lead:
            reporter.event("end", step, self.epochs, accuracy=evaluation.accuracy)
            logger.info(str(evaluation))
            logger.info("model saved to %s", model_dir)
        reporter.close()
        return TrainResult(evaluation, step, run_dir, model_dir)

    def evaluate(self) -> Evaluation:
        """The whole evaluation split, each sample once."""
        return evaluate(
            self.engine,
            self.eval_batches.batches(),
            len(self.data.evaluation),
            self.data.labels,
        )

    def save(self, directory: Path) -> Path:
        """Gather the weights and write them as a Hugging Face directory, on the lead rank."""
        weights = gather_weights(self.engine)
        if weights is not None:
            processor = build_processor(self.plan.spec)
            save_pretrained(directory, self.model, processor, weights)
        dist.barrier()
        return directory

    def _announce(self) -> None:
        """The derived quantities, before the first step."""
        plan, data = self.plan, self.data
        flops = flops_per_image(plan.spec, len(data.labels))
        logger.info(
            "model %s: %.2f M parameters, %.2f GFLOP per image forward and backward",
            plan.spec.name,
            self.num_parameters / 1e6,
            flops / 1e9,
        )
        logger.info(
            "data %s: %d training and %d evaluation images, %d labels",
            data.name,
            len(data.train),
            len(data.evaluation),
            len(data.labels),
        )
        layout = f"{plan.config.plugin}, {plan.dims}, {plan.config.precision} on {plan.device.kind}"
        if plan.dims.pp > 1:
            idle = bubble(plan.dims.pp, plan.batches.num_microbatches)
            layout += f", pipeline idle share {idle:.1%}"
        logger.info("layout: %s", layout)
        logger.info("%s", plan.batches)
        dropped = len(data.train) % plan.batches.global_batch
        logger.info(
            "%d steps in %d epochs of %d; %d images sit out each epoch, others each time",
            self.total_steps,
            self.epochs,
            self.steps_per_epoch,
            dropped,
        )
        kernels = ", ".join(f"{name} {kind}" for name, kind in kernels_in_use().items())
        logger.info("kernels: %s", kernels)


class _Meter:
    """Losses between two log lines, kept on the device; the host waits only when it logs."""

    def __init__(self, trainer: Trainer, reporter: Reporter) -> None:
        self.trainer, self.reporter = trainer, reporter
        self.loss_sum: torch.Tensor | None = None
        self.grad_norm: torch.Tensor | float | None = None
        self.steps = 0
        self.since = time.monotonic()
        self.last_accuracy = ""

    def update(self, step: int, output: StepOutput) -> None:
        """Take one step's loss; log when it is time. All ranks call this alike."""
        if output.loss is not None:
            self.loss_sum = output.loss if self.loss_sum is None else self.loss_sum + output.loss
        self.grad_norm = output.grad_norm
        self.steps += 1
        trainer = self.trainer
        if step % trainer.plan.config.log_every == 0 or step == trainer.total_steps:
            self._log(step)
        else:
            self.reporter.progress(1)

    def _log(self, step: int) -> None:
        trainer, engine = self.trainer, self.trainer.engine
        memory = torch.tensor(float(peak_memory_bytes(engine.device)), device=engine.device)
        dist.all_reduce(memory, op=dist.ReduceOp.MAX)
        loss = 0.0
        if engine.last_stage and self.loss_sum is not None:
            mean = self.loss_sum / (self.steps * engine.dims.dp)
            dist.all_reduce(mean, group=engine.dp_group)
            loss = mean.item()
        elapsed = time.monotonic() - self.since
        values = {
            "loss": loss,
            "lr": engine.schedule.get_last_lr()[0],
            "images_per_second": self.steps * trainer.plan.batches.global_batch / elapsed,
            "peak_memory_mib": memory.item() / 2**20,
        }
        epoch = step / trainer.steps_per_epoch
        norm = {} if self.grad_norm is None else {"grad_norm": float(self.grad_norm)}
        self.reporter.event("train", step, epoch, **values, **norm)
        shown = {"loss": f"{loss:.4f}", "lr": f"{values['lr']:.2e}"}
        if self.last_accuracy:
            shown["accuracy"] = self.last_accuracy
        self.reporter.progress(1, **shown)
        if engine.is_lead:
            logger.info(
                "step %d/%d  epoch %.2f  loss %.4f  lr %.2e  %.0f images/s  peak %.0f MiB",
                step,
                trainer.total_steps,
                epoch,
                *values.values(),
            )
        self.loss_sum, self.steps, self.since = None, 0, time.monotonic()

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
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
