"""A short job from the shell's return to its return, beside transformers.Trainer.

python benchmarks/short_job.py --output runs/bench-cpu/short_job.json [--repetitions 5]

One epoch of 192 JPEG files of 500 px and an evaluation of 24, a model of ViT-tiny's size with
random weights, all of which are trained, ddp on two processes of one thread each, the model saved:
`peers/trainer_job.py` under torchrun, and ``vit-colossal train`` with nothing decoded before (a new
``--cache-dir`` each time) and with what an earlier run has decoded. They take turns.
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
from pathlib import Path
from statistics import median

from data_rates import make_jpegs
from predict_rate import make_model

TRAINED, EVALUATED, PROCESSES, BATCH = 192, 24, 2, 16
TORCHRUN = f"-m torch.distributed.run --standalone --nproc_per_node {PROCESSES}"
OURS = (
    "-m vit_colossal train --dataset photos --model model --output-dir run --overwrite --epochs 1 "
    f"--freeze none --lr 1e-4 --batch-size {BATCH} --nproc {PROCESSES} --device cpu --save-every 0 "
    "--cache-dir"
)


def make_photos(folder: Path) -> None:
    """Two classes, and files of the training split moved to another one."""
    make_jpegs(folder, TRAINED + EVALUATED)
    files = sorted((folder / "train").rglob("*.jpg"), key=lambda file: int(file.stem))
    for file in files[TRAINED:]:
        place = folder / "validation" / file.parent.name
        place.mkdir(parents=True, exist_ok=True)
        file.rename(place / file.name)


def seconds(work: Path, arguments: str) -> float:
    """Of a command, from its start to its end."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["HF_DATASETS_CACHE"] = str(work / "datasets")
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments.split()], cwd=work, env=environment, capture_output=True
    )
    taken = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{arguments}\n{done.stderr.decode()[-3000:]}")
    return taken


def measure(work: Path, repetitions: int) -> dict[str, list[float]]:
    """Seconds of each repetition of each way; one of each has warmed up."""
    make_photos(work / "photos")
    make_model(work / "model")
    script = Path(__file__).parent / "peers" / "trainer_job.py"
    ways = {
        "Trainer": f"{TORCHRUN} {script.resolve()} photos model output {BATCH}",
        "nothing decoded": f"{OURS} cold",
        "decoded before": f"{OURS} warm",
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(repetitions + 1):
        for name in list(ways)[:: 1 if repetition % 2 == 0 else -1]:
            shutil.rmtree(work / "cold", ignore_errors=True)
            taken[name].append(seconds(work, ways[name]))
    return {name: each[1:] for name, each in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--repetitions", type=int, default=5)
    asked = parser.parse_args()
    output = asked.output.resolve()
    with tempfile.TemporaryDirectory() as folder:
        taken = measure(Path(folder), asked.repetitions)
    peer = median(taken["Trainer"])
    ratios = {name: median(each) / peer for name, each in taken.items()}
    found = {"ratios": ratios, "seconds": taken}
    output.write_text(json.dumps({"rates": {"short job": found}}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
