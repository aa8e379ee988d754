"""Small model folders for these tests, and what transformers makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16}
SIZES |= {"intermediate_size": 32, "patch_size": 4, "initializer_range": 0.2}
LABELS = ("Katze groß", "dog")


def save_model(folder: Path, labels: tuple[str, ...] = LABELS) -> ViTForImageClassification:
    """A model with random weights and its image processor; evaluation mode."""
    torch.manual_seed(1)
    names = dict(enumerate(labels))
    config = ViTConfig(**SIZES, id2label=names, label2id={n: i for i, n in names.items()})
    model = ViTForImageClassification(config).eval()
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return model


def edit(file: Path, **values: Any) -> None:
    """Set keys of a JSON file; None takes one away."""
    content = {**json.loads(file.read_text()), **values}
    kept = {key: value for key, value in content.items() if value is not None}
    file.write_text(json.dumps(kept))


def rewrite(folder: Path, change: Any) -> None:
    """Replace the weights of a folder by what ``change`` makes of them."""
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def pictures() -> list[Image.Image]:
    """RGB images: square, wide, tall, of the model's size, and smaller than it."""
    random = np.random.RandomState(0)
    sizes = [(40, 40), (23, 61), (57, 20), (16, 16), (9, 12)]
    return [Image.fromarray(random.randint(0, 256, (*s, 3)).astype(np.uint8)) for s in sizes]
