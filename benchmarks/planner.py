"""How far predicted step times are from measured ones, and whether the plan picks a fast layout.

python benchmarks/planner.py --output-dir runs/planner [--groups 3] [--layouts 4] [--record FILE]

A group is one piece of work (model, batch, precision) on so many CPU processes. Each is calibrated
once, as ``vit-colossal plan --measure`` does, which trains none of its layouts; of its candidates
some are drawn, with a seed, and measured by the machinery of ``vit-colossal bench``: three
repetitions, interleaved, each in processes of its own. All of it takes about two hours; what is
ended goes on where it was when it is started again with the same folder on the same commit.

Two baselines stand beside: a constant, and the parameters of the model times a constant. Both
constants are the medians of what was measured, which favors them; both choose what was drawn first.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from vit_colossal.bench.case import BenchCase
from vit_colossal.bench.compare import Bench, Row
from vit_colossal.bench.config import BenchConfig
from vit_colossal.bench.data import SYNTHETIC_LABELS
from vit_colossal.bench.report import describe_machine
from vit_colossal.calibration.calibrate import timed
from vit_colossal.forecast.candidates import CHOSEN, Candidate, candidates
from vit_colossal.forecast.devices import room_here
from vit_colossal.forecast.subject import subject
from vit_colossal.rundir.record import describe_software

STEPS, WARMUP, REPETITIONS, SEED = 4, 1, 3, 0
#: Of a group: within so much of the best measured one.
NEAR = 0.10
_MODELS = (
    ("vit-tiny", {"image_size": 64}),
    ("vit-tiny", {"image_size": 160}),
    ("vit-small", {"image_size": 64}),
)
_BATCH = 32


@dataclass(frozen=True)
class Group:
    """One piece of work on so many processes."""

    model: str
    overrides: dict[str, Any]
    processes: int
    precision: str

    def __str__(self) -> str:
        size = self.overrides["image_size"]
        return f"{self.model} {size} px {self.precision} on {self.processes}"

    @property
    def settings(self) -> dict[str, Any]:
        """Of all its layouts."""
        names = {"model": self.model, "model_overrides": self.overrides, "device": "cpu"}
        return {**names, "precision": self.precision, "global_batch_size": _BATCH}


#: The first ones are the smallest of each number of processes.
GROUPS = [
    Group(model, overrides, processes, precision)
    for (model, overrides), precision, processes in product(_MODELS, ("fp32", "bf16"), (2, 1, 4))
]


def drawn(group: Group, folder: Path, count: int) -> tuple[list[Candidate], int]:
    """Some candidates with their predicted times, and the model's parameters."""
    os.environ["OMP_NUM_THREADS"] = str(threads(group))
    asked = BenchConfig(**group.settings, cache_dir=folder / "cache")
    room, labels = room_here(asked, group.processes), len(SYNTHETIC_LABELS)
    about = subject(asked, set(group.settings), room.device, group.processes, labels)
    found = candidates(about.plan, set(group.settings), group.processes, room, about.whole)
    found, _ = timed(found, about, group.processes, room)
    fitting = sorted((each for each in found.found if each.fits(room)), key=lambda e: e.flags)
    return random.Random(SEED).sample(fitting, min(count, len(fitting))), about.whole.numel


