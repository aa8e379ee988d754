"""What a benchmark found: medians and spreads, equal losses first; a table, JSON and a plot."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from vit_colossal.bench import prediction_table
from vit_colossal.bench.compare import Row
from vit_colossal.bench.device_peak import peak_flops
from vit_colossal.config.train_config import RECIPE
from vit_colossal.runtime.cpu import cpu_name

#: How far the first losses of cases that do the same work may be apart, relative; by precision.
#: In fp32 the order of sums differs (measured: up to 1e-6), in 16 bits every rounding.
LOSS_TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 2e-2}

#: The settings that make it other work; accumulating cuts the same batch.
_WORK = (*(name for name in RECIPE if name != "grad_accumulation"), "seed")

_SHARES = ("data", "forward_backward", "optimizer", "communication")

_HEADINGS = (
    *("case", "procs x threads", "precision", "batch", "images/s", "spread", "step ms", "p95 ms"),
    *("first step s", "peak MiB", "data", "fwd+bwd", "optimizer", "comm (hidden)", "MFU", "idle"),
)

NOTES = (
    "images/s: global batch over time (data-parallel size x batch, never times tp or pp), the "
    "median of the repetitions; spread: the lowest and highest of them. Step: median and 95th "
    "percentile of all timed steps. First step: from the launch to its end. Peak: the largest "
    "rank's resident set (CPU) or allocated memory (CUDA).",
    "Shares of a step: from a few steps under the profiler apart from the timed ones, mean over "
    "the ranks; communication counts while nothing is computed, what is hidden behind computation "
    "stands in brackets. MFU: model FLOPs (forward and twice that backward, nothing for "
    "recomputation) over the device's peak; empty where that is not known. Idle: measured waiting "
    "of pipeline stages, and (p-1)/(m+p-1).",
)


def summarize(row: Row) -> dict[str, Any]:
    """The numbers of one case; only its ``error`` where nothing was measured."""
    case = row.case
    head = {
        "name": case.name,
        "slug": case.slug,
        "peer": None if case.peer is None else case.peer.stem,
        "plugin": case.config.plugin,
        "processes": case.processes,
        "threads": case.threads,
        "precision": row.arithmetic,
        "data": case.data,
        "model": case.config.model,
        "dataset": case.config.dataset if case.data == "real" else None,
        "timed_steps": case.steps,
        "warmup_steps": case.warmup,
        **row.facts,
        "predicted": prediction_table.predicted(row),
    }
    if row.error or not row.repetitions:
        return {**head, "error": row.error or "not measured yet"}
    found, batch = row.repetitions, row.facts["global_batch"]
    speeds = [batch * case.steps / one["window_seconds"] for one in found]
    steps = [seconds for one in found for seconds in one["step_seconds"]]
    flops = peak_flops(row.facts["device"], row.precision)
    per_second = median(speeds) * row.facts["flops_per_image"]
    phases = next((one["phases"] for one in found if one.get("phases")), None)
    return {
        **head,
        "repetitions": len(found),
        "images_per_second": median(speeds),
        "images_per_second_all": speeds,
        "step_seconds": median(steps),
        "step_seconds_p95": float(np.percentile(steps, 95)),
        "time_to_first_step": median(one["time_to_first_step"] for one in found),
        "first_step_seconds": _median(found, "first_step_seconds"),
        "peak_memory_bytes": median(max(one["peak_memory_bytes"]) for one in found),
        "growth_bytes": row.growth_bytes,
        "data_resident_bytes": found[0].get("data_resident_bytes"),
        "data_seconds": _median(found, "data_seconds"),
        "phases": phases,
        "timeline": next((one["timeline"] for one in found if one.get("timeline")), None),
        "idle": phases["idle"] / phases["pipeline"] if phases and phases["pipeline"] else None,
        "mfu": None if flops is None else per_second / (case.processes * flops),
        "losses": found[0]["losses"],
        "load_before": [one["load_before"] for one in found],
    }


def _median(found: list[dict[str, Any]], key: str) -> float | None:
    values = [one[key] for one in found if key in one]
    return median(values) if values else None


def same_work(rows: list[Row]) -> list[dict[str, Any]]:
    """Cases that do the same work, with their first losses and how far these are apart.

    The same work is the same model, images, batch, precision and recipe. A peer's bf16 is autocast.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.repetitions:
            config = row.config or row.case.config
            recipe = [getattr(config, name) for name in _WORK]
            images = config.dataset if row.case.data == "real" else "synthetic"
            shape = (config.model, tuple(sorted(config.model_overrides.items())))
            key = (shape, images, row.facts["global_batch"], row.arithmetic, recipe)
            groups.setdefault(str(key), []).append(row)
    return [_compare(members) for members in groups.values()]


def _compare(members: list[Row]) -> dict[str, Any]:
    first = members[0]
    losses = {row.case.name: row.repetitions[0]["losses"] for row in members}
    expected = losses[first.case.name]
    off = {
        name: max(abs(a - b) / abs(b) for a, b in zip(mine, expected, strict=True))
        for name, mine in losses.items()
    }
    return {
        "model": first.case.config.model,
        "images": first.case.config.dataset if first.case.data == "real" else "synthetic",
        "global_batch": first.facts["global_batch"],
        "precision": first.arithmetic,
        "losses": losses,
        "relative_difference": off,
        "tolerance": LOSS_TOLERANCE[first.precision],
        "equal": all(value <= LOSS_TOLERANCE[first.precision] for value in off.values()),
    }


