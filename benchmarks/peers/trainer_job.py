"""A folder of photos, fine-tuned with transformers.Trainer as its users write it.

torchrun --nproc_per_node 2 benchmarks/peers/trainer_job.py PHOTOS MODEL OUTPUT BATCH

One epoch, evaluated at its end; the model is saved. It imports nothing of this project.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from datasets import load_dataset
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    EvalPrediction,
    Trainer,
    TrainingArguments,
)


def main(photos: str, folder: str, output: str, batch: int) -> None:
    data = load_dataset("imagefolder", data_dir=photos)
    names = data["train"].features["label"].names
    processor = AutoImageProcessor.from_pretrained(folder)

    def prepare(rows: dict) -> dict:
        pixels = processor([image.convert("RGB") for image in rows["image"]], return_tensors="pt")
        return {"pixel_values": pixels["pixel_values"], "label": rows["label"]}

    def collate(rows: list) -> dict:
        return {
            "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
            "labels": torch.tensor([row["label"] for row in rows]),
        }

    def accuracy(answers: EvalPrediction) -> dict[str, float]:
        return {"accuracy": float(np.mean(answers.predictions.argmax(-1) == answers.label_ids))}

    trainer = Trainer(
        model=AutoModelForImageClassification.from_pretrained(
            folder,
            id2label=dict(enumerate(names)),
            label2id={name: number for number, name in enumerate(names)},
            ignore_mismatched_sizes=True,
        ),
        args=TrainingArguments(
            output_dir=output,
            per_device_train_batch_size=batch,
            per_device_eval_batch_size=batch,
            num_train_epochs=1,
            learning_rate=1e-4,
            eval_strategy="epoch",
            save_strategy="no",
            report_to="none",
            remove_unused_columns=False,
            use_cpu=True,
        ),
        train_dataset=data["train"].with_transform(prepare),
        eval_dataset=data["validation"].with_transform(prepare),
        data_collator=collate,
        compute_metrics=accuracy,
    )
    trainer.train()
    trainer.save_model()
    processor.save_pretrained(output)


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))
