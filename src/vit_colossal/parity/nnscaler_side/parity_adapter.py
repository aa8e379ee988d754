"""One job under nnScaler's trainer or transformers', in the Python that has both.

``parity_adapter nnscaler|transformers JOB.yaml``, under torchrun. The YAML is nnScaler's own,
written by ``vit_colossal.parity.nnscaler``, and names what stands here: the model with its loss,
the data set, its order, the schedule. Trainer's arguments are read from it, too, as in nnScaler's
example (``examples/vit/vit_cli.py`` of release 0.8). Both leave ``steps.json`` and a model in a
folder of their name beside the YAML.

This file knows torch, transformers and nnScaler alone, and every Python that these run on.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
import yaml
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset, Sampler
from transformers import (
    AutoModelForImageClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_scheduler,
)


class Samples(Dataset):
    """Normalized images and their labels.

    Args:
        file: safetensors with ``images``, uint8 [N, 3, H, W], and ``labels``, int64 [N].
        divisor, mean, std: an input is ``(pixel / divisor - mean) / std``.
    """

    def __init__(self, file: str, divisor: float, mean: list[float], std: list[float]) -> None:
        tensors = load_file(file)
        self.images, self.labels = tensors["images"], tensors["labels"]
        self.divisor = divisor
        self.mean, self.std = (torch.tensor(each).view(-1, 1, 1) for each in (mean, std))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        pixels = (self.images[index].to(torch.float32) / self.divisor - self.mean) / self.std
        return {"pixel_values": pixels, "labels": self.labels[index]}


class Order(Sampler):
    """One replica's samples of the whole run: its part of every global batch.

    Args:
        dataset: not used; nnScaler names it.
        num_replicas, rank: this replica, of how many.
        file: safetensors with ``order``, int64 [steps x global_batch].
        global_batch: samples of one step.
    """

    def __init__(
        self, dataset: Any, num_replicas: int, rank: int, file: str, global_batch: int
    ) -> None:
        steps = load_file(file)["order"].view(-1, num_replicas, global_batch // num_replicas)
        self.indices = steps[:, rank].flatten().tolist()

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Any:
        return iter(self.indices)


def load_model(folder: str, attention: str) -> torch.nn.Module:
    """The classifier with its first weights, fp32."""
    return AutoModelForImageClassification.from_pretrained(
        folder, attn_implementation=attention, local_files_only=True, use_safetensors=True
    )


class WithLoss(torch.nn.Module):
    """The classifier and its loss in one, as nnScaler's ``use_end2end`` wants it.

    The loss is transformers' own for one label; called by hand, as that asks for the device of the
    logits, which nnScaler's tracer always takes for CUDA.
    """

    def __init__(self, folder: str, attention: str) -> None:
        super().__init__()
        self.model = load_model(folder, attention)

    def forward(self, data: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = self.model(pixel_values=data["pixel_values"]).logits
        return cross_entropy(logits, data["labels"])


def schedule(
    optimizer: torch.optim.Optimizer, name: str, warmup: int, steps: int, shape: dict[str, Any]
) -> Any:
    """transformers' schedule, whose first argument is not the optimizer, as nnScaler wants it."""
    return get_scheduler(name, optimizer, warmup, steps, scheduler_specific_kwargs=shape)


def begin(trainer: Any) -> None:
    """nnScaler's hook ``after_setup``."""
    trainer.recorded = {"losses": [], "lrs": []}


def record(trainer: Any, step_metrics: dict[str, float], aggregated_outputs: Any) -> None:
    """nnScaler's hook ``before_log_train_metrics``: the unrounded loss of the global batch."""
    trainer.recorded["losses"].append(step_metrics["train_loss"])
    trainer.recorded["lrs"].append(step_metrics["lr"])


def end(trainer: Any) -> None:
    """nnScaler's hook ``on_train_end``: its weights, by their names in the model."""
    module, args = trainer.model, trainer.train_args
    weights = {meta.orig_name: getattr(module, name) for name, meta in module.fullmap.items()}
    model = load_model(**args.model.args)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[f"model.{name}"])
    save(Path(args.vars["folder"]) / "nnscaler", trainer.recorded, model)


