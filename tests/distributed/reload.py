"""Evaluate saved models as a user without this package does: transformers and Pillow only.

``reload.py IMAGES.parquet DIRECTORY…`` prints one JSON object: directory -> the number correct.
"""

from __future__ import annotations

import json
import sys
from importlib.abc import MetaPathFinder
from typing import Any


class Blocked(MetaPathFinder):
    """Makes some packages impossible to import, whatever is installed."""

    names = ("colossalai", "vit_colossal")

    def find_spec(self, fullname: str, *args: Any) -> None:
        if fullname.partition(".")[0] in self.names:
            raise ImportError(f"{fullname} is blocked")


def main(images_file: str, *directories: str) -> None:
    sys.meta_path.insert(0, Blocked())
    import datasets
    import torch
    from transformers import ViTForImageClassification, ViTImageProcessor

    rows = datasets.load_dataset("parquet", data_files={"test": images_file})["test"]
    images = [image.convert("RGB") for image in rows["image"]]
    labels = torch.tensor(rows["label"])
    correct = {}
    for directory in directories:
        model = ViTForImageClassification.from_pretrained(directory, dtype="auto").eval()
        processor = ViTImageProcessor.from_pretrained(directory)
        pixels = processor(images, return_tensors="pt")["pixel_values"].to(model.dtype)
        with torch.no_grad():
            predicted = model(pixel_values=pixels).logits.argmax(dim=-1)
        correct[directory] = int((predicted == labels).sum())
    assert not any(name in sys.modules for name in Blocked.names)
    print(json.dumps(correct))


if __name__ == "__main__":
    main(*sys.argv[1:])
