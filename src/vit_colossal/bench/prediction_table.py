"""What was predicted of the cases beside what was measured: a table, and the same as JSON."""

from __future__ import annotations

from statistics import median
from typing import Any

from vit_colossal.bench.compare import Row

_HEADINGS = (
    *("case", "images/s", "predicted", "mean step ms", "predicted", "error"),
    *("grew by MiB", "predicted", "error"),
)

NOTE = (
    "Predicted before anything was trained, as by `vit-colossal plan --measure`, without waiting "
    "for images; the mean step is that of the images/s. Grew by: what the rank that grew most took "
    "beyond what its process had before. Errors are shares of what was measured; below zero, too "
    "little was predicted."
)


def predicted(row: Row) -> dict[str, Any] | None:
    """The prediction of a row, with its errors as shares of what was measured; None of a peer."""
    found = row.prediction
    if found is None:
        return None
    seconds, batch = found.step_seconds, row.facts["global_batch"]
    mean = median(row.step_seconds) if row.repetitions else None
    return {
        "step_seconds": seconds,
        "images_per_second": None if seconds is None else batch / seconds,
        "growth_bytes": found.growth_bytes,
        "step_error": _off(seconds, mean),
        "growth_error": _off(found.growth_bytes, row.growth_bytes),
        "why_not": found.why or None,
    }


def _off(guess: float | None, measured: float | None) -> float | None:
    return None if guess is None or not measured else guess / measured - 1


def table(cases: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A line for each case that is no peer, below the headings; empty where there is none."""
    lines = [_line(case, case["predicted"]) for case in cases if case.get("predicted")]
    return [_HEADINGS, *lines] if lines else []


def reasons(cases: list[dict[str, Any]]) -> list[str]:
    """Why something of a case is not predicted, and which cases that is true of."""
    names: dict[str, list[str]] = {}
    for case in cases:
        if case.get("predicted") and case["predicted"]["why_not"]:
            names.setdefault(case["predicted"]["why_not"], []).append(case["name"])
    return [f"- {', '.join(those)}: {reason}" for reason, those in names.items()]


def _line(case: dict[str, Any], guess: dict[str, Any]) -> tuple[str, ...]:
    mean = None
    if "images_per_second" in case:
        mean = case["global_batch"] / case["images_per_second"]
    return (
        case["name"],
        _number(case.get("images_per_second")),
        _number(guess["images_per_second"]),
        _number(mean, 1e3),
        _number(guess["step_seconds"], 1e3),
        _percent(guess["step_error"]),
        _number(case.get("growth_bytes"), 2**-20),
        _number(guess["growth_bytes"], 2**-20),
        _percent(guess["growth_error"]),
    )


def _number(value: float | None, factor: float = 1) -> str:
    if value is None:
        return "-"
    return f"{value * factor:.1f}" if value * factor < 100 else f"{value * factor:,.0f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.0%}"
