"""What is built once for a run: batches, model, engine, and how many steps there are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import PreTrainedModel, ViTImageProcessorPil

from vit_colossal.checkpoints.weights import gather_weights
from vit_colossal.data.batches import eval_batches, train_batches
from vit_colossal.data.loaders import EvalBatches, Shard, TrainBatches
from vit_colossal.data.prepare import RunData
from vit_colossal.evaluation.exact import Evaluation, evaluate
from vit_colossal.model.adapters import adapt, merged, save_adapter
from vit_colossal.model.build import build_model, count_parameters
from vit_colossal.model.directory import save_directory
from vit_colossal.model.optim import freeze
from vit_colossal.model.processor import build_processor
from vit_colossal.model.untrained import build_untrained
from vit_colossal.plan import run_folder
from vit_colossal.plan.plan import RunPlan, total_steps
from vit_colossal.runtime.memory import map_large_allocations
from vit_colossal.strategies.ema import Ema
from vit_colossal.strategies.engine import Engine, build_engine
from vit_colossal.training.reuse import Reuse, find_reuse


@dataclass
class Job:
    """One run on one rank, ready to train.

    Attributes:
        plan, data: the validated run and its images.
        model: the model before it was boosted; its parameters are those that are trained.
        engine: what the booster made of it.
        train_batches, eval_batches: this rank's share.
        total_steps: optimizer steps of the whole run.
        num_parameters, num_trained: of the model.
        reuse: what is frozen, and whether it is computed once; see `training.features`.
    """

    plan: RunPlan
    data: RunData
    model: PreTrainedModel
    engine: Engine
    train_batches: TrainBatches
    eval_batches: EvalBatches
    total_steps: int
    num_parameters: int
    num_trained: int
    reuse: Reuse

    @property
    def steps_per_epoch(self) -> int:
        return self.train_batches.steps_per_epoch

    @property
    def epochs(self) -> int:
        """The number of epochs, of which `--max-steps` may end the last one early."""
        return math.ceil(self.total_steps / self.steps_per_epoch)

    @property
    def processor(self) -> ViTImageProcessorPil:
        """What prepares images as training does."""
        return build_processor(self.plan.spec)

    def evaluate(self, *, predictions: bool = False) -> Evaluation:
        """The whole evaluation split, each sample once; on demand what each image got."""
        return evaluate(
            self.engine,
            self.eval_batches.batches(),
            len(self.data.evaluation),
            self.data.labels,
            predictions=predictions,
        )

    def save(self, run_dir: Path) -> Path:
        """Gather the weights and write them as a Hugging Face directory, on the lead rank.

        Adapters are merged into it, and stand beside it as what `peft` loads.
        """
        weights, config = gather_weights(self.engine), self.plan.config
        directory = run_dir / run_folder.MODEL
        if weights is not None:
            plain = merged(weights, config.lora_scale) if config.lora_rank else weights
            save_directory(directory, self.model, self.processor, plain)
            if config.lora_rank:
                save_adapter(run_dir / run_folder.ADAPTER, self.plan.spec, config, weights)
        dist.barrier()
        return directory


def build_job(plan: RunPlan, data: RunData, device: torch.device) -> Job:
    """Build all of it; the process group must exist.

    Args:
        plan: the validated run.
        data: its images.
        device: where this rank computes.
    """
    config = plan.config
    if config.grad_checkpoint and device.type == "cpu":  # else most of what it saves is lost again
        map_large_allocations()
    coordinate = plan.dims.coordinate(dist.get_rank())
    shard, pixels = Shard(coordinate.dp, plan.dims.dp), coordinate.pp == 0
    batches = train_batches(plan, data, shard, pixels=pixels)
    steps = total_steps(config, batches.steps_per_epoch)
    model = adapt(_build_model(plan, data), plan.spec, config)
    freeze(model, plan.spec, config)
    reuse = find_reuse(plan, model, batches, len(data.evaluation), steps)
    # Counted before boosting, which may leave a rank with a part of the model.
    num_parameters = count_parameters(model)
    num_trained = count_parameters(model, trained_only=True)
    engine = build_engine(plan, model, data.preprocessing, steps, device)
    if config.ema is not None:
        engine.ema = Ema(engine, config.ema)
    if batches.class_weights is not None:
        engine.class_weights = batches.class_weights.to(device)
    return Job(
        plan=plan,
        data=data,
        model=model,
        engine=engine,
        train_batches=batches,
        eval_batches=eval_batches(plan, data.evaluation, shard, pixels=pixels),
        total_steps=steps,
        num_parameters=num_parameters,
        num_trained=num_trained,
        reuse=reuse,
    )


def _build_model(plan: RunPlan, data: RunData) -> PreTrainedModel:
    """The plain model, set to train: with dropout, where it has some.

    What a pretrained one brings is not read where a checkpoint replaces all of it.
    """
    if plan.checkpoint is None or not plan.spec.pretrained:
        model = build_model(plan.spec, data.labels, plan.config.seed)
    else:
        model = build_untrained(plan.spec, data.labels)
        model.config._name_or_path = plan.config.model
        torch.manual_seed(plan.config.seed)
    model.train()  # transformers loads a pretrained one for evaluation
    return model
