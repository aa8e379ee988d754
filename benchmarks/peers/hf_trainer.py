"""transformers.Trainer on the same images.

torchrun --nproc_per_node 2 benchmarks/peers/hf_trainer.py --model DIR --images A.npy …

Set up as its documentation says, with what makes it fast: batches normalized at once in the
collator, no search for unused parameters, nothing logged, evaluated or saved.
"""

from __future__ import annotations

import argparse
import tempfile

import numpy as np
import torch
from measure import Stopwatch, run_and_report
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTForImageClassification,
    ViTImageProcessor,
)


class Images(Dataset):
    """Decoded images."""

    def __init__(self, images: str, labels: str, *, in_memory: bool) -> None:
        self.images = np.load(images, mmap_mode=None if in_memory else "r")
        self.labels = np.load(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[np.ndarray, int]:
        return self.images[row], int(self.labels[row])


class Collator:
    """uint8 images to the model's inputs."""

    def __init__(self, processor: ViTImageProcessor) -> None:
        self.mean = torch.tensor(processor.image_mean).view(-1, 1, 1)
        self.std = torch.tensor(processor.image_std).view(-1, 1, 1)

    def __call__(self, samples: list[tuple[np.ndarray, int]]) -> dict[str, torch.Tensor]:
        images, labels = zip(*samples, strict=True)
        pixels = torch.from_numpy(np.stack(images)).float().div_(255).sub_(self.mean).div_(self.std)
        return {"pixel_values": pixels, "labels": torch.tensor(labels)}


class InOrder(Trainer):
    """Trainer in the data's own order, so that its losses can be compared."""

    watch: Stopwatch

    def _get_train_sampler(self, *args: object, **options: object) -> Sampler:
        return SequentialSampler(self.train_dataset)

    def training_step(self, *args: object, **options: object) -> torch.Tensor:
        self.last_loss = super().training_step(*args, **options)
        return self.last_loss


class Clock(TrainerCallback):
    """Tells the watch when a step has ended."""

    def __init__(self, trainer: InOrder) -> None:
        self.trainer = trainer

    def on_step_end(self, args: object, state: object, control: object, **rest: object) -> None:
        self.trainer.watch.step_done(self.trainer.last_loss)


def train(flags: argparse.Namespace, watch: Stopwatch | None = None) -> dict[str, object]:
    model = ViTForImageClassification.from_pretrained(flags.model)
    if flags.compile:
        for layer in model.vit.layers:
            layer.compile()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            use_cpu=flags.device == "cpu",
            ddp_backend="gloo" if flags.device == "cpu" else "nccl",
            ddp_find_unused_parameters=False,
            max_steps=flags.warmup_steps + flags.steps,
            per_device_train_batch_size=flags.batch_size,
            learning_rate=flags.lr,
            lr_scheduler_type="constant",
            weight_decay=flags.weight_decay,
            max_grad_norm=flags.clip_grad_norm,
            bf16=flags.precision == "bf16",
            gradient_checkpointing=flags.grad_checkpoint,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            dataloader_drop_last=True,
            remove_unused_columns=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=flags.seed,
        )
        trainer = InOrder(
            model=model,
            args=arguments,
            train_dataset=Images(flags.images, flags.labels, in_memory=flags.in_memory),
            data_collator=Collator(ViTImageProcessor.from_pretrained(flags.model)),
        )
        trainer.watch = watch or Stopwatch(flags.device, flags.warmup_steps, flags.keep_losses)
        trainer.add_callback(Clock(trainer))
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return trainer.watch.result()


if __name__ == "__main__":
    run_and_report(train, __doc__ or "")