def threads(group: Group) -> int:
    return max(1, len(os.sched_getaffinity(0)) // group.processes)


def case_of(group: Group, candidate: Candidate) -> BenchCase:
    config = candidate.plan.config
    changes = {name: getattr(config, name) for name in CHOSEN}
    job = BenchConfig(**group.settings).job(STEPS + WARMUP, changes)
    name = f"{group}: {candidate.flags}"
    return BenchCase(name, job, group.processes, threads(group), "synthetic", STEPS, WARMUP)


def measured(row: Row) -> list[float]:
    """Seconds of a step, of each repetition."""
    return [each["window_seconds"] / STEPS for each in row.repetitions]


def judge(rows: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """How well the predictions of one name do.

    Args:
        rows: ``group``, ``processes``, ``seconds`` and, by name, what was predicted.
        name: of the predictions.
    """
    seconds, predicted = (np.array([row[key] for row in rows]) for key in ("seconds", name))
    errors = np.abs(predicted - seconds) / seconds
    groups = [[r for r in rows if r["group"] == g] for g in dict.fromkeys(r["group"] for r in rows)]
    losses = [
        min(group, key=lambda row: row[name])["seconds"] / min(r["seconds"] for r in group) - 1
        for group in groups
        if len(group) > 1
    ]
    counts = sorted({row["processes"] for row in rows})
    of_counts = [[e for e, r in zip(errors, rows, strict=True) if r["processes"] == n]
                 for n in counts]  # fmt: skip
    return {
        "error": {n: float(fmean(part)) for n, part in zip(counts, of_counts, strict=True)},
        "worst_error": float(errors.max()),
        "rank_correlation": correlation(predicted, seconds),
        "groups": len(losses),
        "near_the_best": sum(loss <= NEAR for loss in losses),
        "worst_choice": max(losses, default=0.0),
    }


def correlation(left: np.ndarray, right: np.ndarray) -> float:
    """Spearman's; 0 where one side is constant."""
    ranks = [np.array([(np.sum(v < x) + np.sum(v <= x)) / 2 for x in v]) for v in (left, right)]
    if any(np.ptp(each) == 0 for each in ranks):
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def with_baselines(rows: list[dict[str, Any]]) -> None:
    constant = median(row["seconds"] for row in rows)
    each = median(row["seconds"] / row["parameters"] for row in rows)
    for row in rows:
        row["constant"], row["by parameters"] = constant, each * row["parameters"]


def as_markdown(rows: list[dict[str, Any]], verdicts: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| | mean error by processes | worst | rank correlation | within 10 % | worst choice |"
    ]
    lines.append("|---|---|---|---|---|---|")
    for name, one in verdicts.items():
        errors = ", ".join(f"{count}: {error:.0%}" for count, error in one["error"].items())
        near = f"{one['near_the_best']} of {one['groups']}"
        lines.append(
            f"| {name} | {errors} | {one['worst_error']:.0%} | {one['rank_correlation']:.2f} | "
            f"{near} | {one['worst_choice']:+.0%} |"
        )
    noise = median(row["spread"] for row in rows)
    lines += ["", f"Median spread of the repetitions of one configuration: {noise:.1%}.", ""]
    lines += [
        "| configuration | measured s | predicted s | error | spread |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        error = row["predicted"] / row["seconds"] - 1
        lines.append(
            f"| {row['name']} | {row['seconds']:.3g} | {row['predicted']:.3g} | {error:+.0%} | "
            f"{row['spread']:.0%} |"
        )
    return "\n".join(lines)


def report(bench: Bench, predicted: dict[str, dict[str, Any]], place: Path) -> str:
    """Write what is measured so far."""
    rows: list[dict[str, Any]] = []
    for row in bench.rows:
        if row.repetitions:
            every = measured(row)
            spread = (max(every) - min(every)) / median(every)
            more = {"name": row.case.name, "seconds": median(every), "spread": spread}
            rows.append({**predicted[row.case.name], **more})
    with_baselines(rows)
    names = ("predicted", "constant", "by parameters")
    verdicts = {name: judge(rows, name) for name in names}
    failed = {row.case.name: row.error for row in bench.rows if row.error}
    text = as_markdown(rows, verdicts) + "".join(f"\n\n{n}: {e}" for n, e in failed.items())
    about = {"machine": describe_machine(), "software": describe_software(), "failed": failed}
    document = {**about, "verdicts": verdicts, "rows": rows}
    place.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    place.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--groups", type=int, default=len(GROUPS), help="only the first so many")
    parser.add_argument("--layouts", type=int, default=5, help="to draw of each group")
    parser.add_argument("--record", type=Path, help="where the table goes, without a suffix")
    asked = parser.parse_args()
    folder = asked.output_dir
    cases, predicted = [], {}
    for group in GROUPS[: asked.groups]:
        found, parameters = drawn(group, folder, asked.layouts)
        for candidate in found:
            case = case_of(group, candidate)
            cases.append(case)
            assert candidate.time is not None
            predicted[case.name] = {
                "group": str(group),
                "processes": group.processes,
                "parameters": parameters,
                "predicted": candidate.time.total,
            }
    config = BenchConfig(repetitions=REPETITIONS, profile_steps=0)
    bench = Bench(config, cases, folder, describe_software()["commit"])
    place = asked.record or folder / "planner"
    text = ""
    for _ in bench.run():
        text = report(bench, predicted, place)
    print(text)


if __name__ == "__main__":
    main()
