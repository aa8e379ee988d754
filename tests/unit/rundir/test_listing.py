"""``vit-colossal runs``: every run below a folder, whatever state it is in."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from run_directories import make_run
from vit_colossal.cli import main
from vit_colossal.rundir.listing import filtered, in_order, list_runs

LABELS = ("ant", "bee")
HOSTILE = "<img src=x onerror=alert(1)>"


def edit(run: Path, name: str, **values: object) -> None:
    text = json.loads((run / name).read_text())
    (run / name).write_text(json.dumps({**text, **values}))


def accuracy(run: Path, correct: int, started: str) -> None:
    """Let the last evaluation count so many of 120, and the run begin then."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines[0]["time"] = started
    for line in lines[-2:]:
        line |= {"correct": correct, "accuracy": correct / 120}
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("all") / "runs"
    first = make_run(root / "first", LABELS, plugin="zero1", seed=3)
    accuracy(first, 114, "2026-01-02T10:00:00+00:00")
    edit(first, "environment.json", commit="abc1234", dataset="photos")
    second = make_run(root / "deep" / HOSTILE, LABELS, plugin="hybrid", pp=2)
    accuracy(second, 60, "2026-01-03T10:00:00+00:00")
    make_run(root / "died", LABELS, ended=False, plugin="zero2")
    for name, spoil in {
        "no-config": lambda run: (run / "config.yaml").unlink(),
        "cut": lambda run: (run / "environment.json").write_text('{"torch'),
        "list": lambda run: (run / "config.yaml").write_text("- 1\n- 2"),
        "nested": lambda run: (run / "config.yaml").write_text("[" * 5000),
        "bytes": lambda run: (run / "metrics.jsonl").write_bytes(b"\xff\xfe\x00"),
        "counts": lambda run: accuracy(run, 500, "yesterday"),
    }.items():
        run = make_run(root / "broken" / name, LABELS)
        spoil(run)
    (root / "empty").mkdir()
    (root / "others").mkdir()
    (root / "others" / "notes.txt").write_text("no run")
    (root / "loop").symlink_to(root)
    return root


def test_every_run_has_a_line_and_damage_is_said(folder: Path) -> None:
    runs = {run.name: run for run in list_runs(folder)}
    broken = {"no-config", "cut", "list", "nested", "bytes", "counts"}
    assert runs.keys() == {"first", f"deep/{HOSTILE}", "died", *(f"broken/{n}" for n in broken)}
    first = runs["first"]
    assert (first.state, first.correct, first.total) == ("finished", 114, 120)
    assert (round(first.low or 0, 4), round(first.high or 0, 4)) == (0.8952, 0.9769)
    assert (first.model, first.plugin, first.data) == ("vit-micro", "zero1", "photos")
    assert (first.seconds, first.commit) == (120.0, "abc1234")
    assert (runs["died"].state, runs["died"].note) == ("unfinished", "")
    damage = {name: (runs[f"broken/{name}"].state, runs[f"broken/{name}"].note) for name in broken}
    assert damage == {
        "no-config": ("damaged", "config.yaml is missing"),
        "cut": ("damaged", "environment.json is unreadable"),
        "list": ("damaged", "config.yaml holds no names and values"),
        "nested": ("damaged", "config.yaml is unreadable"),
        "bytes": (
            "unfinished",
            "metrics.jsonl: lines that are no events, as a killed run leaves them: 1",
        ),
        "counts": ("damaged", "the last evaluation counts 500 of 120 images"),
    }
    assert [run.name for run in list_runs(folder / "first")] == ["first"]


def test_runs_are_sorted_with_what_is_not_known_last(folder: Path) -> None:
    runs = [run for run in list_runs(folder) if not run.name.startswith("broken/")]
    runs += [run for run in list_runs(folder) if run.name == "broken/bytes"]
    best = [run.name for run in in_order(runs, "accuracy")]
    assert (best[0], best[-1]) == ("first", "broken/bytes")
    assert in_order(runs, "accuracy", reverse=True)[0].correct == min(
        run.correct for run in runs if run.correct is not None
    )
    assert in_order(runs, "accuracy", reverse=True)[-1].name == "broken/bytes"
    assert in_order(runs, "started")[0].name == f"deep/{HOSTILE}"
    assert [run.plugin for run in in_order(runs, "plugin")][-2:] == ["zero1", "zero2"]


def test_runs_are_filtered_by_columns_and_settings(folder: Path) -> None:
    runs = list_runs(folder)
    for conditions, names in (
        (["plugin=zero*"], ["died", "first"]),
        (["plugin=ZERO*", "seed=3"], ["first"]),
        (["log-every=1*", "pp=2"], [f"deep/{HOSTILE}"]),
        (["run=deep/*"], [f"deep/{HOSTILE}"]),
        (["data=photos"], ["first"]),
        (["seed=33"], []),
    ):
        assert [run.name for run in filtered(runs, conditions)] == names, conditions


def test_a_condition_that_says_nothing_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["runs", str(folder), "--where", "plugins=ddp", "--where", "ddp"]) == 2
    errors = capsys.readouterr().err
    assert "--where plugins=ddp: no run has a column or setting plugins (did you mean" in errors
    assert "--where ddp: write NAME=VALUE" in errors
    assert main(["runs", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main(["runs", str(folder), "--output", str(tmp_path)]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_the_three_forms_hold_the_same_runs(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked = ["runs", str(folder), "--sort", "accuracy", "--where", "state=finished"]
    assert main(asked) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["run", "state", "accuracy"]
    assert lines[1].startswith("first  ")
    assert "0.9500 (114/120)  0.8952 to 0.9769" in lines[1]
    assert main([*asked, "--output", str(tmp_path / "runs.csv")]) == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "runs.csv").read_text())))
    assert [row["run"] for row in rows] == ["first", f"deep/{HOSTILE}"]
    assert (rows[0]["accuracy"], rows[0]["total"], rows[0]["seconds"]) == ("0.95", "120", "120.0")
    assert main([*asked, "--output", str(tmp_path / "runs.html")]) == 0
    page = (tmp_path / "runs.html").read_text()
    assert page.index(">first<") < page.index("deep/&lt;img src=x onerror=alert(1)&gt;")
    assert "<img" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert capsys.readouterr().err.count("2 of 9 runs in") == 2


def test_it_needs_no_framework(folder: Path) -> None:
    code = (
        "import sys; from vit_colossal.cli import main;"
        f"code = main(['runs', {str(folder)!r}, '--format', 'html']);"
        "heavy = {'torch', 'transformers', 'datasets', 'colossalai'} & sys.modules.keys();"
        "sys.exit(f'{heavy}' if heavy else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "<h1>9 runs</h1>" in done.stdout
