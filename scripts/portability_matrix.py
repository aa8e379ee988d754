"""Continue every layout's checkpoint under every other: writes docs/portability.md.

    python scripts/portability_matrix.py --out docs/portability.md

Every source and target at two processes, and a sample at one and four. Fails when fp32 to fp32
leaves the source's loss curve by more than 1e-5.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests"), str(ROOT / "tests" / "distributed")]

from portability import HALF, LAYOUTS, RECIPE, STEPS, run_pairs  # noqa: E402

CLOSE = 1e-5
AT_TWO = [name for name, layout in LAYOUTS.items() if layout.processes == 2]
OTHERS = [name for name in LAYOUTS if name not in AT_TWO]
SOME = ["ddp fp32, 2", "tp2 fp32, 2", "pp2 fp32, 2", "gemini sharded bf16, 2"]


def all_pairs() -> list[tuple[str, str]]:
    """Every pair at two processes; to, from and between one and four with some of them."""
    full = [(source, target) for source in AT_TWO for target in AT_TWO]
    sample = [(source, target) for source in SOME for target in OTHERS]
    back = [(source, target) for source in OTHERS for target in [*SOME, *OTHERS]]
    return full + sample + back


def in_fp32(pair: tuple[str, str]) -> bool:
    return all(LAYOUTS[name].precision == "fp32" for name in pair)


def table(drifts: dict[tuple[str, str], float]) -> list[str]:
    """Sources as rows, targets as columns."""
    names = list(LAYOUTS)
    lines = [f"| from \\ to | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for source in names:
        cells = []
        for target in names:
            drift = drifts.get((source, target))
            cells.append("" if drift is None else "0" if drift == 0 else f"{drift:.0e}")
        lines.append(f"| **{source}** | {' | '.join(cells)} |")
    return lines


def report(drifts: dict[tuple[str, str], float], commit: str) -> str:
    """The tables as Markdown."""
    exact = {pair: drift for pair, drift in drifts.items() if in_fp32(pair)}
    other = {pair: drift for pair, drift in drifts.items() if not in_fp32(pair)}
    same = [drift for (source, target), drift in drifts.items() if source == target]
    lines = [
        "# A checkpoint of one layout under another",
        "",
        f"`python scripts/portability_matrix.py` at commit {commit}. A run of {STEPS} steps "
        f"(`{RECIPE}`) saves after step {HALF}, in the middle of an epoch. Each target continues "
        "from there under its own layout, with the weights, the optimizer's moments and the place "
        "in the schedule and the epoch. The table shows the largest relative difference of a "
        "step's loss from the source's own, uninterrupted run. Layouts are named with their "
        "precision and number of processes.",
        "",
        *table(drifts),
        "",
        f"- fp32 to fp32, {len(exact)} pairs: at most {max(exact.values()):.1e} "
        f"(allowed: {CLOSE}). Sums are taken in another order, so layouts differ by rounding.",
        f"- With 16 bits on either side, {len(other)} pairs: at most {max(other.values()):.1e}. "
        "The state is carried in fp32; the difference is that of the two precisions.",
        f"- The same layout again, {len(same)} pairs: {sum(d == 0 for d in same)} with no "
        "difference at all.",
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "portability.md")
    asked = parser.parse_args()
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("VIT_COLOSSAL_CACHE", f"{folder}/cache")
        drifts = run_pairs(Path(folder), all_pairs(), timeout_s=3600)
    asked.out.write_text(report(drifts, commit), encoding="utf-8")
    far = {pair: drift for pair, drift in drifts.items() if in_fp32(pair) and drift > CLOSE}
    for (source, target), drift in far.items():
        print(f"FAILED: {source} to {target}: {drift:.1e}", file=sys.stderr)
    return 1 if far else 0


if __name__ == "__main__":
    sys.exit(main())
