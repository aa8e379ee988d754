"""Prove the CUDA path on this machine, in parts that each run the project's own commands.

    python scripts/check_gpu.py [--only PART[,PART]] [--output-dir DIR] [--device cpu --tiny]

Needs PyTorch, ColossalAI and what they import, and nothing from a network. A part that fails, or
takes too long, says so in one line, and the next one runs. docs/gpu.md tells what each part does.

Exit code 0: nothing failed; 1: something did; 2: nothing could be started.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from gpu_check.check import Check, failed
from gpu_check.comparing import parity
from gpu_check.exporting import export
from gpu_check.resuming import resume
from gpu_check.running import ROOT, Runner
from gpu_check.timing import offload, speed
from gpu_check.training import train

from vit_colossal.runtime.pins import colossalai_problems

#: In this order: what each does, and its share of the time limit; what it leaves, the next has.
PARTS: dict[str, tuple[Callable[[Check], None], int]] = {
    "train": (train, 90),
    "parity": (parity, 90),
    "resume": (resume, 70),
    "export": (export, 50),
    "speed": (speed, 240),
    "offload": (offload, 60),
}
#: Seconds for all parts: on a CPU the same work takes far longer.
LIMITS = {"cuda": 600.0, "cpu": 7200.0}
#: The folders that this script fills.
MADE = (
    *("cache", "exports", "logs", "parity", "pictures", "runs"),
    *("speed-eager", "speed-compiled", "offload-gemini"),
)
PACKAGES = ("torch", "colossalai", "transformers", "datasets", "numpy")


def read_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", metavar="PART[,PART]", help=f"of {', '.join(PARTS)}; all if none")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="show that the script works, no more")
    parser.add_argument("--output-dir", type=Path, help="default runs/gpu-check-TIME")
    parser.add_argument("--jobs", type=int, help="commands at a time, but never while timing")
    parser.add_argument("--time-limit", type=float, help="seconds for all parts together")
    parser.add_argument("--references", type=Path, metavar="FILE", help="judge the training by it")
    asked = parser.parse_args(arguments)
    asked.parts = list(PARTS) if asked.only is None else asked.only.split(",")
    for name in asked.parts:
        if name not in PARTS:
            parser.error(f"--only {name}: not one of {', '.join(PARTS)}")
    return asked


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that are asked for."""
    asked = read_flags(arguments)
    names: list[str] = []
    problems = colossalai_problems()
    if asked.device == "cuda" and not problems:
        names, problems = _device_names()
    if problems:
        print(f"error: {problems[0]}", file=sys.stderr)
        return 2
    # Ended from outside, it takes along what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    check = _prepare(asked, names)
    print(f"{check.facts['machine']}; results in {check.folder}\n", flush=True)
    limit = asked.time_limit or LIMITS[asked.device]
    deadline, whole = time.monotonic(), sum(PARTS[name][1] for name in asked.parts)
    for name in asked.parts:
        part, share = PARTS[name]
        deadline += limit * share / whole
        check.runner.deadline = deadline
        began = time.monotonic()
        try:
            part(check)
        except Exception as error:  # a part that breaks must not keep the others from running
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            check.add(name, "the part itself", failed(text), time.monotonic() - began)
    check.write(finished=True)
    (check.folder / "table.txt").write_text(check.table() + "\n", encoding="utf-8")
    print(check.table())
    return 1 if check.failures else 0


def _prepare(asked: argparse.Namespace, names: list[str]) -> Check:
    folder = asked.output_dir or ROOT / "runs" / time.strftime("gpu-check-%Y%m%d-%H%M%S")
    folder = folder.absolute()
    # Made by this script alone; results of an earlier run would be taken for this one's.
    for made in MADE:
        shutil.rmtree(folder / made, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    processes = _ranks(len(names)) if asked.device == "cuda" else 1
    cores = len(os.sched_getaffinity(0))
    # Small runs share a device well; those of several ranks would wait for each other.
    jobs = asked.jobs or (max(1, min(6, cores // 2)) if processes == 1 else 1)
    if asked.device == "cpu":
        jobs = asked.jobs or max(1, min(2, cores))
    facts = {
        "command": shlex.join(sys.argv),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "machine": f"{names[0]} x {len(names)}" if names else f"CPU, {cores} cores",
        "processes": processes,
        "jobs": jobs,
        "tiny": asked.tiny,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
    }
    references = asked.references.absolute() if asked.references else None
    return Check(
        device=asked.device,
        processes=processes,
        device_name=names[0] if names else "",
        tiny=asked.tiny,
        folder=folder,
        runner=Runner(folder, asked.device, jobs),
        references=references,
        facts=facts,
    )


def _device_names() -> tuple[list[str], list[str]]:
    """All CUDA devices, and why there are none.

    Asked in a process of its own: to know them is to hold a context on a device.
    """
    asking = "import torch.cuda as c\nfor i in range(c.device_count()): print(c.get_device_name(i))"
    answer = subprocess.run([sys.executable, "-c", asking], capture_output=True, text=True)
    names = answer.stdout.splitlines()
    if answer.returncode:
        return [], [f"PyTorch cannot be asked for devices: {answer.stderr.splitlines()[-1]}"]
    nothing = "no CUDA device: run this where one is, or try it with --device cpu --tiny"
    return names, [] if names else [nothing]


def _ranks(devices: int) -> int:
    """As many as divide the jobs' batches."""
    return max(count for count in (1, 2, 4, 8) if count <= devices)


if __name__ == "__main__":
    sys.exit(main())
