"""How well predictions do beside two baselines, and the tables that ``planner.py`` writes.

The baselines are a constant, and the parameters of the model times a constant. Both constants are
the medians of what was measured, which favors them; both choose what was drawn first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from vit_colossal.bench.report import describe_machine
from vit_colossal.rundir.record import describe_software

#: A choice is near the best where it takes so much longer at most.
NEAR = 0.10
#: Groups of fewer layouts leave no choice.
_CHOICE = 4


@dataclass(frozen=True)
class TimeRow:
    """A layout's step.

    Attributes:
        name: of the case.
        group: what it is compared with.
        processes: that ran it.
        parameters: of the model.
        predictions: seconds of a step, by the rates measured just before each repetition.
        measured: the same of each repetition.
        error: why there are none.
    """

    name: str
    group: str
    processes: int
    parameters: int
    predictions: list[float]
    measured: list[float]
    error: str

    @property
    def seconds(self) -> float:
        return median(self.measured)

    @property
    def spread(self) -> float:
        """Of the repetitions, as a share of their median: the noise."""
        return (max(self.measured) - min(self.measured)) / self.seconds


@dataclass(frozen=True)
class MemoryRow:
    """What the fullest rank of a layout grows by, in bytes; None where it failed."""

    name: str
    predicted: int
    measured: int | None
    error: str

    @property
    def off(self) -> float | None:
        """The prediction's error as a share of what was measured; negative is too little."""
        return None if self.measured is None else self.predicted / self.measured - 1


@dataclass(frozen=True)
class Verdict:
    """How well the predictions of one kind do.

    Attributes:
        error: mean of absolute errors (:func:`usual_error`), by processes.
        worst_error: the largest of them.
        rank_correlation: Spearman's.
        groups: in which there was a choice.
        near_the_best: groups in which the layout that is predicted to be fastest is.
        worst_choice: how much longer it took than the fastest, at most.
    """

    error: dict[int, float]
    worst_error: float
    rank_correlation: float
    groups: int
    near_the_best: int
    worst_choice: float


def usual_error(predictions: Sequence[float], measured: Sequence[float]) -> float:
    """As a share of the measured time: the median of the repetitions' errors.

    Each repetition is compared with the prediction of the same minutes, as what else the machine
    does moves both.
    """
    # There is one prediction more while a repetition is still measured.
    pairs = zip(predictions, measured, strict=False)
    return median(predicted / seconds for predicted, seconds in pairs) - 1


def judge(rows: Sequence[TimeRow], predict: Callable[[TimeRow], Sequence[float]]) -> Verdict:
    """How well predictions do.

    Args:
        rows: at least one, measured.
        predict: seconds of a step, of each repetition.
    """

    def usual(row: TimeRow) -> float:
        return median(predict(row))

    errors = [abs(usual_error(predict(row), row.measured)) for row in rows]
    names = dict.fromkeys(row.group for row in rows)
    groups = [[row for row in rows if row.group == name] for name in names]
    losses = [
        min(group, key=usual).seconds / min(row.seconds for row in group) - 1
        for group in groups
        if len(group) >= _CHOICE
    ]
    counts = sorted({row.processes for row in rows})
    pairs = list(zip(errors, rows, strict=True))
    return Verdict(
        error={n: fmean(e for e, row in pairs if row.processes == n) for n in counts},
        worst_error=max(errors),
        rank_correlation=correlation(
            np.array([usual(row) for row in rows]), np.array([row.seconds for row in rows])
        ),
        groups=len(losses),
        near_the_best=sum(loss <= NEAR for loss in losses),
        worst_choice=max(losses, default=0.0),
    )


def correlation(left: np.ndarray, right: np.ndarray) -> float:
    """Spearman's; 0 where one side is constant."""
    ranks = [np.array([(np.sum(v < x) + np.sum(v <= x)) / 2 for x in v]) for v in (left, right)]
    if any(np.ptp(each) == 0 for each in ranks):
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def judge_all(rows: Sequence[TimeRow]) -> dict[str, Verdict]:
    """The plan and both baselines."""
    constant = median(row.seconds for row in rows)
    each = median(row.seconds / row.parameters for row in rows)
    return {
        "plan": judge(rows, lambda row: row.predictions),
        "a constant": judge(rows, lambda row: [constant] * len(row.measured)),
        "parameters": judge(rows, lambda row: [each * row.parameters] * len(row.measured)),
    }


def write_report(times: Sequence[TimeRow], memory: Sequence[MemoryRow], place: Path) -> str:
    """Write what is measured so far to ``place`` with .md and .json.

    Returns:
        The tables.
    """
    measured = [row for row in times if row.measured]
    verdicts = judge_all(measured) if measured else {}
    failed = {row.name: row.error for row in (*times, *memory) if row.error}
    parts = [_verdict_table(verdicts), _time_table(measured)] if measured else []
    parts += [_memory_table(memory)] if memory else []
    parts += [f"{name}: {error}" for name, error in failed.items()]
    text = "\n\n".join(parts) + "\n"
    document: dict[str, Any] = {
        "machine": describe_machine(),
        "software": describe_software(),
        "verdicts": {name: asdict(each) for name, each in verdicts.items()},
        "times": [asdict(row) for row in times],
        "memory": [asdict(row) for row in memory],
    }
    place.parent.mkdir(parents=True, exist_ok=True)
    place.with_suffix(".md").write_text(text, encoding="utf-8")
    place.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return text


def _verdict_table(verdicts: dict[str, Verdict]) -> str:
    lines = [
        "| | mean error by processes | worst | rank correlation | within 10 % | worst choice |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in verdicts.items():
        errors = ", ".join(f"{count}: {error:.0%}" for count, error in one.error.items())
        lines.append(
            f"| {name} | {errors} | {one.worst_error:.0%} | {one.rank_correlation:.2f} | "
            f"{one.near_the_best} of {one.groups} | {one.worst_choice:+.0%} |"
        )
    return "\n".join(lines)


def _time_table(rows: Sequence[TimeRow]) -> str:
    lines = [
        f"Median spread of a layout's repetitions: {median(row.spread for row in rows):.1%}.",
        "Seconds are medians over the repetitions, and so is the error, each repetition with its",
        "own prediction.",
        "",
        "| layout | measured s | predicted s | error | spread |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        predicted, off = median(row.predictions), usual_error(row.predictions, row.measured)
        numbers = f"{row.seconds:.3g} | {predicted:.3g} | {off:+.0%} | {row.spread:.0%}"
        lines.append(f"| {row.name} | {numbers} |")
    return "\n".join(lines)


def _memory_table(rows: Sequence[MemoryRow]) -> str:
    lines = ["| layout | grew by MiB | predicted MiB | error |", "|---|---|---|---|"]
    for row in rows:
        if row.measured is not None:
            sizes = f"{row.measured / 2**20:,.0f} | {row.predicted / 2**20:,.0f}"
            lines.append(f"| {row.name} | {sizes} | {row.off:+.0%} |")
    return "\n".join(lines)
