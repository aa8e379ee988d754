"""``vit-colossal check``: is a finished run's accuracy significantly below the reference?

The rule, on counts of correct images and never on a bare threshold:

- A reference of one run: a run fails when Fisher's exact test, one-sided, on the two runs' counts
  gives less than 5 %. Not the binomial test of the run against the reference's share: that takes a
  share measured on 128 images for the truth. Runs that evaluate the same images are more alike
  than the test assumes, so it errs towards passing.
- A reference of several seeds: a run fails when neither the seed nor chance explains its count,
  each at 1 %. The seed does not when the count is below the one-sided prediction limit of one new
  run, mean - t(99 %, n - 1) * s * sqrt(1 + 1/n) (Hahn & Meeker, Statistical Intervals, 1991,
  chapter 4). Chance does not when Fisher's test against all reference runs together gives less
  than 1 %; that keeps seeds which happen to agree (s near 0) from failing a run for an image.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from vit_colossal.data.sources.source import ALIASES
from vit_colossal.errors import ConfigError
from vit_colossal.rundir.finished import FinishedRun, Subject, read_run, with_defaults
from vit_colossal.rundir.references import (
    Reference,
    find_reference,
    load_references,
    save_reference,
    spread,
)
from vit_colossal.rundir.seal import changes_since

#: The chance of failing a run that is as good as the reference.
SINGLE_RUN_LEVEL = 0.05
SEEDS_LEVEL = 0.01


@dataclass(frozen=True)
class Verdict:
    """The outcome of a check.

    Attributes:
        reference: the entry's name.
        passed: False when the accuracy is significantly below the reference.
        lines: the numbers, the rule and the reason, for people.
    """

    reference: str
    passed: bool
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines)


def fisher_p(correct: int, total: int, reference_correct: int, reference_total: int) -> float:
    """One-sided p-value of Fisher's exact test that the run's share is below the reference's.

    With both sums of correct and wrong images given, the run's number of correct ones is
    hypergeometric (Fisher, Statistical Methods for Research Workers, 1934, section 21.02); this is
    the chance of that few or fewer.
    """
    from scipy.stats import hypergeom

    everything, hits = total + reference_total, correct + reference_correct
    return float(hypergeom.cdf(correct, everything, hits, total))


def prediction_limit(counts: Sequence[int], level: float = SEEDS_LEVEL) -> float:
    """One-sided lower prediction limit for one new run's count, from n >= 2 earlier ones.

    Args:
        counts: correct images of each run, all of the same number.
        level: how often an equal run falls below it, if counts are normally distributed.
    """
    n = len(counts)
    return statistics.fmean(counts) - _t(n, level) * statistics.stdev(counts) * math.sqrt(1 + 1 / n)


def passes(reference: Reference, correct: int, total: int) -> bool:
    """Whether ``correct`` of ``total`` is not significantly below the reference."""
    results = reference.results
    p = fisher_p(correct, total, *_pooled(reference))
    if len(results) == 1:
        return p >= SINGLE_RUN_LEVEL
    return correct >= prediction_limit([r.correct for r in results]) or p >= SEEDS_LEVEL


def lowest_passing(reference: Reference, total: int) -> int:
    """The smallest count of ``total`` images that passes: all above it pass as well."""
    counts = range(total + 1)
    return bisect_left(counts, True, key=lambda count: passes(reference, count, total))


def mismatches(reference: Reference, subject: Subject) -> list[str]:
    """Why a run cannot be compared with the reference, one line each; none when it can.

    Without a recorded fingerprint the data are told by name, splits, labels and count.
    """
    pairs: list[tuple[str, object, object]] = [
        ("model", subject.model, reference.model),
        ("model configuration", subject.model_overrides, reference.model_overrides),
        ("evaluation split", subject.split, reference.split),
        ("labels", list(subject.labels), list(reference.labels)),
    ]
    if reference.data_fingerprint is None:
        name = ALIASES.get(reference.dataset, reference.dataset)
        pairs.append(("data set", subject.dataset, name))
        pairs.append(("training split", subject.train_split, reference.train_split))
    else:
        pairs.append(("data fingerprint", subject.fingerprint, reference.data_fingerprint))
    problems = [
        f"{what}: {mine} here, {theirs} in the reference {reference.name}"
        for what, mine, theirs in pairs
        if mine != theirs
    ]
    if subject.eval_images not in reference.eval_images:
        allowed = " or ".join(map(str, reference.eval_images))
        problems.append(
            f"evaluation images: {subject.eval_images} here, {allowed} for the reference "
            f"{reference.name}"
        )
    return problems


def require_match(reference: Reference, subject: Subject) -> None:
    """Raise ConfigError with all mismatches, if there are any."""
    problems = mismatches(reference, subject)
    if problems:
        raise ConfigError(problems)


def check_run(directory: Path, name: str | None = None, path: Path | None = None) -> Verdict:
    """Judge a finished run.

    Args:
        directory: the run directory.
        name: the reference; when not given, the one that matches, by its layout too if need be.
        path: a file of references other than the package's.

    Raises:
        ConfigError: the run is missing, has not finished, was changed since or cannot be compared
            with the reference; no reference, or more than one, matches.
    """
    run = read_run(directory)
    if problems := changes_since(directory):
        raise ConfigError(problems)
    if name is None:
        reference = _matching(run, list(load_references(path).values()))
    else:
        reference = find_reference(name, path, "--reference")
        require_match(reference, run.subject)
    return judge(reference, run)


def judge(reference: Reference, run: FinishedRun) -> Verdict:
    """Apply the rule to a run that matches the reference, and say why."""
    correct, total = run.result.correct, run.result.total
    passed, lowest = passes(reference, correct, total), lowest_passing(reference, total)
    found = "is not" if passed else "is"
    lines = [
        f"check of {run.directory} against the reference {reference.name}",
        f"  run        {correct}/{total} = {correct / total:.4f}, seed {run.result.seed}, "
        f"{run.layout}",
        *_reference_lines(reference),
        *_rule_lines(reference, correct, total),
        *_difference_lines(reference, run),
        f"  {'passed' if passed else 'FAILED'}: {correct}/{total} {found} significantly below the "
        f"reference; of {total}, {lowest} or more pass",
    ]
    return Verdict(reference.name, passed, tuple(lines))


def record(
    name: str, directories: Sequence[Path], command: str, path: Path | None = None
) -> Reference:
    """Write a reference from finished runs that differ in nothing but the seed.

    Args:
        name: the entry to write or replace.
        directories: run directories.
        command: what produced each run, with ``SEED`` for the seed.
        path: a file of references other than the package's.

    Raises:
        ConfigError: the runs are of different kinds or share a seed, or a file is unusable.
    """
    runs = [read_run(directory) for directory in directories]
    first = runs[0]
    problems = [
        f"{run.directory}: its settings were changed on the way ({'; '.join(run.turns)}): "
        "a reference is of one set of settings"
        for run in runs
        if run.turns
    ]
    for run in runs[1:]:
        for what in ("subject", "layout", "settings", "versions"):
            if getattr(run, what) != getattr(first, what):
                problems.append(f"{run.directory}: its {what} differs from {first.directory}'s")
    results = tuple(sorted((run.result for run in runs), key=lambda result: result.seed or 0))
    if len({result.seed for result in results}) < len(results):
        problems.append("two runs have the same seed: they are one run, not two")
    if problems:
        raise ConfigError(problems)
    subject, shares = first.subject, [result.correct / result.total for result in results]
    try:
        reference = Reference(
            name=name,
            model=subject.model,
            model_overrides=subject.model_overrides,
            dataset=subject.dataset,
            train_split=subject.train_split,
            split=subject.split,
            eval_images=(subject.eval_images,),
            labels=subject.labels,
            data_fingerprint=subject.fingerprint,
            protocol="every image of the evaluation split once",
            layout=first.layout,
            settings=first.settings,
            value=round(statistics.fmean(shares), 6),
            std=round(spread(results), 6) if len(results) > 1 else None,
            results=results,
            source="measured; written by vit-colossal check --record",
            command=command,
            commit=", ".join(sorted({run.commit or "unknown" for run in runs})),
            versions=first.versions,
        )
    except ValidationError as error:
        raise ConfigError([f"--record {name}: {item['msg']}" for item in error.errors()]) from None
    save_reference(reference, path)
    return reference


def _t(n: int, level: float) -> float:
    """Student's t for a one-sided limit from n values."""
    from scipy.stats import t

    return float(t.ppf(1 - level, n - 1))


