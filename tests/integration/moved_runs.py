"""Runs of a small photo folder and a small pretrained model, for what is done with moved ones."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from launching import environment, run, warm

#: In the order of their folders.
LABELS = ("dog", "grüner Tee", "Äpfel")
#: 36 training images and a global batch of 6: six steps an epoch.
JOB = ("--device", "cpu", "--global-batch-size", "6", "--no-tensorboard", "--log-every", "2")
JOB += ("--lr", "2e-4")

_DRIVER = """
import contextlib, io, json, os, sys
from vit_colossal.cli import main

results = []
for folder, flags in json.load(open(sys.argv[1])):
    os.chdir(folder)
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        code = main(flags)
    results.append([code, text.getvalue()])
json.dump(results, open(sys.argv[2], "w"))
"""


class Result(NamedTuple):
    """How a command ended."""

    code: int
    output: str


def draw(folder: Path, labels: Sequence[str], count: int, seed: int) -> None:
    """``count`` noisy images of a colour for each label."""
    random = np.random.RandomState(seed)
    for label in labels:
        place = folder / label
        place.mkdir(parents=True, exist_ok=True)
        colour = np.random.RandomState(len(label)).randint(0, 256, 3)
        for number in range(count):
            pixels = np.clip(colour + random.randint(-60, 60, (20, 20, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(place / f"Bild {number:03d}.png")


def save_base(folder: Path, mean: float = 0.4) -> None:
    """A ViT of other labels, with an image processor of its own."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    size = {"intermediate_size": 64, "image_size": 16, "patch_size": 4}
    config = ViTConfig(**shape, **size, id2label={0: "x", 1: "y"}, label2id={"x": 0, "y": 1})
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(
        size={"height": 16, "width": 16}, image_mean=[mean] * 3, image_std=[0.3] * 3
    ).save_pretrained(folder)


def invoke(scratch: Path, *commands: tuple[Path, Sequence[str]]) -> list[Result]:
    """Run commands one after another in one process, each in its folder."""
    asked, answered = scratch / "commands.json", scratch / "results.json"
    asked.write_text(json.dumps([[str(folder), list(flags)] for folder, flags in commands]))
    (scratch / "driver.py").write_text(_DRIVER)
    env = environment(VIT_COLOSSAL_CACHE=os.environ["VIT_COLOSSAL_CACHE"])
    command = warm(str(scratch / "driver.py"), str(asked), str(answered))
    finished = run(command, timeout_s=400, env=env)
    assert finished.returncode == 0, finished.output
    return [Result(*values) for values in json.loads(answered.read_text())]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
