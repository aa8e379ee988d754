"""An image classifier fine-tuned with transformers.Trainer, as its users write one.

``trainer_script.py DATA MODEL OUTPUT RUNS.json``, alone or under torchrun. It imports nothing of
this project. For each run (name, batch of a process, gradient accumulation, epochs) OUTPUT/NAME
gets ``losses.json``, what Trainer logged in each step, and the trained model.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from datasets import load_dataset
from transformers import (
    Trainer,
    TrainingArguments,
    ViTForImageClassification,
    ViTImageProcessorPil,
    set_seed,
)

IMAGES = 53
SEED = 7


def train(data: str, folder: str, output: Path, run: dict) -> None:
    images = load_dataset("parquet", data_files={"train": f"{data}/train.parquet"}, split="train")
    images = images.select(range(IMAGES))
    names = images.features["label"].names
    processor = ViTImageProcessorPil.from_pretrained(folder)

    def prepare(rows: dict) -> dict:
        pixels = processor([image.convert("RGB") for image in rows["image"]], return_tensors="pt")
        return {"pixel_values": pixels["pixel_values"], "label": rows["label"]}

    def collate(rows: list) -> dict:
        return {
            "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
            "labels": torch.tensor([row["label"] for row in rows]),
        }

    set_seed(SEED)
    model = ViTForImageClassification.from_pretrained(
        folder,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
        ignore_mismatched_sizes=True,
    )
    arguments = TrainingArguments(
        output_dir=str(output),
        per_device_train_batch_size=run["batch"],
        gradient_accumulation_steps=run["accumulation"],
        num_train_epochs=run["epochs"],
        learning_rate=1e-3,
        weight_decay=0.01,
        lr_scheduler_type="constant",
        max_grad_norm=0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        use_cpu=True,
        seed=SEED,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=images.with_transform(prepare),
        data_collator=collate,
    )
    trainer.train()
    trainer.save_model(str(output / "model"))
    if trainer.is_world_process_zero():
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        (output / "losses.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    for each in json.loads(Path(sys.argv[4]).read_text()):
        train(sys.argv[1], sys.argv[2], Path(sys.argv[3]) / each["name"], each)
