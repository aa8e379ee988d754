"""Part ``parity``: every layout step by step beside the plain loop, on the device."""

from __future__ import annotations

import json
import time
from typing import Any

from gpu_check.check import Check, Outcome, failed, passed
from gpu_check.running import Argument


def parity(check: Check) -> None:
    """``vit-colossal parity`` on as many processes as there are devices; one row a layout."""
    folder, began = check.folder / "parity", time.monotonic()
    command: list[Argument] = [
        "-m",
        "vit_colossal",
        "parity",
        "--device",
        check.device,
        "--peers",
        "none",
    ]
    command += ["--nproc", str(check.processes), "--output-dir", folder]
    command += ["--max-steps", "4" if check.tiny else "25"]
    if check.tiny:
        command += ["--layouts", "ddp", "--precision", "bf16"]
        command += ["--max-train-samples", "64", "--max-eval-samples", "32"]
    finished = check.runner.run("parity", command)
    if finished.code not in (0, 3):
        check.add("parity", "all layouts", failed(finished.problem()), finished.seconds)
        return
    document = json.loads((folder / "parity.json").read_text(encoding="utf-8"))
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in document["rows"]:
        rows.setdefault(row["name"], []).append(row)
    for name, mine in rows.items():
        check.add("parity", name, _judge(mine), time.monotonic() - began)


def _judge(rows: list[dict[str, Any]]) -> Outcome:
    """One layout in its precisions."""
    texts, problems = [], []
    for row in rows:
        kind = row["precision"] + (" clipped" if row["clip"] else "")
        difference = row["difference"]
        if difference is not None:
            texts.append(f"{kind} {difference['identical_steps']}/{difference['steps']}")
        problems += [f"{kind}: {problem}" for problem in row["problems"]]
    if problems:
        return failed("; ".join(problems))
    return passed(f"identical steps: {', '.join(texts)}; the rest within its spread")
