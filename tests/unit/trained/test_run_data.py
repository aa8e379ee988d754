"""A run's data are found again from any folder, of whatever kind, and known for the same."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import pytest
from PIL import Image

from vit_colossal import TrainConfig
from vit_colossal.data.prepare import cache_options
from vit_colossal.errors import DataError
from vit_colossal.model.processor import preprocessing_of
from vit_colossal.plan import run_folder
from vit_colossal.plan.plan import RunPlan
from vit_colossal.rundir.data_record import read_data_record
from vit_colossal.rundir.record import describe_run
from vit_colossal.runtime.group import Topology
from vit_colossal.trained.run_data import Choice, choose_data
from vit_colossal.trained.saved import locate
from vit_colossal.training import run
from vit_colossal.training.resuming import Origin
from vit_colossal.training.run import plan_run

LABELS = ("Birne", "Apfel rot")


def _png(number: int) -> bytes:
    pixels = np.random.RandomState(number).randint(0, 256, (10, 10, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="png")
    return stream.getvalue()


def _folder(here: Path) -> str:
    for number in range(24):
        place = here / "meine Fotos" / LABELS[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").write_bytes(_png(number))
    return "./meine Fotos"


def _parquet(here: Path) -> str:
    rows = {
        "bild": [{"bytes": _png(number), "path": None} for number in range(24)],
        "art": [number % 2 for number in range(24)],
    }
    features = datasets.Features(
        bild=datasets.Image(decode=False), art=datasets.ClassLabel(names=list(LABELS))
    )
    datasets.Dataset.from_dict(rows, features=features).to_parquet(here / "bilder.parquet")
    return "bilder.parquet"


def _table(here: Path) -> str:
    (here / "t").mkdir()
    lines = ["file,label"]
    for number in range(24):
        (here / "t" / f"{number}.png").write_bytes(_png(number))
        lines.append(f"{number}.png,{LABELS[number % 2]}")
    (here / "t" / "train.csv").write_text("\n".join(lines), encoding="utf-8")
    return "t/train.csv"


def _shards(here: Path) -> str:
    for shard in range(2):
        with tarfile.open(here / f"s-{shard}.tar", "w") as tar:
            for number in range(shard, 24, 2):
                members = {"png": _png(number), "cls": LABELS[number // 2 % 2].encode()}
                for suffix, content in members.items():
                    member = tarfile.TarInfo(f"{number}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return "s-{0..1}.tar"


def _built_in(here: Path) -> str:
    return "digits"


Maker = Callable[[Path], str]
MAKERS: tuple[Maker, ...] = (_folder, _parquet, _table, _shards, _built_in)


def _begun(here: Path, dataset: str, **more: str) -> tuple[Path, RunPlan]:
    """A run directory as it is before the first step."""
    settings: dict[str, Any] = {"dataset": dataset, "model": "vit-micro", "device": "cpu", **more}
    config = TrainConfig(**settings, val_split=0.25, global_batch_size=4, output_dir=here / "run")
    plan, data = plan_run(config, Topology())
    (here / "run").mkdir()
    describe_run(here / "run", plan, data)
    return here / "run", plan


def _chosen(run_dir: Path, plan: RunPlan, **settings: str) -> Choice:
    options = cache_options(plan.config, preprocessing_of(plan.spec), progress=False)
    return choose_data(TrainConfig(**settings), run_dir, options)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", MAKERS)
def test_from_another_folder(make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "dort drüben"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)
    run_dir, plan = _begun(here, make(here))
    run_dir.rename(there / "lauf")
    monkeypatch.chdir(there)
    choice = _chosen(there / "lauf", plan)
    assert choice.source is not None and choice.of_run and choice.notes == ()
    if make is _built_in:
        return
    # Both moved: named, they are recognized.
    here.rename(tmp_path / "weg")
    with pytest.raises(DataError, match="which is not there: name where they lie now"):
        _chosen(there / "lauf", plan)
    named = str(tmp_path / "weg" / str(plan.config.dataset))
    choice = _chosen(there / "lauf", plan, dataset=named)
    assert choice.source is not None and choice.of_run and choice.notes == ()
    # The same name and other content.
    make(there)
    for file in (f for f in there.rglob("*") if f.is_file() and "lauf" not in f.parts):
        if file.suffix == ".csv":
            file.write_text(file.read_text().replace("Birne", "Apfel rot", 3), encoding="utf-8")
        elif file.suffix in (".tar", ".parquet"):
            file.unlink()
    if make in (_parquet, _shards):
        monkeypatch.setattr(np.random, "RandomState", _Shifted)
        make(there)
    elif make is _folder:
        (there / "meine Fotos" / "Birne" / "0.png").unlink()
    with pytest.raises(DataError, match=r"here is|which is not there, and .* holds other data"):
        _chosen(there / "lauf", plan)


class _Shifted(np.random.mtrand.RandomState):
    """Other pixels for the same seeds."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed + 1000)


def test_an_overwritten_run_keeps_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model of the run before has other labels."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / run_folder.MODEL).mkdir(parents=True)
    (tmp_path / "run" / run_folder.MODEL / "config.json").write_text("{}")
    (tmp_path / "run").rename(tmp_path / "old")
    run_dir, plan = _begun(tmp_path, _folder(tmp_path))
    (tmp_path / "old" / run_folder.MODEL).rename(run_dir / run_folder.MODEL)
    assert plan.checkpoint is None
    _, data = plan_run(plan.config.replace(overwrite=True), Topology())
    describe_run(run_dir, plan, data)
    with pytest.raises(Exception, match="has no model yet"):
        locate(str(run_dir))


def _splits(here: Path) -> str:
    """A training and a test split, and no other."""
    for number in range(24):
        place = here / "pics" / ("train" if number % 3 else "test") / LABELS[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").write_bytes(_png(number))
    return "pics"


def test_what_is_called_test_is_not_evaluated_on_unless_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_dir, plan = _begun(tmp_path, _splits(tmp_path))
    for settings in ({}, {"dataset": "./pics"}):
        source = _chosen(run_dir, plan, **settings).source
        assert source is not None and source.eval_split == "train (0.25 held out)"


def test_a_run_of_an_earlier_version_keeps_to_its_test_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They evaluated on it unasked: their accuracies are those of that split."""
    monkeypatch.chdir(tmp_path)
    run_dir, plan = _begun(tmp_path, _splits(tmp_path), eval_split="test")
    config = run_dir / run_folder.CONFIG
    config.write_text(config.read_text().replace("eval_split: test\n", ""))
    for settings in ({}, {"dataset": "./pics"}):
        choice = _chosen(run_dir, plan, **settings)
        assert choice.source is not None and choice.source.eval_split == "test"
        assert choice.notes == ()
    record = read_data_record(run_dir)
    origin = Origin(cast(Any, None), run_dir, (), record)
    monkeypatch.setattr(run, "find_origin", lambda config, report: origin)
    monkeypatch.setattr(run, "continued", lambda plan, data, origin: plan)
    _, data = plan_run(plan.config.replace(eval_split=None, output_dir=None), Topology())
    assert (data.eval_split, data.fingerprint) == ("test", record.fingerprint)
