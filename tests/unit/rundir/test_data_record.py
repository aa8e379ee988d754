"""The words for how some data differ from those of a run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from vit_colossal.errors import ConfigError
from vit_colossal.rundir.data_record import (
    DataRecord,
    data_differences,
    has_data_record,
    is_there,
    local_path,
    read_data_record,
    split_record,
    write_data_record,
)

LABELS = ("Äpfel", "grüner Tee", "train")
TRAIN, EVALUATION = [0] * 5 + [1] * 4 + [2] * 3, [0, 0, 1, 2]


def record(
    train: list[int] = TRAIN,
    evaluation: list[int] = EVALUATION,
    labels: tuple[str, ...] = LABELS,
    fingerprint: str = "then",
) -> DataRecord:
    return DataRecord(
        dataset="ph",
        path="/data/ph",
        labels=labels,
        train=split_record("train", train, labels),
        evaluation=split_record("validation", evaluation, labels),
        source=fingerprint,
        fingerprint=fingerprint,
    )


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (record(evaluation=[0, 1, 2]), "evaluation images 4 -> 3 ('Äpfel' 2 -> 1)"),
        (record(train=TRAIN[:-1]), "training images 12 -> 11 ('train' 3 -> 2)"),
        (
            record(evaluation=[0, 1, 1, 2]),
            "evaluation images 4 -> 4 ('Äpfel' 2 -> 1, 'grüner Tee' 1 -> 2)",
        ),
        (record(labels=("Äpfel", "Birnen", "train")), "no label 'grüner Tee', labels 'Birnen' are"),
        (record(labels=LABELS[::-1]), "labels in another order"),
        (record(), "but the content or the name of a file"),
        (DataRecord(dataset="x", labels=LABELS, fingerprint="y"), "were not written down"),
    ],
)
def test_which_side_differs_is_said_with_the_counts(now: DataRecord, words: str) -> None:
    assert words in data_differences(record(), now)


def test_the_side_that_is_as_before_is_said_too() -> None:
    assert "12 training images as before" in data_differences(record(), record(evaluation=[0]))


def test_many_labels_do_not_fill_the_screen() -> None:
    labels = tuple(f"class {number:03d}" for number in range(120))
    before = record(list(range(120)), list(range(120)), labels)
    now = record(list(range(60)), list(range(120)), labels)
    text = data_differences(before, now)
    assert "120 -> 60" in text and "55 more" in text and len(text) < 300


def test_a_record_is_read_back(tmp_path: Path) -> None:
    assert not has_data_record(tmp_path)
    write_data_record(tmp_path, record())
    assert read_data_record(tmp_path) == record()
    assert [path.name for path in tmp_path.iterdir()] == ["data.json"]
    (tmp_path / "data.json").write_text(json.dumps({"labels": 3}))
    with pytest.raises(ConfigError, match=r"damaged .dataset, labels, fingerprint"):
        read_data_record(tmp_path)


def test_where_data_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "meine fotos").mkdir()
    (tmp_path / "t-0.tar").touch()
    assert local_path("meine fotos") == Path(os.path.abspath("meine fotos"))
    assert local_path("./t-{0..1}.tar") == tmp_path / "t-{0..1}.tar"
    assert local_path("digits") is None and local_path("") is None
    assert is_there("t-{0..1}.tar") and not is_there("u-{0..1}.tar") and not is_there("digits")