def save(folder: Path, recorded: dict[str, list[float]], model: Any) -> None:
    """What the comparison reads; the steps last, as proof of the rest."""
    if dist.get_rank() == 0:
        model.save_pretrained(folder)
        (folder / "steps.json").write_text(json.dumps(recorded), encoding="utf-8")


def train_with_nnscaler(file: str) -> None:
    """nnScaler's trainer, as ``nnscaler-train -f FILE`` runs it."""
    compute_on_the_cpu()
    from nnscaler.cli.trainer import Trainer as NnscalerTrainer

    NnscalerTrainer(["-f", file]).run()


def compute_on_the_cpu() -> None:
    """nnScaler puts everything on the current CUDA device: let that be the CPU."""

    def nothing(*_: Any, **__: Any) -> None:
        return None

    cuda: Any = torch.cuda
    for name in ("set_device", "default_stream", "synchronize", "empty_cache"):
        setattr(cuda, name, nothing)
    cuda.reset_peak_memory_stats = nothing
    cuda.max_memory_allocated = cuda.max_memory_reserved = lambda *_: 0
    cuda.mem_get_info = lambda *_: (0, 0)
    cuda.current_device = lambda: torch.device("cpu")
    cuda.get_device_properties = lambda *_: SimpleNamespace(total_memory=0)
    torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *_, **__: self  # type: ignore


class OneGroup(Trainer):
    """Trainer in a given order, with one group of parameters as nnScaler has, losses unrounded."""

    def __init__(self, order: Order, **options: Any) -> None:
        self.order = order
        self.losses: list[torch.Tensor] = []
        super().__init__(**options)

    def get_decay_parameter_names(self, model: Any, *_: Any) -> list[str]:
        return [name for name, _ in model.named_parameters()]

    def _get_train_sampler(self, *_: Any, **__: Any) -> Order:
        return self.order

    def training_step(self, *args: Any, **options: Any) -> torch.Tensor:
        loss = super().training_step(*args, **options)
        self.losses.append(loss.detach())
        return loss


class Rates(TrainerCallback):
    """The learning rate of each update."""

    def __init__(self) -> None:
        self.lrs: list[float] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        self.lrs.append(parts["lr_scheduler"].get_last_lr()[0])


def train_with_transformers(file: str) -> None:
    """transformers' Trainer on the job of nnScaler's YAML."""
    job = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    folder = Path(job["vars"]["folder"]) / "transformers"
    sampler = job["dataset_sampler"]["train_args"]
    samples = Samples(**job["dataset"]["train_args"])
    model, rates = load_model(**job["model"]["args"]), Rates()
    trainer = OneGroup(
        Order(samples, 1, 0, **sampler),  # accelerate deals it out to the processes
        model=model,
        args=arguments(job, str(folder)),
        train_dataset=samples,
        callbacks=[rates],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    losses = torch.stack(trainer.losses).double()
    dist.all_reduce(losses)
    losses /= dist.get_world_size()
    save(folder, {"losses": losses.tolist(), "lrs": rates.lrs}, model)


def arguments(job: dict[str, Any], folder: str) -> TrainingArguments:
    """The same in transformers' terms."""
    optimizer, rate = job["optimizer"]["args"], job["lr_scheduler"]["args"]
    return TrainingArguments(
        output_dir=folder,
        use_cpu=True,
        max_steps=job["max_train_steps"],
        per_device_train_batch_size=job["micro_batch_size"],
        optim="adamw_torch",
        learning_rate=optimizer["lr"],
        weight_decay=optimizer["weight_decay"],
        adam_beta1=optimizer["betas"][0],
        adam_beta2=optimizer["betas"][1],
        adam_epsilon=optimizer["eps"],
        max_grad_norm=job["optimizer"]["clip_gnorm"],
        lr_scheduler_type=rate["name"],
        lr_scheduler_kwargs=rate["shape"],
        warmup_steps=rate["warmup"],
        dataloader_drop_last=True,
        remove_unused_columns=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=job["seed"],
        ddp_find_unused_parameters=False,
        ddp_backend="gloo",
    )


def main(trainer: str, file: str) -> None:
    """Train in a group over gloo, which both trainers find already there."""
    dist.init_process_group("gloo")
    {"nnscaler": train_with_nnscaler, "transformers": train_with_transformers}[trainer](file)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    # nnScaler imports this module by its name: let there be one.
    from parity_adapter import main as run

    run(*sys.argv[1:])
