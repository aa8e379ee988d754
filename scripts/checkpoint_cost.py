"""What a checkpoint costs in training time, saved at once and in the background.

    python scripts/checkpoint_cost.py --out docs/checkpoint-cost.md

Runs without checkpoints, with them, and with them in the background take turns; the cost of one is
the difference of the medians, divided by the number of checkpoints.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
STEPS, EVERY = 40, 8
JOB = ("--nproc", "2", "--dataset", "digits", "--device", "cpu", "--precision", "fp32")
JOB += ("--max-train-samples", "1024", "--max-eval-samples", "8", "--global-batch-size", "16")
JOB += ("--max-steps", str(STEPS), "--log-every", str(EVERY), "--no-tensorboard", "--no-keep-best")
JOB += ("--model", "vit-small", "--model-config", "image_size=32")
WAYS = {
    "none": ("--save-every", "0"),
    "at once": ("--save-every", str(EVERY)),
    "in the background": ("--save-every", str(EVERY), "--async-save"),
}


def seconds(plugin: str, way: str, folder: Path) -> tuple[float, int]:
    """Seconds from the first to the last log line of training, and the bytes of a checkpoint."""
    run_dir = folder / "run"
    command = [sys.executable, str(ROOT / "train.py"), *JOB, "--plugin", plugin, *WAYS[way]]
    command += ["--output-dir", str(run_dir), "--overwrite"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, capture_output=True, env=environment, timeout=600)
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    times = [event["elapsed"] for event in events if event["event"] == "train"]
    last = run_dir / "checkpoints" / "last"
    size = sum(file.stat().st_size for file in last.iterdir()) if last.exists() else 0
    return times[-1] - times[0], size


def report(plugins: list[str], repeats: int) -> list[str]:
    """The table's lines."""
    saves = STEPS // EVERY - 1  # the last one comes after the last line
    lines = ["| plugin | checkpoint | way | whole run (median) | spread | cost of one |"]
    lines += ["|---|---|---|---|---|---|"]
    for plugin in plugins:
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        size = 0
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(repeats):
                for way in WAYS:
                    taken, written = seconds(plugin, way, Path(folder))
                    times[way].append(taken)
                    size = max(size, written)
        base = median(times["none"])
        for way, taken_times in times.items():
            middle = median(taken_times)
            spread = f"{min(taken_times):.2f} to {max(taken_times):.2f} s"
            cost = "" if way == "none" else f"{(middle - base) / saves * 1000:.0f} ms"
            lines.append(
                f"| {plugin} | {size / 1e6:.0f} MB | {way} | {middle:.2f} s | {spread} | {cost} |"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plugins", nargs="+", default=["ddp", "zero1"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "checkpoint-cost.md")
    asked = parser.parse_args()
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    command = f"python scripts/checkpoint_cost.py --repeats {asked.repeats}"
    lines = [
        "# What a checkpoint costs",
        "",
        textwrap.fill(
            f"`{command}` at commit {commit}, on {os.cpu_count()} CPU cores, {asked.repeats} runs "
            f"of each in turns. `{' '.join(JOB)}`: two processes with one thread each, so that a "
            "file that is written in the background takes its time from a training process. The "
            "cost is the difference to a run without checkpoints, for each checkpoint.",
            108,
            break_on_hyphens=False,
        ),
        "",
        *report(asked.plugins, asked.repeats),
    ]
    asked.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
