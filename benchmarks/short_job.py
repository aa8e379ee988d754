"""A short job from the shell's return to its return, and its memory, beside its peers.

python benchmarks/short_job.py --output runs/bench-cpu/short_job.json [--repetitions 5]

One epoch of 192 JPEG files of 500 px and an evaluation of 24, a model of ViT-tiny's size with
random weights, all of which are trained, ddp on two processes of one thread each, the model saved:
`peers/trainer_job.py` under torchrun, and ``vit-colossal train`` with nothing decoded before (a new
``--cache-dir`` each time) and with what an earlier run has decoded. They take turns. Memory is that
of the whole job, launcher and ranks, where pages that several processes share count once; it is
sampled in runs of their own, which are not timed, beside `peers/ddp_loop.py` under torchrun too: a
plain loop that decodes nothing, and neither evaluates nor saves.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

import numpy as np
import psutil
from data_rates import make_jpegs
from predict_rate import make_model

TRAINED, EVALUATED, PROCESSES, BATCH = 192, 24, 2, 16
#: Repetitions that memory is sampled in, and the time between two samples.
MEMORY_REPETITIONS, SAMPLED_S = 3, 0.2
PEERS = Path(__file__).resolve().parent / "peers"
TORCHRUN = f"-m torch.distributed.run --standalone --nproc_per_node {PROCESSES} {PEERS}"
OURS = (
    "-m vit_colossal train --dataset photos --model model --output-dir run --overwrite --epochs 1 "
    f"--freeze none --lr 1e-4 --batch-size {BATCH} --nproc {PROCESSES} --device cpu --save-every 0 "
    "--cache-dir"
)
WAYS = {
    "Trainer": f"{TORCHRUN}/trainer_job.py photos model output {BATCH}",
    "nothing decoded": f"{OURS} cold",
    "decoded before": f"{OURS} warm",
}
PLAIN_LOOP = (
    f"{TORCHRUN}/ddp_loop.py --model model --images images.npy --labels labels.npy "
    f"--batch-size {BATCH} --warmup-steps 1 --steps {TRAINED // BATCH // PROCESSES - 1} "
    "--output plain.json"
)


def make_photos(folder: Path) -> None:
    """Two classes, and files of the training split moved to another one."""
    make_jpegs(folder, TRAINED + EVALUATED)
    files = sorted((folder / "train").rglob("*.jpg"), key=lambda file: int(file.stem))
    for file in files[TRAINED:]:
        place = folder / "validation" / file.parent.name
        place.mkdir(parents=True, exist_ok=True)
        file.rename(place / file.name)


@contextmanager
def job(work: Path, arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command of Python, which has ended without an error afterwards."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["HF_DATASETS_CACHE"] = str(work / "datasets")
    command = [sys.executable, *arguments.split()]
    with tempfile.TemporaryFile() as output:
        streams = {"stdout": output, "stderr": output}
        with subprocess.Popen(command, cwd=work, env=environment, **streams) as process:
            yield process
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{arguments}\n{output.read().decode()[-3000:]}")


def seconds(work: Path, arguments: str) -> float:
    """From its start to its end."""
    began = time.perf_counter()
    with job(work, arguments) as process:
        process.wait()
        return time.perf_counter() - began


def peak_bytes(work: Path, arguments: str) -> int:
    """Of it and all that it starts, at the most: the sum of ``Pss``, see proc_pid_smaps(5)."""
    peak = 0
    with job(work, arguments) as process:
        while process.poll() is None:
            peak = max(peak, sum(proportional_bytes(each) for each in family(process.pid)))
            time.sleep(SAMPLED_S)
    return peak


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it started, itself or through others."""
    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    return []


def proportional_bytes(process: psutil.Process) -> int:
    """Its own pages, and of those that several have its part; 0 once it has ended."""
    with suppress(psutil.Error):
        return int(process.memory_full_info().pss)
    return 0


def make_arrays(work: Path) -> None:
    """As many images for the plain loop, decoded."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (TRAINED, 3, 224, 224), dtype=np.uint8)
    np.save(work / "images.npy", images)
    np.save(work / "labels.npy", np.arange(TRAINED) % 2)


def measure(
    work: Path, ways: dict[str, str], repetitions: int, one: Callable[[Path, str], float]
) -> dict[str, list[float]]:
    """What each repetition of each way takes; one of each has warmed up."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(repetitions + 1):
        for name in list(ways)[:: 1 if repetition % 2 == 0 else -1]:
            shutil.rmtree(work / "cold", ignore_errors=True)
            taken[name].append(one(work, ways[name]))
    return {name: each[1:] for name, each in taken.items()}


def over_trainer(taken: dict[str, list[float]]) -> dict[str, float]:
    """Medians over Trainer's."""
    return {name: median(each) / median(taken["Trainer"]) for name, each in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--repetitions", type=int, default=5)
    asked = parser.parse_args()
    output = asked.output.resolve()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make_photos(work / "photos")
        make_model(work / "model")
        make_arrays(work)
        taken = measure(work, WAYS, asked.repetitions, seconds)
        held = measure(work, {**WAYS, "plain loop": PLAIN_LOOP}, MEMORY_REPETITIONS, peak_bytes)
    found = {
        "ratios": over_trainer(taken),
        "seconds": taken,
        "memory ratios": over_trainer(held),
        "peak bytes": held,
    }
    output.write_text(json.dumps({"rates": {"short job": found}}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
