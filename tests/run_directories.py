"""Run directories as runs leave them, without training: for what only reads them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from vit_colossal.config.reading import TrainConfig
from vit_colossal.evaluation import predictions
from vit_colossal.evaluation.predictions import Predictions

PER_EPOCH, EPOCHS = 50, 4


def predict(labels: tuple[str, ...], count: int = 120, seed: int = 0) -> Predictions:
    """Softmax of random scores that are right about three times in four."""
    random = np.random.RandomState(seed)
    truth = random.randint(0, len(labels), count)
    scores = random.randn(count, len(labels))
    lead = random.rand(count) < 0.7
    scores[np.arange(count)[lead], truth[lead]] += 4
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    top = np.argsort(-shares, axis=1)[:, : min(5, len(labels))]
    return Predictions(
        labels,
        label=truth.astype(np.int64),
        prediction=top[:, 0].astype(np.int64),
        loss=-np.log(shares[np.arange(count), truth]).astype(np.float32),
        top_labels=top.astype(np.int64),
        top_scores=np.take_along_axis(shares, top, axis=1).astype(np.float32),
    )


def pictures(count: int, size: int = 16) -> np.ndarray:
    """uint8 [count, 3, size, size]: a tile of another colour each."""
    colours = np.random.RandomState(1).randint(0, 256, (count, 3, 1, 1))
    return np.broadcast_to(colours, (count, 3, size, size)).astype(np.uint8)


def make_run(
    folder: Path, labels: tuple[str, ...], *, ended: bool = True, seed: int = 0, **settings: Any
) -> Path:
    """A run directory; one that has not ``ended`` lacks what is written at the end."""
    folder.mkdir(parents=True)
    config = TrainConfig(dataset="digits", model="vit-micro", seed=seed, lr=1e-3, **settings)
    (folder / "config.yaml").write_text(config.dump(), encoding="utf-8")
    environment = {"torch": "2.5.1", "layout": "dp 1 x pp 2 x tp 1", "labels": list(labels)}
    (folder / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    found = predict(labels, seed=seed)
    right, total = int(found.right.sum()), len(found)
    lines: list[dict[str, Any]] = [_start(PER_EPOCH * EPOCHS)]
    for epoch in range(1, EPOCHS + 1 if ended else EPOCHS):
        for step in range((epoch - 1) * PER_EPOCH + 10, epoch * PER_EPOCH + 1, 10):
            lines.append(_train(step))
        correct = right - 5 * (EPOCHS - epoch)
        counts = {"accuracy": correct / total, "correct": correct, "total": total}
        where = {"step": epoch * PER_EPOCH, "epoch": epoch, "elapsed": epoch * 30.0}
        rest = {"loss": 2 / epoch, "macro_f1": counts["accuracy"], "correct_top5": total}
        lines.append({"event": "eval", **where, **counts, **rest})
    if ended:
        lines.append({**lines[-1], "event": "end"})
        predictions.save(folder, found, pictures(total))
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    return folder


def _start(total_steps: int) -> dict[str, Any]:
    where = {"event": "start", "step": 0, "epoch": 0, "elapsed": 0.1}
    sizes = {"parameters": 205_002, "total_steps": total_steps, "epochs": EPOCHS}
    more = {"global_batch": 32, "state_memory_mib": 1.6, "time": "2026-01-01T00:00:00+00:00"}
    names = {"layout": "hybrid, dp 1 x pp 2 x tp 1", "attention": "sdpa", "optimizer": "AdamW"}
    return {**where, **sizes, **more, **names}


def _train(step: int) -> dict[str, Any]:
    return {
        "event": "train",
        "step": step,
        "epoch": step / PER_EPOCH,
        "elapsed": 0.6 * step,
        "loss": 2.3 * math.exp(-step / 80),
        "lr": 1e-3 * (1 - step / 200),
        "images_per_second": 450 + 20 * math.sin(step),
        "peak_memory_mib": 790.0,
        "grad_norm": 5.0,
    }
