"""The rule of `vit-colossal check`, what it refuses to judge, and how references are recorded."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vit_colossal.cli import main
from vit_colossal.config.reading import TrainConfig, load_config
from vit_colossal.data.sources.source import SourceRequest, open_source
from vit_colossal.errors import ConfigError
from vit_colossal.rundir.finished import hyperparameters, with_defaults
from vit_colossal.rundir.references import Reference, find_reference, load_references
from vit_colossal.rundir.regression import (
    check_run,
    fisher_p,
    lowest_passing,
    passes,
    prediction_limit,
    record,
)

ROOT = Path(__file__).parents[3]
BEANS = "beans-vit-base-pp2"
EXAMPLES = settings(max_examples=100, deadline=None)
Counts = st.tuples(st.integers(0, 400), st.integers(1, 400)).map(lambda c: (min(c), max(c)))


def seeds_reference(counts: list[int], total: int) -> Reference:
    """An entry with one run per count."""
    shares = np.array(counts) / total
    entry = find_reference(BEANS, None, "--reference").model_dump()
    results = [{"seed": k, "correct": c, "total": total} for k, c in enumerate(counts)]
    changed = {"value": shares.mean(), "std": shares.std(ddof=1), "results": results}
    return Reference.model_validate({**entry, **changed, "eval_images": [total]})


# --- The rule -------------------------------------------------------------------------------------


@EXAMPLES
@given(run=Counts, reference=Counts)
def test_p_values_are_those_of_fishers_test(
    run: tuple[int, int], reference: tuple[int, int]
) -> None:
    table = [[k, n - k] for k, n in (run, reference)]
    expected = stats.fisher_exact(table, alternative="less").pvalue
    assert fisher_p(*run, *reference) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@EXAMPLES
@given(total=st.integers(1, 12), other=st.integers(1, 12), data=st.data())
def test_p_values_count_the_ways_to_deal_out_the_hits(
    total: int, other: int, data: st.DataObject
) -> None:
    correct, theirs = data.draw(st.integers(0, total)), data.draw(st.integers(0, other))
    hits = correct + theirs
    ways = sum(
        math.comb(total, k) * math.comb(other, hits - k) for k in range(correct + 1) if k <= hits
    )
    share = ways / math.comb(total + other, hits)
    assert fisher_p(correct, total, theirs, other) == pytest.approx(share, rel=1e-9)


@pytest.mark.parametrize(
    ("correct", "total", "passed"),
    [
        *((131, 133, True), (130, 133, True), (125, 133, True), (133, 133, True)),
        *((124, 133, False), (118, 133, False), (0, 133, False)),
        *((126, 128, True), (120, 128, True), (119, 128, False)),
    ],
)
def test_the_reference_of_one_run(correct: int, total: int, passed: bool) -> None:
    assert passes(find_reference(BEANS, None, "--reference"), correct, total) is passed


def test_the_prediction_limit_by_hand() -> None:
    # mean 352, s = sqrt(10), t(0.99, 4) = 3.74695 from a printed table
    limit = prediction_limit([348, 350, 352, 354, 356])
    assert limit == pytest.approx(352 - 3.74695 * math.sqrt(10) * math.sqrt(1.2), abs=1e-3)


def test_one_run_in_a_hundred_falls_below_the_prediction_limit() -> None:
    random = np.random.RandomState(0)
    runs = 20_000
    below = 0
    for *earlier, new in random.normal(350, 3, (runs, 6)):
        below += new < prediction_limit(earlier)
    # 200 expected; the binomial standard deviation is 14.
    assert 140 <= below <= 260


@EXAMPLES
@given(counts=st.lists(st.integers(0, 120), min_size=2, max_size=6))
def test_several_seeds_fail_a_run_only_when_both_explanations_fail(counts: list[int]) -> None:
    reference = seeds_reference(counts, 120)
    n, mean, s = len(counts), np.mean(counts), np.std(counts, ddof=1)
    limit = mean - stats.t.ppf(0.99, n - 1) * s * math.sqrt(1 + 1 / n)
    pooled = [sum(counts), 120 * n - sum(counts)]
    for correct in range(0, 121, 5):
        p = stats.fisher_exact([[correct, 120 - correct], pooled], alternative="less").pvalue
        if abs(correct - limit) > 1e-6:  # at the limit itself rounding decides
            assert passes(reference, correct, 120) is not bool(correct < limit and p < 0.01)


def test_seeds_that_agree_do_not_fail_a_run_for_one_image() -> None:
    reference = seeds_reference([355] * 5, 360)
    assert passes(reference, 354, 360)
    assert not passes(reference, 340, 360)


@EXAMPLES
@given(counts=st.lists(st.integers(0, 90), min_size=2, max_size=5))
def test_every_count_from_the_lowest_passing_on_passes(counts: list[int]) -> None:
    reference = seeds_reference(counts, 90)
    lowest = lowest_passing(reference, 90)
    assert [passes(reference, k, 90) for k in range(91)] == [k >= lowest for k in range(91)]


# --- Run directories ------------------------------------------------------------------------------

LABELS = [str(digit) for digit in range(10)]
MakeRun = Callable[..., Path]


def write_run(directory: Path, *, seed: int, correct: int, total: int, **changes: Any) -> Path:
    """A run directory as a finished training leaves it; ``changes`` are settings."""
    flags = {"plugin": "hybrid", "pp": 2, "model": "vit-micro", "dataset": "digits", "lr": 1e-3}
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(TrainConfig(**{**flags, "seed": seed, **changes}).dump())
    environment = {
        "dataset": "digits",
        "eval_split": "test",
        "data_fingerprint": "f" * 64,
        "labels": LABELS,
        "world_size": 2,
        "commit": "abc",
        "torch": "2",
    }
    (directory / "environment.json").write_text(json.dumps(environment))
    counts = {"accuracy": correct / total, "correct": correct, "total": total}
    events: list[dict[str, Any]] = [
        {"event": "eval", "step": 44, "accuracy": 0.5, "correct": total // 2, "total": total},
        {"event": "train", "step": 88, "loss": 0.1},
        {"event": "eval", "step": 88, **counts},
        {"event": "end", "step": 88, "accuracy": correct / total},
    ]
    clock = ({"epoch": event["step"] / 44, "elapsed": event["step"]} for event in events)
    lines = [json.dumps({**event, **time}) for event, time in zip(events, clock, strict=True)]
    (directory / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    return directory


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(name: str = "run", seed: int = 7, correct: int = 353, **changes: Any) -> Path:
        return write_run(tmp_path / name, seed=seed, correct=correct, total=360, **changes)

    return make


@pytest.fixture
def references(make_run: MakeRun, tmp_path: Path) -> Path:
    """A file with the entry ``five``, recorded from 351 to 355 of 360."""
    path = tmp_path / "references.yaml"
    runs = [make_run(f"seed-{seed}", seed, 350 + seed) for seed in range(1, 6)]
    record("five", runs, "train.py --seed SEED", path)
    return path


def check(run: Path, references: Path, *flags: str) -> int:
    return main(["check", str(run), "--references", str(references), *flags])


def edit_json(path: Path, **changes: Any) -> None:
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: v for key, v in values.items() if v is not None}))


def test_a_good_run_passes_and_the_numbers_are_shown(
    make_run: MakeRun, references: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(make_run(correct=350), references) == 0
    shown = capsys.readouterr().out
    limit = prediction_limit([351, 352, 353, 354, 355])
    for part in ("350/360 = 0.9722", "351, 352, 353, 354, 355", f"= {limit:.2f}", "1765/1800"):
        assert part in shown
    assert "passed: 350/360 is not significantly below" in shown


def test_a_bad_run_fails_with_3_and_its_settings_are_named(
    make_run: MakeRun, references: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(make_run(correct=36, lr=0.0), references, "--reference", "five") == 3
    shown = capsys.readouterr().out
    assert "FAILED: 36/360 is significantly below" in shown
    assert "lr: 0.0 here, 0.001 in the reference" in shown


def test_two_entries_for_one_subject_are_told_apart_by_layout(
    make_run: MakeRun, references: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make_run(f"ddp-{seed}", seed, plugin="ddp", pp=1) for seed in (1, 2)]
    record("ddp", runs, "train.py --plugin ddp --seed SEED", references)
    assert check(make_run("pipeline"), references) == 0
    assert "reference five" in capsys.readouterr().out
    assert check(make_run("third", plugin="ddp", pp=1), references) == 0
    assert "reference ddp" in capsys.readouterr().out
    unknown = make_run("tensor", tp=2, pp=1)
    assert check(unknown, references) == 2
    assert "five, ddp" in capsys.readouterr().err
    assert check(unknown, references, "--reference", "ddp") == 0


MISMATCHES: dict[str, tuple[Callable[[Path], None], str]] = {
    "data": (
        lambda run: edit_json(run / "environment.json", data_fingerprint="0" * 64),
        "data fingerprint",
    ),
    "labels": (lambda run: edit_json(run / "environment.json", labels=LABELS[::-1]), "labels"),
    "split": (lambda run: edit_json(run / "environment.json", eval_split="train"), "split"),
    "model": (lambda run: replace_in(run / "config.yaml", "vit-micro", "vit-tiny"), "model"),
    "size": (
        lambda run: replace_in(run / "config.yaml", "model_config: {}", "model_config: {a: 1}"),
        "model configuration",
    ),
    "images": (lambda run: replace_in(run / "metrics.jsonl", "360", "361", "353", "354"), ""),
}


def replace_in(path: Path, *pairs: str) -> None:
    text = path.read_text()
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


@pytest.mark.parametrize("name", MISMATCHES)
def test_a_run_of_something_else_is_never_judged(
    name: str, make_run: MakeRun, references: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tamper, text = MISMATCHES[name]
    run = make_run()
    tamper(run)
    assert check(run, references, "--reference", "five") == 2
    assert text in capsys.readouterr().err
    assert check(run, references) == 2


def cut(path: Path, lines: int) -> None:
    """Drop the last lines."""
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-lines]))


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no directory": lambda run: shutil.rmtree(run),
    "no config": lambda run: (run / "config.yaml").unlink(),
    "no environment": lambda run: (run / "environment.json").unlink(),
    "no metrics": lambda run: (run / "metrics.jsonl").unlink(),
    "empty metrics": lambda run: (run / "metrics.jsonl").write_text(""),
    "no end": lambda run: cut(run / "metrics.jsonl", 1),
    "no evaluation": lambda run: (run / "metrics.jsonl").write_text(
        '{"event": "end", "step": 88, "accuracy": 0.9}\n'
    ),
    "went on after the end": lambda run: append(
        run / "metrics.jsonl", '{"event": "train", "step": 90, "loss": 0.1}\n'
    ),
    "cut off in a line": lambda run: append(run / "metrics.jsonl", '{"event": "tr'),
    "counts raised": lambda run: replace_in(run / "metrics.jsonl", "353", "359"),
    "accuracy raised": lambda run: replace_in(
        run / "metrics.jsonl", json.dumps(353 / 360), json.dumps(359 / 360)
    ),
    "more correct than images": lambda run: replace_in(run / "metrics.jsonl", "353", "3530"),
    "counts are text": lambda run: replace_in(
        run / "metrics.jsonl", '"correct": 353', '"correct": "x"'
    ),
    "end of another step": lambda run: replace_in(
        run / "metrics.jsonl", '{"event": "end", "step": 88', '{"event": "end", "step": 99'
    ),
    "not yaml": lambda run: (run / "config.yaml").write_text("a: [1"),
    "not a config": lambda run: (run / "config.yaml").write_text("- 1"),
    "unknown setting": lambda run: append(run / "config.yaml", "surprise: 1\n"),
    "not json": lambda run: (run / "environment.json").write_text("{"),
    "a list": lambda run: (run / "environment.json").write_text("[]"),
    "no fingerprint": lambda run: edit_json(run / "environment.json", data_fingerprint=None),
    "empty fingerprint": lambda run: edit_json(run / "environment.json", data_fingerprint=""),
    "binary": lambda run: (run / "environment.json").write_bytes(b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_missing_unfinished_or_tampered_run_is_never_judged(
    name: str, make_run: MakeRun, references: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    assert check(run, references) == 0
    DAMAGES[name](run)
    assert check(run, references) == 2
    assert str(run) in capsys.readouterr().err


def test_an_unknown_reference_lists_the_known_ones(
    make_run: MakeRun, references: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(make_run(), references, "--reference", "fine") == 2
    assert "--reference fine: no such reference; known: five" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags", [[], ["a", "b"], ["a", "--record", "x"], ["a", "--command", "x"], ["a", "--nonsense"]]
)
def test_a_malformed_command_line_is_exit_code_2(flags: list[str]) -> None:
    assert main(["check", *flags]) == 2


# --- The entry without a fingerprint --------------------------------------------------------------


def beans_run(directory: Path, correct: int, total: int, **environment: Any) -> Path:
    run = write_run(
        directory,
        seed=42,
        correct=correct,
        total=total,
        model="google/vit-base-patch16-224",
        dataset="beans",
    )
    labels = list(find_reference(BEANS, None, "--reference").labels)
    found = {"dataset": "AI-Lab-Makerere/beans", "eval_split": "validation", "labels": labels}
    edit_json(run / "environment.json", **{**found, **environment})
    return run


@pytest.mark.parametrize(
    ("correct", "total", "passed"), [(131, 133, True), (126, 128, True), (118, 133, False)]
)
def test_beans_is_compared_in_either_protocol(
    tmp_path: Path, correct: int, total: int, passed: bool
) -> None:
    verdict = check_run(beans_run(tmp_path / "run", correct, total))
    assert verdict.passed is passed
    assert verdict.reference == BEANS
    assert "no recorded fingerprint: matched by name" in str(verdict)


@pytest.mark.parametrize(
    ("total", "environment", "problem"),
    [
        (132, {}, "evaluation images: 132 here, 133 or 128"),
        # The test split has 128 images, as many as the published evaluation counted.
        (128, {"eval_split": "test"}, "evaluation split: test"),
        (133, {"dataset": "beans"}, "data set: beans"),  # a local folder of that name
        (133, {"labels": ["a", "b", "c"]}, "labels"),
    ],
)
def test_other_beans_are_refused(
    tmp_path: Path, total: int, environment: dict[str, Any], problem: str
) -> None:
    run = beans_run(tmp_path / "run", 120, total, **environment)
    with pytest.raises(ConfigError, match=problem):
        check_run(run, BEANS)
    with pytest.raises(ConfigError, match=rf"{BEANS}.*--record NAME makes one of runs of your own"):
        check_run(run)


# --- References -----------------------------------------------------------------------------------


def test_recording_keeps_counts_mean_spread_and_origin(references: Path) -> None:
    entry = load_references(references)["five"]
    shares = np.array([351, 352, 353, 354, 355]) / 360
    assert entry.value == pytest.approx(shares.mean(), abs=1e-6)
    assert entry.std == pytest.approx(shares.std(ddof=1), abs=1e-6)
    assert [(r.seed, r.correct, r.total) for r in entry.results] == [
        (seed, 350 + seed, 360) for seed in range(1, 6)
    ]
    assert (entry.command, entry.commit) == ("train.py --seed SEED", "abc")
    assert entry.versions == {"torch": "2"}
    assert (entry.layout.plugin, entry.layout.pp, entry.layout.processes) == ("hybrid", 2, 2)
    assert entry.settings["lr"] == 1e-3
    assert entry.data_fingerprint == "f" * 64


def test_recording_replaces_an_entry_and_keeps_the_others(
    make_run: MakeRun, references: Path
) -> None:
    before = load_references(references)["five"]
    record("one", [make_run()], "train.py --seed SEED", references)
    assert load_references(references)["five"] == before
    record("five", [make_run("again", correct=300)], "train.py --seed SEED", references)
    assert load_references(references).keys() == {"one", "five"}
    assert load_references(references)["five"].results[0].correct == 300


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"seed": 1}, "same seed"),
        ({"lr": 0.5}, "settings differs"),
        ({"pp": 1}, "layout differs"),
        ({"model": "vit-tiny"}, "subject differs"),
    ],
)
def test_only_runs_that_differ_in_the_seed_make_an_entry(
    make_run: MakeRun, references: Path, changes: dict[str, Any], problem: str
) -> None:
    before = references.read_text()
    runs = [make_run("a", seed=1), make_run("b", **{"seed": 2, **changes})]
    with pytest.raises(ConfigError, match=problem):
        record("two", runs, "train.py", references)
    assert references.read_text() == before


def test_the_packages_references_are_valid_and_hold_the_missions() -> None:
    beans = load_references()[BEANS]
    assert (beans.results[0].correct, beans.results[0].total) == (126, 128)
    assert beans.value == 0.9844
    assert beans.eval_images == (133, 128)
    assert beans.data_fingerprint is None


@pytest.mark.parametrize("name", ["digits-pp2", "digits-plain"])
def test_the_digits_references_are_of_the_data_and_the_configuration_that_ship(name: str) -> None:
    entry = load_references()[name]
    config = load_config(["--config", str(ROOT / "configs" / "digits_cpu_pp2.yaml")])
    source = open_source(SourceRequest("digits"))
    assert entry.data_fingerprint == source.fingerprint
    assert (entry.labels, entry.split) == (source.labels, source.eval_split)
    assert entry.eval_images == (len(source.evaluation),)
    assert with_defaults(entry.settings) == hyperparameters(config)
    assert [result.seed for result in entry.results] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"value": 0.99}, "does not follow from the counts"),
        ({"std": 0.2}, "does not follow from the counts"),
        ({"std": None}, "std belongs"),
        ({"results": []}, "at least 1"),
        ({"eval_images": [360, 361]}, "one number"),
        ({"threshold": 0.9}, "threshold"),
    ],
)
def test_an_entry_edited_by_hand_is_refused(
    references: Path, change: dict[str, Any], problem: str
) -> None:
    entries = yaml.safe_load(references.read_text())
    entries["five"] |= change
    references.write_text(yaml.safe_dump(entries))
    with pytest.raises(ConfigError, match=problem):
        load_references(references)


@pytest.mark.parametrize("text", ["[1, 2]", "five: 3", "a: [", "\x00"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "references.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="--references"):
        load_references(path)
