"""Does a long run, or do many short ones, leave anything behind? Prints tables.

python scripts/leaks.py long --steps 2000       memory, files and threads of each process
python scripts/leaks.py held --steps 1200       what Python's own objects take, in one process
python scripts/leaks.py launches --count 50     exit codes, files in TMPDIR, processes
python scripts/leaks.py signals --count 26      the same, with SIGTERM to one rank in all phases
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import uuid
from collections import Counter
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from launching import MARK, environment, kill_marked, marked  # noqa: E402

TRAIN = (sys.executable, str(ROOT / "train.py"), "--nproc", "2", "--device", "cpu")
TRAIN += ("--dataset", "digits", "--model", "vit-micro", "--global-batch-size", "8")
TRAIN += ("--max-eval-samples", "32")
#: An epoch of so many steps, so that each fiftieth step is followed by an evaluation and a save.
STEPS_OF_AN_EPOCH = 50
NOTHING_LEFT = "0 processes and 0 files left"
#: Of the short runs; and what one takes at most, with the evaluation and the save behind it.
STEPS, A_STEP_S = 12, 0.2


def sample(process: psutil.Process) -> tuple[float, int, int]:
    """Memory in MiB (of its own, not shared with others), open descriptors, threads."""
    return process.memory_full_info().uss / 2**20, process.num_fds(), process.num_threads()


def watch(steps: int, every_s: float) -> int:
    """Train, and print what each process held in each tenth of the run."""
    samples = STEPS_OF_AN_EPOCH * 8
    flags = ("--max-train-samples", str(samples), "--max-steps", str(steps))
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        flags += ("--epochs", str(-(-steps // STEPS_OF_AN_EPOCH)), "--output-dir", str(run_dir))
        launcher = subprocess.Popen([*TRAIN, *flags], env=environment(), stdout=subprocess.DEVNULL)
        seen: list[tuple[int, list[tuple[float, int, int]]]] = []
        while launcher.poll() is None:
            time.sleep(every_s)
            try:
                me = psutil.Process(launcher.pid)
                found = [sample(one) for one in (me, *me.children())]
                step = _last_step(run_dir)
            except (psutil.Error, OSError):
                continue
            if len(found) == 3 and step > 0:
                seen.append((step, found))
    tenths = {min(9, 10 * step // steps): (step, found) for step, found in seen}
    print("| step | launcher | rank 0 | rank 1 |\n|---|---|---|---|")
    for step, found in tenths.values():
        cells = [f"{mib:.0f} MiB, {files}, {threads}" for mib, files, threads in found]
        print(f"| {step} | {' | '.join(cells)} |")
    return launcher.returncode


def _last_step(run_dir: Path) -> int:
    metrics = run_dir / "metrics.jsonl"
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    steps = [line.partition('"step": ')[2].split(",")[0] for line in lines]
    return max((int(step) for step in steps if step.isdecimal()), default=0)


def hold(steps: int) -> int:
    """Train in this process, and print what Python holds at four and at nine tenths of the run."""
    from vit_colossal import TrainConfig, train

    def tell(run_dir: Path) -> None:
        for share in (0.4, 0.9):
            while _last_step(run_dir) < share * steps:
                time.sleep(0.5)
            gc.collect()
            held, _ = tracemalloc.get_traced_memory()
            print(f"step {_last_step(run_dir)}: {held:,} bytes", flush=True)

    samples = STEPS_OF_AN_EPOCH * 8
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        tracemalloc.start()
        threading.Thread(target=tell, args=(run_dir,), daemon=True).start()
        train(
            TrainConfig(
                **{"dataset": "digits", "model": "vit-micro", "device": "cpu", "lr": 1e-4},
                **{"max_train_samples": samples, "max_eval_samples": 32, "max_steps": steps},
                **{"global_batch_size": 8, "output_dir": run_dir, "overwrite": True},
                **{"log_every": 10},
            )
        )
    return 0


def launch_often(count: int) -> int:
    """Start runs one after another, and print how each kind of end was met."""
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            ends[_launch(Path(folder), number)[0]] += 1
            print(f"{number + 1}: {dict(ends)}", file=sys.stderr, flush=True)
    _print_ends(ends)
    return 0 if set(ends) == {f"exit code 0, {NOTHING_LEFT}"} else 1


def signal_often(count: int) -> int:
    """Send SIGTERM to one rank of each launch, at as many moments of a run."""
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        _, lasts_s, _ = _launch(Path(folder), 0)
        for number in range(1, count + 1):
            after_s = lasts_s * (number - 0.5) / count
            end, _, said = _launch(Path(folder), number, after_s)
            ends[end] += 1
            last = (said.strip().splitlines() or [""])[-1]
            print(f"{number}: after {after_s:.1f} s: {end} | {last[:100]}", file=sys.stderr)
    _print_ends(ends)
    ended_before = f"exit code 0, asked after the last step, {NOTHING_LEFT}"
    return 0 if set(ends) <= {f"exit code 143, {NOTHING_LEFT}", ended_before} else 1


def _launch(folder: Path, number: int, after_s: float | None = None) -> tuple[str, float, str]:
    """One run; how it ended, the seconds from its ranks' start to its end, and what it said.

    Args:
        folder: for its files.
        number: of the launch; chooses the rank.
        after_s: send SIGTERM to one rank so long after they were started.
    """
    temporary = folder / f"temporary-{number}"
    temporary.mkdir()
    flags = ("--max-train-samples", "32", "--max-steps", str(STEPS), "--overwrite")
    flags += ("--save-every", "4", "--output-dir", str(folder / "run"))
    # A cache of its own, so that each decodes.
    flags += ("--cache-dir", str(folder / f"cache-{number}"))
    mark = uuid.uuid4().hex
    launcher = subprocess.Popen(
        [*TRAIN, *flags],
        env={**environment(TMPDIR=str(temporary)), MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    me = psutil.Process(launcher.pid)
    while launcher.poll() is None and len(me.children()) < 2:
        time.sleep(0.02)
    began = time.monotonic()
    sent = 0.0
    if after_s is not None:
        time.sleep(after_s)
        sent = time.time()
        ranks = me.children() if launcher.poll() is None else []
        if ranks:
            ranks[number % len(ranks)].send_signal(signal.SIGTERM)
    said, _ = launcher.communicate(timeout=300)
    lasted_s = time.monotonic() - began
    time.sleep(0.5)
    processes = marked(mark)
    kill_marked(mark)
    # An empty folder of this name is PyTorch's.
    files = [name for name in os.listdir(temporary) if not name.startswith("torchinductor_")]
    end = f"{len(processes)} processes and {len(files)} files left"
    if sent and not launcher.returncode:
        # What comes within a step of the last one is heard after it: see `training.stop`.
        saved = (folder / "run" / "checkpoints" / f"step-{STEPS:06}").stat().st_mtime
        end = f"asked {'after' if sent > saved - A_STEP_S else 'BEFORE'} the last step, {end}"
    return f"exit code {launcher.returncode}, {end}", lasted_s, said


def _print_ends(ends: Counter[str]) -> None:
    print("| how it ended | launches |\n|---|---|")
    for end, times in ends.most_common():
        print(f"| {end} | {times} |")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    modes = parser.add_subparsers(dest="mode", required=True)
    modes.add_parser("long").add_argument("--steps", type=int, default=2000)
    modes.add_parser("held").add_argument("--steps", type=int, default=1200)
    modes.add_parser("launches").add_argument("--count", type=int, default=50)
    modes.add_parser("signals").add_argument("--count", type=int, default=30)
    asked = parser.parse_args()
    if asked.mode == "long":
        return watch(asked.steps, 1.0)
    if asked.mode == "held":
        return hold(asked.steps)
    return launch_often(asked.count) if asked.mode == "launches" else signal_often(asked.count)


if __name__ == "__main__":
    sys.exit(main())
