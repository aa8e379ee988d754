"""transformers' Trainer on the same job, recorded step by step, unrounded.

Set up for equality: the same initial weights, batches in the same order, optimizer, groups and
schedule; nothing else changed. Runs alone or data-parallel under torchrun.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import Dataset, Sampler
from transformers import PrinterCallback, TrainerCallback, TrainingArguments
from transformers import Trainer as HubTrainer

from vit_colossal.config.train_config import TrainConfig
from vit_colossal.data.order import epoch_order
from vit_colossal.data.prepare import RunData
from vit_colossal.data.transforms import normalize
from vit_colossal.families.names import named_weights
from vit_colossal.model.adapters import adapt
from vit_colossal.model.build import build_model
from vit_colossal.model.optim import SCHEDULES, schedule_shape
from vit_colossal.parity.plain_loop import count_correct
from vit_colossal.parity.trace import Trace
from vit_colossal.plan.plan import RunPlan, steps_per_epoch, total_steps
from vit_colossal.runtime.group import Topology
from vit_colossal.training.run import plan_run


class _Pixels(Dataset[dict[str, torch.Tensor]]):
    """Normalized samples, one at a time, as Trainer's default collator wants them."""

    def __init__(self, data: RunData) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data.train)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        image = torch.from_numpy(self.data.train.images[index].copy())[None]
        pixels = normalize(image, self.data.preprocessing)[0]
        return {"pixel_values": pixels, "labels": torch.tensor(self.data.train.labels[index])}


class _Order(Sampler[int]):
    """Our order of samples, epoch after epoch, without the incomplete last batch."""

    def __init__(self, num_samples: int, global_batch: int, seed: int) -> None:
        self.num_samples, self.seed, self.epoch = num_samples, seed, 0
        self.length = num_samples // global_batch * global_batch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        order = epoch_order(self.num_samples, self.seed, self.epoch)
        self.epoch += 1
        return iter(order[: self.length].tolist())


class _Recorder(TrainerCallback):
    """The gradient norm and learning rate before each update."""

    def __init__(self) -> None:
        self.norms: list[float] = []
        self.lrs: list[float] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        grads = [p.grad for p in kwargs["model"].parameters() if p.grad is not None]
        squares = sum(float(grad.double().square().sum()) for grad in grads)
        self.norms.append(squares**0.5)
        self.lrs.append(kwargs["lr_scheduler"].get_last_lr()[0])


class _Peer(HubTrainer):
    """Trainer with our order of samples, and its losses kept unrounded."""

    def __init__(self, order: _Order, **options: Any) -> None:
        self.order = order
        self.losses: list[torch.Tensor] = []
        super().__init__(**options)

    def _get_train_sampler(self, *args: Any, **options: Any) -> Sampler[int]:
        return self.order

    def training_step(self, *args: Any, **options: Any) -> torch.Tensor:
        loss = super().training_step(*args, **options)
        self.losses.append(loss.detach())
        return loss


def record_transformers(config: TrainConfig, topology: Topology, optim: str) -> Trace | None:
    """Run ``transformers.Trainer`` as configured; the trace is rank 0's, None elsewhere.

    The gradient norm is recorded with clipping off only: Trainer clips before it can be seen.

    Args:
        config: the job.
        topology: this process's place.
        optim: ``TrainingArguments.optim``: what Trainer updates with.
    """
    plan, data = plan_run(config, topology)
    config = plan.config
    model = adapt(build_model(plan.spec, data.labels, config.seed), plan.spec, config)
    steps = total_steps(config, steps_per_epoch(config, len(data.train)))
    recorder = _Recorder()
    with tempfile.TemporaryDirectory() as folder:
        order = _Order(len(data.train), plan.batches.global_batch, config.seed)
        peer = _Peer(
            order,
            model=model,
            args=_arguments(plan, steps, topology.world_size, optim, folder),
            train_dataset=_Pixels(data),
            callbacks=[recorder],
            optimizers=(_one_group(model, config, optim), None)
            if config.decay_all
            else (None, None),
        )
        peer.remove_callback(PrinterCallback)
        peer.train()
    losses = _mean_over_ranks(torch.stack(peer.losses), topology)
    if topology.rank:
        return None
    norms = [] if config.clip_grad_norm else recorder.norms
    weights = {name: p.detach().float().clone() for name, p in named_weights(model)}
    correct = count_correct(model, plan, data)
    return Trace(losses, norms, recorder.lrs, correct, len(data.evaluation), weights)


def _arguments(
    plan: RunPlan, steps: int, world_size: int, optim: str, folder: str
) -> TrainingArguments:
    config, on_cpu = plan.config, plan.device.kind == "cpu"
    return TrainingArguments(
        output_dir=folder,
        use_cpu=on_cpu,
        max_steps=steps,
        per_device_train_batch_size=plan.batches.global_batch // world_size,
        learning_rate=config.lr or 0.0,
        weight_decay=config.weight_decay,
        adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2,
        adam_epsilon=config.adam_eps,
        max_grad_norm=config.clip_grad_norm,
        lr_scheduler_type=SCHEDULES[config.lr_schedule],
        lr_scheduler_kwargs=schedule_shape(config, steps),
        warmup_steps=math.ceil((config.warmup_ratio or 0.0) * steps),
        optim=optim,
        bf16=config.precision == "bf16",
        dataloader_drop_last=True,
        remove_unused_columns=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=config.seed,
        ddp_find_unused_parameters=False,
        ddp_backend="gloo" if on_cpu else "nccl",
    )


def _one_group(model: torch.nn.Module, config: TrainConfig, optim: str) -> torch.optim.Optimizer:
    """What ``--decay-all`` asks for; Trainer's own optimizer always makes two groups."""
    return torch.optim.AdamW(
        model.parameters(),
        lr=config.lr or 0.0,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_eps,
        weight_decay=config.weight_decay,
        fused=optim == "adamw_torch_fused",
    )


def _mean_over_ranks(losses: torch.Tensor, topology: Topology) -> list[float]:
    parts = [torch.zeros_like(losses) for _ in range(topology.world_size)]
    if topology.world_size > 1:
        dist.all_gather(parts, losses)
    else:
        parts = [losses]
    return [sum(values) / len(values) for values in zip(*(p.tolist() for p in parts), strict=True)]
