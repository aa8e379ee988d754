"""Build once, loop, own the state."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
import torch.distributed as dist

from vit_colossal.checkpoints.weights import gather_weights
from vit_colossal.data.loaders import Shard
from vit_colossal.data.prepare import RunData, eval_batches, train_batches
from vit_colossal.evaluation.exact import Evaluation, evaluate
from vit_colossal.evaluation.predictions import clear
from vit_colossal.evaluation.predictions import save as save_predictions
from vit_colossal.model.directory import save_directory
from vit_colossal.model.optim import freeze
from vit_colossal.model.vit import build_model, build_processor, count_parameters, flops_per_image
from vit_colossal.plan.parallel_dims import bubble
from vit_colossal.plan.plan import RunPlan
from vit_colossal.rundir.metrics import NullReporter, Reporter, RunReporter
from vit_colossal.rundir.regression import Verdict
from vit_colossal.rundir.trackers import open_trackers
from vit_colossal.runtime.group import limit_waiting
from vit_colossal.runtime.kernels import kernels_in_use
from vit_colossal.strategies.ema import Ema
from vit_colossal.strategies.engine import build_engine
from vit_colossal.strategies.memory_use import StateMemory, state_memory
from vit_colossal.training.loop import Loop
from vit_colossal.training.stop import StopRequest

logger = logging.getLogger("vit_colossal")


@dataclass(frozen=True)
class TrainResult:
    """What a run produced.

    ``model_dir`` is a plain Hugging Face directory; ``verdict`` what ``check_reference`` found.
    A run that signal ``stopped_by`` ended has saved a checkpoint and no model.
    """

    evaluation: Evaluation | None
    steps: int
    run_dir: Path
    model_dir: Path | None
    verdict: Verdict | None = None
    stopped_by: int = 0


class Trainer:
    """One run on one rank."""

    def __init__(self, plan: RunPlan, data: RunData, device: torch.device) -> None:
        self.plan, self.data = plan, data
        config, rank = plan.config, dist.get_rank()
        coordinate = plan.dims.coordinate(rank)
        shard, pixels = Shard(coordinate.dp, plan.dims.dp), coordinate.pp == 0
        self.train_batches = train_batches(plan, data, shard, pixels=pixels)
        self.eval_batches = eval_batches(plan, data.evaluation, shard, pixels=pixels)
        self.steps_per_epoch = self.train_batches.steps_per_epoch
        epochs = config.epochs or 1
        self.total_steps = config.max_steps or epochs * self.steps_per_epoch
        self.epochs = math.ceil(self.total_steps / self.steps_per_epoch)
        self.model = build_model(plan.spec, data.labels, config.seed)
        freeze(self.model, config)
        self.num_parameters = count_parameters(self.model)
        self.num_trained = count_parameters(self.model, trained_only=True)
        self.engine = build_engine(
            plan, self.model, data.image_mean, data.image_std, self.total_steps, device
        )
        if config.ema is not None:
            self.engine.ema = Ema(self.engine, config.ema)

    def fit(self, run_dir: Path) -> TrainResult:
        """Train, evaluate after each epoch, save; from the plan's checkpoint where it has one.

        Raises:
            TrainingFailed: the loss was not finite for too many steps.
            CheckpointError: a checkpoint could not be written.
        """
        memory = state_memory(self.engine)
        with self._reporter(run_dir) as reporter:
            loop = Loop(self, reporter, run_dir)
            loop.resume()
            if self.engine.is_lead:
                self._announce(memory)
                self._start_event(reporter, loop.step, memory)
            limit_waiting(self.plan.config.timeout)
            with StopRequest().installed() as stop, loop.watchdog.watching(self.engine.model):
                return self._finish(loop, loop.run(stop), run_dir)

    def announce(self) -> None:
        """Log what training would log before its first step; every rank has to call this."""
        memory = state_memory(self.engine)
        if self.engine.is_lead:
            self._announce(memory)

    def _reporter(self, run_dir: Path) -> Reporter:
        config = self.plan.config
        if not self.engine.is_lead:
            return NullReporter()
        clear(run_dir)
        trackers = open_trackers(run_dir, config, resumed=self.plan.checkpoint is not None)
        return RunReporter(run_dir, tensorboard=config.tensorboard, trackers=trackers)

    def _finish(self, loop: Loop, stopped_by: int, run_dir: Path) -> TrainResult:
        """Save what a run leaves beside its checkpoints."""
        step, epoch = loop.step, loop.step / self.steps_per_epoch
        if stopped_by:
            loop.reporter.event("stop", step, epoch, signal=stopped_by)
            return TrainResult(loop.evaluation, step, run_dir, None, stopped_by=stopped_by)
        evaluation = loop.evaluation or self.evaluate(predictions=True)
        with loop.watchdog.patient(4 * self.num_parameters):
            if evaluation.predictions is not None:
                save_predictions(run_dir, evaluation.predictions, self.data.evaluation.images)
            model_dir = self.save(run_dir / "model")
        loop.reporter.event("end", step, epoch, accuracy=evaluation.accuracy)
        return TrainResult(evaluation, step, run_dir, model_dir)

    def evaluate(self, *, predictions: bool = False) -> Evaluation:
        """The whole evaluation split, each sample once; on demand what each image got."""
        return evaluate(
            self.engine,
            self.eval_batches.batches(),
            len(self.data.evaluation),
            self.data.labels,
            predictions=predictions,
        )

    def save(self, directory: Path) -> Path:
        """Gather the weights and write them as a Hugging Face directory, on the lead rank."""
        weights = gather_weights(self.engine)
        if weights is not None:
            processor = build_processor(self.plan.spec)
            save_directory(directory, self.model, processor, weights)
        dist.barrier()
        return directory

    def _start_event(self, reporter: Reporter, step: int, memory: StateMemory) -> None:
        """What a report shows of a run that has not ended."""
        attention, optimizer = self._kernels()
        reporter.event(
            "start",
            step,
            step / self.steps_per_epoch,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            parameters=self.num_parameters,
            total_steps=self.total_steps,
            epochs=self.epochs,
            layout=f"{self.plan.config.plugin}, {self.plan.dims}",
            global_batch=self.plan.batches.global_batch,
            state_memory_mib=round(memory.total / 2**20, 1),
            attention=attention,
            optimizer=optimizer,
        )

    def _announce(self, memory: StateMemory) -> None:
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
        logger.info("augmentation: %s", self._augmentation())
        logger.info("training: %s", self._training())
        logger.info("kernels: attention %s, optimizer %s", *self._kernels())
        logger.info("memory per rank: %s, and activations and the framework on top", memory)

    def _augmentation(self) -> str:
        """What is done to images and labels, in words."""
        smoothing = self.plan.config.label_smoothing
        labels = f"label smoothing {smoothing:g}" if smoothing else ""
        batches = self.train_batches
        active = [str(batches.augmentation), str(batches.mixing), labels]
        return ", ".join(filter(None, active)) or "none"

    def _training(self) -> str:
        """Which weights are trained, and how they become the model."""
        config = self.plan.config
        parts = {f"{self.num_trained / 1e6:.2f} M parameters": True}
        parts[f"learning rate x {config.layer_decay} per layer"] = (config.layer_decay or 1) < 1
        parts[f"weights averaged with decay {config.ema}"] = config.ema is not None
        patience = config.early_stopping_patience
        parts[f"stops after {patience} evaluations without gain"] = patience is not None
        return ", ".join(text for text, active in parts.items() if active)

    def _kernels(self) -> tuple[str, str]:
        """The implementations in use: ColossalAI's own where they load, PyTorch's elsewhere."""
        chosen = kernels_in_use()
        on_cuda = self.plan.device.kind == "cuda"
        if self.plan.config.plugin == "gemini":
            kind = chosen["fused_adam"] if on_cuda else chosen["cpu_adam"]
            return chosen["attention"], f"HybridAdam ({kind})"
        return chosen["attention"], "AdamW (torch, fused)" if on_cuda else "AdamW (torch)"
