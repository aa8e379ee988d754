"""How long a run takes to be ready for its first step, over importing what it is built on.

python benchmarks/startup.py --output runs/bench-cpu/startup.json [--repetitions 5]

Fresh processes in turn: one imports PyTorch, transformers' ViT and ColossalAI's plugins; the other
does what ``train.py --plugin ddp`` does up to the first step, on digits whose cache exists. It also
lists the large packages that only the second one imports.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

IMPORTS = """
import vit_colossal.runtime  # before colossalai: it keeps inductor from starting compilers
import torch, transformers, colossalai
from transformers import ViTForImageClassification, ViTImageProcessor
from colossalai.booster import Booster
from colossalai.booster.plugin import (
    GeminiPlugin, HybridParallelPlugin, LowLevelZeroPlugin, TorchDDPPlugin,
)
"""
READY = """
from vit_colossal import runtime
from vit_colossal.config.reading import load_config
from vit_colossal.training.run import plan_run
from vit_colossal.runtime.group import Topology, start, stop
flags = ["--dataset", "digits", "--model", "vit-micro", "--device", "cpu"]
plan, data = plan_run(load_config(flags), Topology())
runtime.activate("cpu")
from vit_colossal.training.job import build_job
job = build_job(plan, data, start(Topology(), "cpu", 60))
"""
MODULES = "\nimport sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
#: Packages that cost tenths of a second each.
HEAVY = ("sklearn", "scipy", "datasets", "pandas", "pyarrow", "matplotlib", "tensorboard", "onnx")


def run(code: str) -> tuple[float, set[str]]:
    """Seconds of a fresh process until the code is through, and the packages it imported."""
    # The clock ends inside: what a process does at its end is no part of a start.
    code += "\nimport time; print(time.time())" + MODULES
    began = time.time()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    ended, modules = done.stdout.strip().splitlines()[-2:]
    return float(ended) - began, set(modules.split())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--repetitions", type=int, default=5)
    asked = parser.parse_args()
    run(READY)  # fills the cache, and the system's
    imports, ready = [], []
    for _ in range(asked.repetitions):
        seconds, base = run(IMPORTS)
        imports.append(seconds)
        seconds, ours = run(READY)
        ready.append(seconds)
    found = {
        "over_imports": median(ready) - median(imports),
        "imports": imports,
        "ready": ready,
        "heavy_packages_of_the_imports": sorted(base.intersection(HEAVY)),
        "heavy_packages_more": sorted((ours - base).intersection(HEAVY)),
    }
    asked.output.write_text(json.dumps({"rates": {"startup": found}}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
