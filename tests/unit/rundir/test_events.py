"""metrics.jsonl is as docs/metrics.md says, and the trackers get the same numbers."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import types
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from launching import ROOT
from vit_colossal.config.reading import TrainConfig, read_settings
from vit_colossal.errors import ConfigError
from vit_colossal.rundir import trackers
from vit_colossal.rundir.events import Event, parse_events
from vit_colossal.rundir.metrics import RunReporter, keep_events
from vit_colossal.runtime.group import Topology
from vit_colossal.training.run import plan_run

KINDS: dict[str, type[BaseModel]] = {
    get_args(kind.model_fields["event"].annotation)[0]: kind
    for kind in get_args(get_args(Event)[0])
}
COMMON = {"event", "step", "epoch", "elapsed"}

SPEED = {"images_per_second": 10.0, "peak_memory_mib": 100.0}


def documented() -> dict[str, dict[str, str]]:
    """Fields and their types in docs/metrics.md, by event; "" are those of all events."""
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    section = text.split("## metrics.jsonl")[1].split("\n## ")[0]
    tables: dict[str, dict[str, str]] = {}
    for part in re.split(r"\n(?=`\w+`: |Each event has)", section)[1:]:
        heading = re.match(r"`(\w+)`: ", part)
        rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", part, re.MULTILINE)
        tables[heading[1] if heading else ""] = dict(rows)
    return tables


def test_the_document_lists_every_field_and_its_type() -> None:
    names = {str: "string", int: "integer", float: "number"}
    tables = documented()
    assert tables.pop("").keys() == COMMON
    assert tables.keys() == KINDS.keys()
    for name, kind in KINDS.items():
        fields = {key: field for key, field in kind.model_fields.items() if key not in COMMON}
        types_ = {key: field.annotation for key, field in fields.items()}
        plain = {
            k: get_args(t)[0] if isinstance(t, types.UnionType) else t for k, t in types_.items()
        }
        assert tables[name] == {key: names[value] for key, value in plain.items()}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run's files after a start, three training steps and an evaluation."""
    with RunReporter(tmp_path, tensorboard=False) as reporter:
        for step in (1, 2, 3):
            reporter.event("train", step, step / 2, loss=1.0, lr=0.1, **SPEED)
        reporter.event("eval", 3, 1.5, accuracy=0.5, correct=1, total=2)
    return tmp_path


