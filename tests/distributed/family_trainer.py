"""The other reference for any family: transformers' own Trainer, in one process.

As its users set it up, but for the order of the samples, which is this package's.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from family_loop import BATCH, CLIP, DECAY, LR, SEED, STEPS, Images, load
from torch.utils.data import Dataset, Sampler
from transformers import PrinterCallback, Trainer, TrainingArguments

from vit_colossal.data.order import epoch_order


class _Rows(Dataset[dict[str, torch.Tensor]]):
    """Images as Trainer's default collator takes them."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images.labels)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.images.pixels[row], "labels": self.images.labels[row]}


class _Order(Sampler[int]):
    """Our order, epoch after epoch."""

    def __init__(self, count: int) -> None:
        self.count, self.epoch = count, 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        order = epoch_order(self.count, SEED, self.epoch)
        self.epoch += 1
        return iter(order.tolist())


class _Recording(Trainer):
    """Keeps its losses, which it logs rounded."""

    def __init__(self, **options: Any) -> None:
        self.losses: list[float] = []
        super().__init__(**options)

    def _get_train_sampler(self, *args: Any, **options: Any) -> Sampler[int]:
        return _Order(len(self.train_dataset))

    def training_step(self, *args: Any, **options: Any) -> torch.Tensor:
        loss = super().training_step(*args, **options)
        self.losses.append(float(loss))
        return loss


def trainer_losses(folder: Path, data: Images) -> list[float]:
    """The loss of each step of `family_loop.train`, as Trainer finds it; fp32.

    Args:
        folder: the model.
        data: what is trained on.
    """
    with tempfile.TemporaryDirectory() as output:
        arguments = TrainingArguments(
            output_dir=output,
            use_cpu=True,
            max_steps=STEPS,
            per_device_train_batch_size=BATCH,
            learning_rate=LR,
            weight_decay=DECAY,
            max_grad_norm=CLIP,
            lr_scheduler_type="cosine",
            warmup_steps=math.ceil(0.1 * STEPS),
            optim="adamw_torch",
            remove_unused_columns=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=SEED,
        )
        trainer = _Recording(model=load(folder), args=arguments, train_dataset=_Rows(data))
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return trainer.losses
