"""Which names stand for a split: of folders, files and splits alike."""

from __future__ import annotations

import pytest

from vit_colossal.data.sources.split_names import (
    kind_of_split,
    matching,
    means_nothing,
    parts_of_one,
    siblings,
    split_of,
    splits_of_files,
)
from vit_colossal.data.sources.system_files import is_left_by_system


@pytest.mark.parametrize(
    ("name", "split"),
    [
        # The words of `datasets`, and their bounds.
        *((name, "train") for name in ("train", "training", "train-00000-of-00002", "my train")),
        *((name, "train") for name in ("001.train", "train_7", "train2017", "Über-train")),
        *((name, name) for name in ("validation", "valid", "val", "dev", "test")),
        *((name, "test") for name in ("testing", "eval", "evaluation", "birds.eval-2")),
        # Beyond it.
        *(
            (name, "train")
            for name in ("TRAIN", "Training", "training_set", "trainset", "TrainSet")
        ),
        *((name, "train") for name in ("seg_train", "train_images", "traindata", "Train (1)")),
        *((name, "train") for name in ("trainval", "train_val", "train+val")),
        *((name, "val") for name in ("val_images", "VALSET", "val set", "val.v2")),
        *((name, "test") for name in ("holdout", "hold-out", "Hold_Out", "testData", "seg_test")),
        ("validate", "validation"),
        # Parts of other words.
        *((name, None) for name in ("device-a", "testpilot", "valley", "trainer", "trains")),
        *((name, None) for name in ("contest", "latest", "devil", "medieval", "evaluator", "")),
        # Two of them.
        *((name, None) for name in ("train-test", "val_test", "train, dev, test")),
    ],
)
def test_names_of_splits(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_whatever_it_is_called_a_split_is_one_of_three() -> None:
    kinds = {name: kind_of_split(name) for name in ("Training", "dev", "VAL", "holdout", "cat")}
    assert kinds == {
        "Training": "train",
        "dev": "validation",
        "VAL": "validation",
        "holdout": "test",
        "cat": None,
    }


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["train", "plane", "car"], {"train": "train"}),
        (["Training", "Testing"], {"Training": "train", "Testing": "test"}),
        (["asl_train", "asl_test"], {"asl_train": "train", "asl_test": "test"}),
        (["bullet_train", "tram", "test tube", "dev board"], {}),
        (["bullet train", "crash test"], {}),
        (["train", "test", "test tube"], {"train": "train", "test": "test"}),
        (["seg_train", "seg_test", "seg_pred"], {"seg_train": "train", "seg_test": "test"}),
    ],
)
def test_a_class_with_a_splits_word_in_it_is_a_class(names: list[str], found: dict) -> None:
    assert siblings(names) == found


@pytest.mark.parametrize(
    ("paths", "splits"),
    [
        (["train/device-a.parquet", "train/phone.parquet"], ["train", "train"]),
        (["train/test-1.csv", "dev/train-1.csv"], ["train", "dev"]),
        (["a/b/Train.csv", "a/b/TEST.csv"], ["train", "test"]),
        (["test-data/train/x.tar", "test-data/val/x.tar"], ["train", "val"]),
        (["test/x.tar", "test/y.tar"], ["test", "test"]),
        (["data/fold_1-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
         ["fold_1", "train"]),
        (["fold_1-00000-of-00002.parquet", "train-00001-of-00002.parquet"], [None, "train"]),
        (["testpilot.arrow", "valley.arrow"], [None, None]),
    ],
)  # fmt: skip
def test_folders_come_before_files(paths: list[str], splits: list[str | None]) -> None:
    assert splits_of_files([tuple(path.split("/")) for path in paths]) == splits


def test_parts_differ_in_digits_alone() -> None:
    assert parts_of_one(["train_1", "train_2"]) and parts_of_one(["Train 1", "train-02"])
    assert not parts_of_one(["train", "train_small"])


@pytest.mark.parametrize(
    ("asked", "names", "found"),
    [
        ("val", ["train", "val"], "val"),
        ("validation", ["train", "val"], "val"),
        ("Training", ["train", "test"], "train"),
        ("train", ["Train", "Test"], "Train"),
        ("train", ["train[:5]", "test"], None),
        ("train[:5]", ["train[:5]", "train"], "train[:5]"),
        ("validation", ["val", "dev"], None),
        ("exam", ["exam", "test"], "exam"),
        ("learn", ["train"], None),
    ],
)
def test_a_split_is_found_by_what_it_means(asked: str, names: list[str], found: str | None) -> None:
    assert matching(asked, names) == found


def test_some_names_say_nothing() -> None:
    assert all(means_nothing(name) for name in ("images", "data", "Photos", "dataset-2"))
    assert not any(means_nothing(name) for name in ("cats", "flower_photos", "train"))


@pytest.mark.parametrize(
    "name",
    ["@eaDir", "__MACOSX", "Thumbs.db", "THUMBS.DB", "desktop.ini", "lost+found", "$RECYCLE.BIN",
     "System Volume Information", ".DS_Store", "._a.jpg", ".ipynb_checkpoints", "#recycle"],
)  # fmt: skip
def test_what_systems_leave_is_known(name: str) -> None:
    assert is_left_by_system(name)
    assert not is_left_by_system(f"my {name}")