def _pooled(reference: Reference) -> tuple[int, int]:
    """Correct and evaluated images of all of the reference's runs."""
    results = reference.results
    return sum(r.correct for r in results), sum(r.total for r in results)


def _matching(run: FinishedRun, references: list[Reference]) -> Reference:
    """The one reference for a run's model and data; among several, the one of its layout."""
    found = [entry for entry in references if not mismatches(entry, run.subject)]
    if len(found) > 1:
        found = [entry for entry in found if entry.layout == run.layout] or found
    if len(found) == 1:
        return found[0]
    names = ", ".join(entry.name for entry in found or references)
    if found:
        raise ConfigError([f"{run.directory}: several references match, name one: {names}"])
    raise ConfigError(
        [
            f"{run.directory}: none of the references ({names}) is for its model and data: "
            "--reference NAME says what differs, --record NAME makes one of runs of your own"
        ]
    )


def _reference_lines(reference: Reference) -> list[str]:
    correct, total = _pooled(reference)
    if reference.std is None:
        lines = [f"  reference  {correct}/{total} = {reference.value}, one run, {reference.layout}"]
    else:
        counts = [f"{r.correct}" for r in reference.results]
        images = reference.results[0].total
        lines = [
            f"  reference  mean {reference.value:.4f}, standard deviation {reference.std:.4f} over "
            f"{len(counts)} seeds, {reference.layout}",
            f"             correct of {images}: {', '.join(counts)}",
        ]
    lines.append(f"             protocol: {reference.protocol}")
    if reference.data_fingerprint is None:
        lines.append(
            "             its data have no recorded fingerprint: matched by name, splits, labels "
            "and number of images only"
        )
    return lines


