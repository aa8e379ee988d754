"""How fast images arrive: the cached loader, its memory, and cold decoding beside bare Pillow.

python benchmarks/data_rates.py --output runs/bench-cpu/data.json [--repetitions 5] [--images 1000]

- loader: two processes of one thread each go through the cached digits at 224 px with the project's
  loader; images per second of both together.
- residency: what share of the cache's pages the two hold, added up; 1 is one copy on the machine.
- decoding: JPEG files of 500 x 500 px, made here, into an empty cache with the project's code,
  beside two processes that only open, convert and resize them with Pillow.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

SIDE, SOURCE_SIDE, PROCESSES = 224, 500, 2
SETTINGS = {"model": "vit-tiny", "device": "cpu", "epochs": 1, "lr": 1e-3}


def prepared(**settings: Any) -> tuple[Any, Any]:
    """A plan and its decoded data, as a run has them."""
    from vit_colossal.config.reading import TrainConfig
    from vit_colossal.runtime.group import Topology
    from vit_colossal.training.run import plan_run

    return plan_run(TrainConfig(**SETTINGS, **settings), Topology())


def feed(rank: int, seconds: float, together: Any, answers: Any) -> None:
    """One process of the loader's measurement."""
    import torch

    from vit_colossal.bench.worker import mapped_bytes
    from vit_colossal.data.batches import train_batches
    from vit_colossal.data.loaders import Shard

    torch.set_num_threads(1)
    plan, data = prepared(dataset="digits", global_batch_size=64)
    source = train_batches(plan, data, Shard(0, 1))
    for _ in source.batches(0):  # every page once
        pass
    together.wait()
    began, count, epoch = time.perf_counter(), 0, 1
    while time.perf_counter() - began < seconds:
        for batches in source.batches(epoch):
            count += sum(len(batch.images) for batch in batches)
        epoch += 1
    rate = count / (time.perf_counter() - began)
    together.wait()
    whole = os.stat(data.train.images.filename).st_size
    answers.put((rate, mapped_bytes(data.train.images) / whole))


def measure_loader(repetitions: int, seconds: float) -> dict[str, Any]:
    prepared(dataset="digits", global_batch_size=64)
    context = multiprocessing.get_context("spawn")
    rates, copies = [], []
    for _ in range(repetitions):
        together, answers = context.Barrier(PROCESSES), context.Queue()
        arguments = [(rank, seconds, together, answers) for rank in range(PROCESSES)]
        processes = [context.Process(target=feed, args=given) for given in arguments]
        for process in processes:
            process.start()
        found = [answers.get(timeout=300) for _ in processes]
        for process in processes:
            process.join()
        rates.append(sum(rate for rate, _ in found))
        copies.append(sum(share for _, share in found))
    return {
        "loader": {"rate": median(rates), "all": rates},
        "residency": {"copies": median(copies), "all": copies},
    }


def make_jpegs(folder: Path, count: int) -> None:
    """Files that cost what photographs do: smooth shapes with some grain."""
    generator = np.random.default_rng(0)
    for number in range(count):
        coarse = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize(
            (SOURCE_SIDE, SOURCE_SIDE), Image.Resampling.BICUBIC
        )
        grain = generator.normal(0, 6, (SOURCE_SIDE, SOURCE_SIDE, 1))
        pixels = np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)
        place = folder / "train" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number}.jpg", quality=90)


def decode_bare(files: list[Path]) -> None:
    """What no decoder can leave out."""
    for file in files:
        with Image.open(file) as image:
            image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def bare_rate(pool: Any, files: list[Path]) -> float:
    began = time.perf_counter()
    pool.map(decode_bare, [files[rank::PROCESSES] for rank in range(PROCESSES)])
    return len(files) / (time.perf_counter() - began)


def cold_rate(folder: Path, count: int) -> float:
    """Into an empty cache, less what opening the same data takes with a full one."""
    cache = Path(tempfile.mkdtemp(dir=folder))
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        prepared(dataset=str(folder / "images"), cache_dir=cache, global_batch_size=16)
        seconds.append(time.perf_counter() - began)
    shutil.rmtree(cache)
    return count / (seconds[0] - seconds[1])


def measure_decoding(repetitions: int, count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_jpegs(folder / "images", count)
        files = sorted((folder / "images").rglob("*.jpg"))
        with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
            bare_rate(pool, files)
            cold_rate(folder, count)
            found = [(cold_rate(folder, count), bare_rate(pool, files)) for _ in range(repetitions)]
    cold, bare = median(rate for rate, _ in found), median(rate for _, rate in found)
    return {"decoding": {"ratio": cold / bare, "cold": cold, "bare": bare, "all": found}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each loader measurement")
    parser.add_argument("--images", type=int, default=1000, help="JPEG files to decode")
    asked = parser.parse_args()
    rates = {
        **measure_loader(asked.repetitions, asked.seconds),
        **measure_decoding(asked.repetitions, asked.images),
    }
    asked.output.write_text(json.dumps({"rates": rates}, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(rates, indent=1))


if __name__ == "__main__":
    main()
