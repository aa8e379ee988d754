"""Train the digits job in every layout and write the accuracies to docs/accuracy.md.

    python scripts/accuracy_table.py

One run after the other, each as `python train.py --nproc N --config configs/digits_cpu_pp2.yaml`
with the flags that its row shows; 1 to 2 minutes each. A row that exists is not run again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from vit_colossal.plan.layouts import SMALL_CHUNKS
from vit_colossal.rundir.record import describe_software

ROOT = Path(__file__).parents[1]
CONFIG = "configs/digits_cpu_pp2.yaml"
NO_PIPELINE = "--pp 1 --num-microbatches None"
CHUNKS = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in SMALL_CHUNKS.items())

#: Name, processes, flags.
ROWS = (
    ("ddp", 1, f"--plugin ddp {NO_PIPELINE}"),
    ("ddp", 2, f"--plugin ddp {NO_PIPELINE}"),
    ("ddp bf16", 2, f"--plugin ddp {NO_PIPELINE} --precision bf16"),
    ("zero1", 2, f"--plugin zero1 {NO_PIPELINE}"),
    ("zero2", 2, f"--plugin zero2 {NO_PIPELINE}"),
    ("zero2 bf16", 2, f"--plugin zero2 {NO_PIPELINE} --precision bf16"),
    ("gemini bf16, sharded", 2, f"--plugin gemini {NO_PIPELINE} --precision bf16 {CHUNKS}"),
    ("hybrid tp2", 2, f"--tp 2 {NO_PIPELINE}"),
    ("hybrid pp2", 2, ""),
    ("hybrid dp2 + ZeRO-1 bf16", 2, f"{NO_PIPELINE} --zero 1 --precision bf16"),
    ("hybrid tp2 x pp2", 4, "--tp 2"),
    ("hybrid pp2 x dp2", 4, ""),
    ("hybrid pp2 x dp2 + ZeRO-1 bf16", 4, "--zero 1 --precision bf16"),
)


def run(processes: int, flags: str, run_dir: Path) -> dict[str, float]:
    """One training; its last evaluation event."""
    command = [sys.executable, "train.py", "--nproc", str(processes), "--config", CONFIG]
    output = ["--output-dir", str(run_dir), "--overwrite", "--save-every", "0"]
    subprocess.run([*command, *flags.split(), *output], cwd=ROOT, check=True, timeout=1200)
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == "eval"][-1]


def main() -> None:
    runs = ROOT / "runs" / "accuracy"
    rows = []
    for name, processes, flags in ROWS:
        run_dir = runs / f"{processes}-{name.replace(' ', '-').replace(',', '')}"
        result = run_dir / "result.json"
        if not result.exists():
            result.write_text(json.dumps(run(processes, flags, run_dir)), encoding="utf-8")
        event = json.loads(result.read_text(encoding="utf-8"))
        counts = f"{event['correct']}/{event['total']}"
        rows.append(
            f"| {name} | {processes} | {event['accuracy']:.4f} ({counts}) "
            f"| {event['loss']:.4f} | `{flags or 'none'}` |"
        )
    software = ", ".join(f"{name} {version}" for name, version in describe_software().items())
    text = "\n".join(
        [
            "# Accuracy on digits in every layout",
            "",
            "One seed (42), CPU over gloo; `python scripts/accuracy_table.py` writes this from",
            f"`python train.py --nproc PROCESSES --config {CONFIG}` with each row's flags added.",
            f"{software}.",
            "",
            "| layout | processes | accuracy | evaluation loss | flags |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
    (ROOT / "docs" / "accuracy.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