def describe_machine() -> dict[str, Any]:
    """What the numbers depend on beside the software."""
    info = Path("/proc/cpuinfo")
    flags: set[str] = set()
    if info.exists():
        lines = [line.split(":", 1) for line in info.read_text().splitlines() if ":" in line]
        flags = set(next((value.split() for key, value in lines if key.strip() == "flags"), []))
    kinds = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "cpu_features": [kind for kind in kinds if kind in flags],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "platform": platform.platform(),
    }


def as_document(rows: list[Row], command: str, software: dict[str, str | None]) -> dict[str, Any]:
    """All of it, as ``bench.json`` holds it."""
    return {
        "command": command,
        "software": software,
        "machine": describe_machine(),
        "same_work": same_work(rows),
        "cases": [summarize(row) for row in rows],
    }


def cells(case: dict[str, Any]) -> tuple[str, ...]:
    """One line of the table."""
    layout = f"{case['processes']} x {case['threads']}"
    head = (case["name"], layout, case["precision"], str(case.get("global_batch", "")))
    if "error" in case:
        return (*head, case["error"], *[""] * (len(_HEADINGS) - len(head) - 1))
    speeds, phases = case["images_per_second_all"], case["phases"]
    shares = [""] * 4
    if phases:
        shares = [f"{phases[name] / phases['step']:.1%}" for name in _SHARES]
        shares[3] += f" ({phases['overlapped'] / phases['step']:.1%})"
    idle = "" if case["idle"] is None else f"{case['idle']:.1%} / {case['bubble']:.1%}"
    return (
        *head,
        _number(case["images_per_second"]),
        f"{_number(min(speeds))}-{_number(max(speeds))}",
        f"{1e3 * case['step_seconds']:.1f}",
        f"{1e3 * case['step_seconds_p95']:.1f}",
        f"{case['time_to_first_step']:.1f}",
        f"{case['peak_memory_bytes'] / 2**20:.0f}",
        *shares,
        "" if case["mfu"] is None else f"{case['mfu']:.1%}",
        idle,
    )


def _number(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def as_markdown(document: dict[str, Any]) -> str:
    """The losses, then the table, with the command and versions that made them."""
    known = {**document["software"], **document["machine"]}
    about = ", ".join(f"{name} {value}" for name, value in known.items() if value)
    table = [_HEADINGS, *(cells(case) for case in document["cases"])]
    predicted = prediction_table.table(document["cases"])
    missing = prediction_table.reasons(document["cases"])
    parts = [
        f"`{document['command']}`  \n{about}",
        *(_losses(group) for group in document["same_work"] if len(group["losses"]) > 1),
        _markdown_table(table),
        *NOTES,
        *([_markdown_table(predicted), prediction_table.NOTE] if predicted else []),
        *(["\n".join(missing)] if missing else []),
    ]
    return "\n\n".join(parts) + "\n"


def _losses(group: dict[str, Any]) -> str:
    what = f"{group['model']}, {group['images']}, batch {group['global_batch']}"
    verdict = "equal" if group["equal"] else "DIFFERENT"
    title = f"First losses: {what}, {group['precision']}: {verdict} (to {group['tolerance']:g})"
    lines = [
        (name, *(f"{loss:.7f}" for loss in losses), f"{group['relative_difference'][name]:.1e}")
        for name, losses in group["losses"].items()
    ]
    count = max(len(line) for line in lines) - 2
    headings = ("case", *(f"step {n + 1}" for n in range(count)), "off by")
    return f"{title}\n\n{_markdown_table([headings, *lines])}"


def _markdown_table(lines: list[tuple[str, ...]]) -> str:
    text = ["| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines]
    text.insert(1, "|" + "---|" * len(lines[0]))
    return "\n".join(text)


def as_text(document: dict[str, Any]) -> str:
    """The tables with aligned columns."""
    lines = _aligned([_HEADINGS, *(cells(case) for case in document["cases"])])
    if predicted := prediction_table.table(document["cases"]):
        lines += ["", *_aligned(predicted), *prediction_table.reasons(document["cases"])]
    return "\n".join(lines)


def _aligned(table: list[tuple[str, ...]]) -> list[str]:
    """Columns as wide as what stands in them; the last cell of a line may run over."""
    count = len(table[0])
    widths = [max(len(line[n]) for line in table if any(line[n + 1 :])) for n in range(count - 1)]
    return [
        "  ".join(
            cell.ljust(width) for cell, width in zip(line, [*widths, 0], strict=True)
        ).rstrip()
        for line in table
    ]


def write(document: dict[str, Any], folder: Path) -> None:
    """``bench.json`` and ``bench.md``."""
    (folder / "bench.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (folder / "bench.md").write_text(as_markdown(document), encoding="utf-8")