def _rule_lines(reference: Reference, correct: int, total: int) -> list[str]:
    pooled = _pooled(reference)
    p = fisher_p(correct, total, *pooled)
    test = f"Fisher's exact test, one-sided, against {pooled[0]}/{pooled[1]}: p = {p:.2g}"
    if len(reference.results) == 1:
        return [f"  rule       fails below p = {SINGLE_RUN_LEVEL}", f"             {test}"]
    counts = [result.correct for result in reference.results]
    n, mean, s = len(counts), statistics.fmean(counts), statistics.stdev(counts)
    return [
        f"  rule       fails when neither seed nor chance explains it, each at {SEEDS_LEVEL:.0%}",
        f"             seed: prediction limit of one new run, {mean:.2f} - "
        f"{_t(n, SEEDS_LEVEL):.3f} x {s:.2f} x sqrt(1 + 1/{n}) = {prediction_limit(counts):.2f}",
        f"             chance: {test}",
    ]


def _difference_lines(reference: Reference, run: FinishedRun) -> list[str]:
    """Settings that the run and the reference have differently: to explain, not to excuse."""
    lines = []
    known = with_defaults(reference.settings)
    for name in sorted({*known, *run.settings}):
        mine, theirs = run.settings.get(name), known.get(name)
        # A published entry only lists what is known of it.
        if mine != theirs and (name in reference.settings or reference.data_fingerprint):
            lines.append(f"  differs    {name}: {mine} here, {theirs} in the reference")
    lines += [f"  changed    {turn}" for turn in run.turns]
    if run.layout != reference.layout:
        lines.append("  differs    layout: the result must not depend on it")
    return lines
