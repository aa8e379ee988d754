"""Labelling image files: this project's predict beside transformers' image-classification pipeline.

python benchmarks/predict_rate.py --output runs/bench-cpu/predict.json [--repetitions 5]

Both are in one process, with the same files, model (ViT-tiny, random weights) and threads, and take
turns. The pipeline is measured as it comes (one image at a time) and with batches of 64; it
resizes with torchvision, whose pixels are a little different (docs/data.md). With the same pixels,
those of Pillow, its labels have to be predict's and the probabilities within 1e-4.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from data_rates import make_jpegs

BATCH = 64
Labelled = list[tuple[str, float]]


def make_model(folder: Path) -> str:
    """ViT-tiny with two labels, whose outputs differ from image to image."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(0)
    sizes = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
    config = ViTConfig(**sizes, id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1})
    model = ViTForImageClassification(config)
    torch.nn.init.normal_(model.classifier.weight, std=1.0)
    model.save_pretrained(folder)
    ViTImageProcessor().save_pretrained(folder)
    return str(folder)


def ours(model: str, files: list[str]) -> Callable[[], Labelled]:
    from vit_colossal.trained.predict import Prediction, Predictor
    from vit_colossal.trained.saved import locate

    predictor = Predictor(locate(model), "cpu")

    def label() -> Labelled:
        found = list(predictor.predict(files))
        return [(one.label, one.score) for one in found if isinstance(one, Prediction)]

    return label


def pipelined(model: str, files: list[str], batch: int, **options: Any) -> Callable[[], Labelled]:
    from transformers import pipeline

    classify = pipeline("image-classification", model=model, device="cpu", **options)

    def label() -> Labelled:
        return [(one[0]["label"], one[0]["score"]) for one in classify(files, batch_size=batch)]

    return label


def compare(found: Labelled, other: Labelled) -> None:
    labels = [[label for label, _ in each] for each in (found, other)]
    scores = [[score for _, score in each] for each in (found, other)]
    if labels[0] != labels[1] or not np.allclose(*scores, rtol=0, atol=1e-4):
        raise SystemExit("the labels or probabilities differ")


def measure(folder: Path, images: int, repetitions: int) -> dict[str, Any]:
    from transformers import AutoImageProcessor

    make_jpegs(folder / "images", images)
    files = sorted(str(file) for file in (folder / "images").rglob("*.jpg"))
    model = make_model(folder / "model")
    ways = {
        "predict": ours(model, files),
        "pipeline": pipelined(model, files, 1),
        f"pipeline, batches of {BATCH}": pipelined(model, files, BATCH),
    }
    on_pillow = AutoImageProcessor.from_pretrained(model, backend="pil")
    compare(ways["predict"](), pipelined(model, files, BATCH, image_processor=on_pillow)())
    for way in ways.values():  # warms up
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(repetitions):
        for name in list(ways)[:: 1 if repetition % 2 == 0 else -1]:
            began = time.perf_counter()
            ways[name]()
            seconds[name].append(time.perf_counter() - began)
    rates = {name: images / median(each) for name, each in seconds.items()}
    return {
        "rates": rates,
        "ratios": {name: rates["predict"] / rate for name, rate in rates.items()},
        "seconds": seconds,
        "threads": torch.get_num_threads(),
        "images": images,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--images", type=int, default=256)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name), asked.images, asked.repetitions)
    text = json.dumps({"rates": {"labelling": found}}, indent=1)
    asked.output.write_text(text + "\n", encoding="utf-8")
    print(json.dumps({key: found[key] for key in ("rates", "ratios", "threads")}, indent=1))


if __name__ == "__main__":
    main()