def read(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_the_clock_of_a_resumed_run_goes_on(run_dir: Path) -> None:
    file = run_dir / "metrics.jsonl"
    later = [{**event, "elapsed": 500.0 + event["step"]} for event in read(run_dir)]
    file.write_text("".join(json.dumps(event) + "\n" for event in later) + '{"event": "tra')
    keep_events(file, 2)
    with RunReporter(run_dir, tensorboard=False) as reporter:
        reporter.event("train", 3, 1.5, loss=1.0, lr=0.1, **SPEED)
    events = read(run_dir)
    assert [event["step"] for event in events] == [1, 2, 3]
    assert 502 <= events[-1]["elapsed"] < 560


def test_a_stop_and_an_end_are_dropped_when_the_run_goes_on(run_dir: Path) -> None:
    with RunReporter(run_dir, tensorboard=False) as reporter:
        reporter.event("stop", 3, 1.5, signal=15)
        reporter.event("end", 3, 1.5, accuracy=0.5)
    keep_events(run_dir / "metrics.jsonl", 3)
    assert [event["event"] for event in read(run_dir)] == ["train", "train", "train", "eval"]


def test_lines_that_are_no_events_are_counted_and_left_out() -> None:
    good = '{"event": "end", "step": 3, "epoch": 1, "elapsed": 2.5, "accuracy": 0.5, "more": 1}'
    bad = ["", "null", "[]", '{"event": "end"}', '{"event": "dance", "step": 1}', good[:30]]
    bad += ["[" * 100_000, good.replace("3", "-3")]
    events, others = parse_events([bad[0], good, *bad[1:]])
    assert ([event.step for event in events], others) == ([3], len(bad))


def test_a_client_that_is_not_installed_is_refused_with_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
    assert trackers.tracker_problems(TrainConfig()) == []
    config = TrainConfig(wandb=True, mlflow=True, dataset="digits", device="cpu")
    with pytest.raises(ConfigError, match=r"(?s)pip install wandb.*pip install mlflow-skinny"):
        plan_run(config, Topology())


def test_wandb_offline_keeps_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_NAME", "third try")
    config = TrainConfig(wandb=True, dataset="digits", lr=0.125)
    opened = trackers.open_trackers(tmp_path, config, resumed=False)
    assert wandb.run.name == "third try"
    with RunReporter(tmp_path, tensorboard=False, trackers=opened) as reporter:
        reporter.event("train", 10, 1, loss=1.25, lr=0.1, **SPEED)
        reporter.event("eval", 10, 1, accuracy=0.5, correct=1, total=2)
    (kept,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    expected = (b"train/loss", b"1.25", b"eval/accuracy", b"weight_decay", b"0.125")
    until = time.monotonic() + 60  # the client's own process writes what is left
    while not all(part in kept.read_bytes() for part in expected):
        assert time.monotonic() < until, kept.read_bytes()
        time.sleep(0.1)


NAMED = {
    "tracker_project": "birds",
    "tracker_name": "first try",
    "tracker_tags": ["small", "by=me"],
}


def test_wandb_gets_project_name_and_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "another")
    monkeypatch.setenv("WANDB_NAME", "another")
    config = TrainConfig.model_validate({"wandb": True, "dataset": "digits", **NAMED})
    opened = trackers.open_trackers(tmp_path, config, resumed=False)
    try:
        assert (wandb.run.project, wandb.run.name) == ("birds", "first try")
        assert wandb.run.tags == ("small", "by=me")
    finally:
        trackers.close_all(opened, failed=False)


def test_mlflow_gets_experiment_name_and_tags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    pytest.importorskip("alembic")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
    config = TrainConfig.model_validate({"mlflow": True, "dataset": "digits", **NAMED})
    trackers.close_all(trackers.open_trackers(tmp_path, config, resumed=False), failed=False)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("birds")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "first try"
    assert {"small": "", "by": "me"}.items() <= run.data.tags.items()


def test_names_for_services_that_get_nothing_are_refused() -> None:
    found = trackers.tracker_problems(TrainConfig.model_validate({"dataset": "digits", **NAMED}))
    flags = ("--tracker-project", "--tracker-name", "--tracker-tags")
    assert found == [f"{flag}: nothing is sent anywhere: add --wandb or --mlflow" for flag in flags]


def test_tags_are_separated_by_commas() -> None:
    flags = ["--wandb", "--tracker-tags", "small,by=me", "--tracker-name", "first try"]
    config = read_settings(TrainConfig, flags, "train")
    assert config.tracker_tags == ["small", "by=me"]
    assert TrainConfig.model_validate(yaml.safe_load(config.dump())).tracker_tags == [
        "small",
        "by=me",
    ]


def test_mlflow_keeps_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    pytest.importorskip("alembic")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = TrainConfig(mlflow=True, dataset="digits", lr=0.125)
    opened = trackers.open_trackers(tmp_path, config, resumed=False)
    with (
        pytest.raises(ZeroDivisionError),
        RunReporter(tmp_path, tensorboard=False, trackers=opened) as reporter,
    ):
        reporter.event("train", 10, 1, loss=1.25, lr=0.1, **SPEED)
        reporter.event("eval", 10, 1, accuracy=0.5, correct=1, total=2)
        _ = 1 / 0
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("vit-colossal")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    assert run.data.params["lr"] == "0.125"
    assert run.data.metrics["train/loss"] == 1.25
    assert run.data.metrics["eval/accuracy"] == 0.5
    assert client.get_metric_history(run.info.run_id, "eval/accuracy")[0].step == 10


def part_of_a_run(run_dir: Path, service: str, *, resumed: bool, lr: float = 0.125) -> str:
    """Send one step, and say what the service calls the run."""
    config = TrainConfig.model_validate({service: True, "dataset": "digits", "lr": lr})
    (opened,) = trackers.open_trackers(run_dir, config, resumed=resumed)
    with RunReporter(run_dir, tensorboard=False, trackers=[opened]) as reporter:
        reporter.event("train", 20 if resumed else 10, 1, loss=1.25, lr=lr, **SPEED)
    return opened.run_id


def test_a_resumed_run_goes_on_in_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    first = part_of_a_run(tmp_path, "wandb", resumed=False)
    assert part_of_a_run(tmp_path, "wandb", resumed=True) == first
    assert part_of_a_run(tmp_path, "wandb", resumed=False) != first
    assert len(list((tmp_path / "wandb").glob(f"offline-run-*-{first}*"))) == 2


def test_a_resumed_run_goes_on_in_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    pytest.importorskip("alembic")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    first = part_of_a_run(tmp_path, "mlflow", resumed=False)
    assert part_of_a_run(tmp_path, "mlflow", resumed=True, lr=0.25) == first
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    history = client.get_metric_history(first, "train/loss")
    assert [metric.step for metric in history] == [10, 20]
    assert client.get_run(first).info.status == "FINISHED"
    client.delete_run(first)  # the service does not have it any more
    second = part_of_a_run(tmp_path, "mlflow", resumed=True)
    assert second != first
    (tmp_path / trackers.IDS_FILE).write_text('["half a li')
    assert part_of_a_run(tmp_path, "mlflow", resumed=True) not in (first, second)


class Unreachable:
    """A service that went away during the run."""

    name = "wandb"
    run_id = "1"

    def log(self, values: object, step: int) -> None:
        raise OSError("no route to host")

    def close(self, *, failed: bool) -> None: ...


def test_a_service_that_fails_is_dropped_and_the_run_goes_on(tmp_path: Path) -> None:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("vit_colossal")
    logger.addHandler(handler)
    try:
        with RunReporter(tmp_path, tensorboard=False, trackers=[Unreachable()]) as reporter:
            for step in (1, 2):
                reporter.event("train", step, 1, loss=1.0, lr=0.1, **SPEED)
    finally:
        logger.removeHandler(handler)
    assert len(read(tmp_path)) == 2
    assert said == ["--wandb: no route to host; it gets no more of this run"]
