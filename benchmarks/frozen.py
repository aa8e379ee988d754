"""What an epoch takes when the frozen part of a model is computed once, over one that computes it.

python benchmarks/frozen.py [--repetitions 3] [--threads 1] [--case NAME]

120 synthetic photos of 1024 x 768 px and a model of ViT-tiny's size with random weights, at 224 px:
108 images are trained on and 12 evaluated in each epoch. Whole runs of ``vit-colossal train`` on
one process, in turn; of each, the epochs from the second to the last but one, evaluation included,
by the clock of ``metrics.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from vit_colossal.plan.model_spec import read_spec

TRAINED, EVALUATED = 108, 12
FLAGS = "--epochs {epochs} --global-batch-size 12 --lr 3e-3 --device cpu --no-tensorboard"
#: What is frozen, the flags that ask for it, and how many epochs to run without and with features.
CASES = {
    "all but the head": ("--freeze backbone --save-every 0", 4, 30),
    "all but the head, a checkpoint each epoch": ("--freeze backbone", 4, 30),
    "10 of 12 layers": ("--freeze-layers 10 --save-every 0", 4, 8),
}


def photos(folder: Path) -> None:
    """Smooth random pictures in four folders, as JPEG."""
    generator = np.random.default_rng(0)
    for number in range(TRAINED + EVALUATED):
        place = folder / f"class{number % 4}"
        place.mkdir(parents=True, exist_ok=True)
        colors = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(colors).resize((1024, 768), Image.Resampling.BICUBIC).save(
            place / f"{number}.jpg", quality=90
        )


def model(folder: Path) -> None:
    """ViT-tiny's shape with random weights, as a pretrained model."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    torch.manual_seed(0)
    config = ViTConfig(hidden_size=192, num_attention_heads=3, intermediate_size=768)
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil().save_pretrained(folder)


def epoch_seconds(work: Path, flags: str, epochs: int, threads: int) -> float:
    """Mean of the epochs from the second to the last but one; the last also keeps predictions."""
    run = work / "run"
    command = [sys.executable, "-m", "vit_colossal", "train", "--dataset", "photos"]
    command += ["--model", "tiny", "--output-dir", "run", "--overwrite", "--cache-dir", "cache"]
    command += [*FLAGS.format(epochs=epochs).split(), *flags.split()]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, cwd=work, env=environment, capture_output=True, check=True)
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ends = [e["elapsed"] for e in map(json.loads, lines) if e["event"] == "eval"]
    return float((ends[-2] - ends[0]) / (len(ends) - 2))


def bound(work: Path) -> float:
    """Multiply-adds of an epoch over those with the first ten of twelve layers left out.

    The backward pass of a layer counts as two forward passes (Kaplan et al. 2020, section 2.1).
    """
    spec = read_spec(str(work / "tiny"), {})
    hidden, tokens, inner = 192, spec.tokens, 768
    layer = tokens * (4 * hidden**2 + 2 * tokens * hidden + 2 * hidden * inner)
    stem = (tokens - 1) * 3 * 16**2 * hidden
    forward, backward = stem + 12 * layer, 2 * 2 * layer
    without = TRAINED * (forward + backward) + EVALUATED * forward
    return without / (TRAINED * (2 * layer + backward) + EVALUATED * 2 * layer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--case", choices=CASES, action="append")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        photos(work / "photos")
        model(work / "tiny")
        print("| frozen | computed each time, s | kept, s | faster |\n|---|---|---|---|")
        for name in asked.case or CASES:
            flags, short, long = CASES[name]
            pairs = [
                (
                    epoch_seconds(work, f"{flags} --no-feature-cache", short, asked.threads),
                    epoch_seconds(work, flags, long, asked.threads),
                )
                for _ in range(asked.repetitions)
            ]
            each, kept = (median(column) for column in zip(*pairs, strict=True))
            ratios = sorted(before / after for before, after in pairs)
            spread = f"{ratios[0]:.3g} to {ratios[-1]:.3g}"
            print(
                f"| {name} | {each:.3f} | {kept:.4f} | {median(ratios):.3g} ({spread}) |",
                flush=True,
            )
        print(f"\narithmetic allows for 10 of 12 layers: {bound(work):.2f}")


if __name__ == "__main__":
    main()
