"""Build once, loop, own the state."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from vit_colossal.data.loaders import EvalBatches, Shard
from vit_colossal.engine import build_engine
from vit_colossal.evaluation import Evaluation, evaluate
from vit_colossal.loop import Loop
from vit_colossal.metrics import NullReporter, Reporter, RunReporter
from vit_colossal.model import build_model, build_processor, count_parameters, flops_per_image
from vit_colossal.parallel_dims import bubble
from vit_colossal.regression import Verdict
from vit_colossal.run_data import RunData, train_batches
from vit_colossal.runtime.kernels import kernels_in_use
from vit_colossal.runtime.launch import limit_waiting
from vit_colossal.stop import StopRequest
from vit_colossal.validation import RunPlan
from vit_colossal.weights import gather_weights, save_pretrained

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
        """Train, evaluate after each epoch, save; from the plan's checkpoint where it has one.

        Raises:
            TrainingFailed: the loss was not finite for too many steps.
            CheckpointError: a checkpoint could not be written.
        """
        config, engine = self.plan.config, self.engine
        reporter: Reporter = NullReporter()
        if engine.is_lead:
            reporter = RunReporter(run_dir, tensorboard=config.tensorboard)
            self._announce()
        loop = Loop(self, reporter, run_dir)
        loop.resume()
        limit_waiting(config.timeout)
        with StopRequest().installed() as stop, loop.watchdog.watching(engine.model):
            stopped_by = loop.run(stop)
            if stopped_by:
                return TrainResult(loop.evaluation, loop.step, run_dir, None, stopped_by=stopped_by)
            evaluation = loop.evaluation or self.evaluate()
            with loop.watchdog.patient(4 * self.num_parameters):
                model_dir = self.save(run_dir / "model")
        if engine.is_lead:
            epoch = loop.step / self.steps_per_epoch
            reporter.event("end", loop.step, epoch, accuracy=evaluation.accuracy)
        reporter.close()
        return TrainResult(evaluation, loop.step, run_dir, model_dir)

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
        logger.info("kernels: attention %s, optimizer %s", *self._kernels())

    def _kernels(self) -> tuple[str, str]:
        """The implementations in use: ColossalAI's own where they load, PyTorch's elsewhere."""
        chosen = kernels_in_use()
        on_cuda = self.plan.device.kind == "cuda"
        if self.plan.config.plugin == "gemini":
            kind = chosen["fused_adam"] if on_cuda else chosen["cpu_adam"]
            return chosen["attention"], f"HybridAdam ({kind})"
        return chosen["attention"], "AdamW (torch, fused)" if on_cuda else "AdamW (torch)"
