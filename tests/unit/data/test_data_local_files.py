"""Parquet files by folder and name, unlabelled splits, and the configurations of a README.md."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from data_folders import classes, problems, put, read, sizes
from vit_colossal.data.cache import CacheOptions
from vit_colossal.data.decoding import BadImage, Row, decode_rows
from vit_colossal.data.sources.request import SourceRequest
from vit_colossal.data.sources.source import load
from vit_colossal.data.streams import read_streams
from vit_colossal.errors import DataError
from vit_colossal.model.preprocessing import Preprocessing


@pytest.fixture(autouse=True)
def own_library_cache(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("library"))


def parquet(file: Path, labels: list, **columns: list) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    kind = datasets.ClassLabel(names=["cat", "dog"])
    features = datasets.Features(image=datasets.Image(), label=kind)
    pictures = [Image.new("RGB", (4, 4), (n, len(str(file)) % 256, 0)) for n in range(len(labels))]
    rows = datasets.Dataset.from_dict({"image": pictures, "label": labels}, features=features)
    for name, values in columns.items():
        rows = rows.add_column(name, values)
    rows.to_parquet(file)
    return file


@pytest.mark.parametrize("odd", ["device-a", "testpilot", "valley", "test", "eval 3"])
def test_a_files_name_does_not_beat_its_folder(tmp_path: Path, odd: str) -> None:
    parquet(tmp_path / f"Train/{odd}.parquet", [0, 1] * 6)
    parquet(tmp_path / "Train/phone.parquet", [0, 1] * 4)
    assert sum(sizes(read(tmp_path))) == 20
    parquet(tmp_path / "Valid/x.parquet", [0, 1])
    source = read(tmp_path)
    assert sizes(source) == (20, 2)
    assert source.overview[0] == "split train: 20 images of 2 files in Train/, 20 to train on"


def test_any_split_of_the_hubs_numbered_files_has_its_name(tmp_path: Path) -> None:
    parquet(tmp_path / "data/train-00000-of-00001.parquet", [0, 1] * 5)
    parquet(tmp_path / "data/fold_2-00000-of-00001.parquet", [0, 1])
    assert sizes(read(tmp_path)) == (9, 1)
    assert sizes(read(tmp_path, eval_split="fold_2")) == (10, 2)


def test_a_column_may_name_the_splits_of_rows(tmp_path: Path) -> None:
    file = parquet(tmp_path / "all.parquet", [0, 1] * 4, split=["train"] * 6 + ["dev"] * 2)
    assert sizes(read(file)) == (6, 2)


@pytest.mark.parametrize("labels", [[-1] * 4, [None] * 4, "no column"])
@pytest.mark.parametrize("streaming", [False, True])
def test_an_unlabelled_test_split_blocks_nothing(
    tmp_path: Path, labels: Any, streaming: bool
) -> None:
    parquet(tmp_path / "data/train.parquet", [0, 1] * 10)
    file = parquet(tmp_path / "data/test.parquet", [0] * 4 if labels == "no column" else labels)
    if labels == "no column":
        datasets.Dataset.from_parquet(str(file)).remove_columns("label").to_parquet(file)
    request = SourceRequest(str(tmp_path / "data"), streaming=streaming)
    if streaming:
        options = CacheOptions(Preprocessing((4, 4), 2), root=tmp_path / "cache")
        source = read_streams(load(request), request, options)
    else:
        source = read(tmp_path / "data", keep_test=False)
    assert sizes(source) == (18, 2)
    assert any("without labels: not evaluated on" in line for line in source.overview)
    message = problems(tmp_path / "data", eval_split="test")
    assert "no labels" in message and "--eval-split train" in message and "--val-split" in message


@pytest.mark.parametrize("streaming", [False, True])
def test_a_split_that_calls_its_labels_otherwise_is_not_unlabelled(
    tmp_path: Path, streaming: bool
) -> None:
    parquet(tmp_path / "train.parquet", [0, 1] * 10)
    file = parquet(tmp_path / "val.parquet", [0, 1])
    datasets.Dataset.from_parquet(str(file)).rename_column("label", "breed").to_parquet(file)
    request = SourceRequest(str(tmp_path), streaming=streaming)
    with pytest.raises(DataError, match=r"split 'val': no column 'label', only"):
        if streaming:
            options = CacheOptions(Preprocessing((4, 4), 2), root=tmp_path / "cache")
            read_streams(load(request), request, options)
        else:
            read(tmp_path)
    # Nobody is kept from training by a test split.
    file.rename(tmp_path / "test.parquet")
    assert sizes(read(tmp_path)) == (18, 2)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize("name", ["data/train-00000-of-00001.parquet", "train.csv", "a.tar"])
def test_a_clone_without_its_large_files_says_so(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(POINTER)
    path = tmp_path / name if name == "train.csv" else tmp_path
    assert "1 of 1 files" in problems(path) and "run git lfs pull" in problems(path)


def test_images_that_are_pointers_say_so() -> None:
    row = Row(0, {"bytes": POINTER.encode(), "path": None}, 0)
    (bad,) = decode_rows([row], Preprocessing((4, 4), 2))
    assert isinstance(bad, BadImage) and "run git lfs pull" in bad.reason


@pytest.mark.parametrize(
    ("name", "fix"),
    [("a.TGZ", "unpack it"), ("a.json", "(.jsonl)"), ("a.xlsx", "as CSV")],
)
def test_other_files_say_what_can_be_made_of_them(tmp_path: Path, name: str, fix: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert fix in problems(tmp_path / name)
    if fix == "unpack it":
        assert f"or unpack {tmp_path / name} and name the folder" in problems(tmp_path)


def test_a_tar_of_class_folders_has_to_be_unpacked(tmp_path: Path) -> None:
    put(tmp_path / "x", "cat", "dog")
    with tarfile.open(tmp_path / "pets.tar", "w") as archive:
        archive.add(tmp_path / "x", "pets")
    message = problems(tmp_path / "pets.tar")
    assert "no sample has a label beside its image" in message and "unpack it" in message


def test_files_of_another_kind_beside_the_rows_are_mentioned(tmp_path: Path) -> None:
    parquet(tmp_path / "train.parquet", [0, 1] * 5, label_name=["cat", "dog"] * 5)
    (tmp_path / "train.csv").write_text("a,b\n1,2\n")
    notes = read(tmp_path).notes
    assert any("train.csv not read" in note for note in notes)
    # The file's labels are of a class with names, and need no others.
    assert not any("label_name" in note for note in notes)
    file = tmp_path / "train.parquet"
    rows = datasets.Dataset.from_parquet(str(file))
    rows.cast_column("label", datasets.Value("int64")).to_parquet(file)
    assert any("those in label_name, name it with --label-column" in n for n in read(file).notes)


def test_images_beside_files_of_rows_are_mentioned(tmp_path: Path) -> None:
    parquet(put(tmp_path, "assets", count=2) / "train.parquet", [0, 1] * 5)
    assert any("left out 2 image(s) beside" in note for note in read(tmp_path).notes)


def test_folders_that_are_not_there_are_no_classes(tmp_path: Path) -> None:
    file = parquet(tmp_path / "data/train.parquet", [0, 1] * 5)
    for path in (file, file.parent, Path("digits"), Path("AI-Lab-Makerere/beans")):
        assert "--classes-are-folders" in problems(path, classes_are_folders=True)
    # Beside images it says which of the two is meant.
    put(file.parent, "test", "train")
    assert read(file.parent, classes_are_folders=True).labels == ("test", "train")


# --- The configurations of a copy from the hub ----------------------------------------------------

TWO = """---
license: mit
configs:
- config_name: original
  {default}data_files:
  - split: train
    path: original/train-*
  - split: validation
    path: [original/validation-*]
- config_name: augmented
  data_files:
  - split: train
    path: augmented/*
---
# Two
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    root = tmp_path / "clone [1]"
    parquet(root / "original/train-0.parquet", [0, 1] * 12)
    parquet(root / "original/validation-0.parquet", [0, 1] * 4)
    parquet(root / "augmented/train-0.parquet", [0, 1] * 8)
    return root


def test_one_configuration_is_read_and_not_all(clone: Path) -> None:
    (clone / "README.md").write_text(TWO.format(default=""))
    message = problems(clone)
    assert "choose one of original, augmented with --dataset-config" in message
    assert sizes(read(clone, dataset_config="original")) == (24, 8)
    assert sizes(read(clone, dataset_config="augmented", val_split=0.25)) == (12, 4)
    assert "no such configuration, only original, aug" in problems(clone, dataset_config="other")


def test_the_default_configuration_is_taken(clone: Path) -> None:
    (clone / "README.md").write_text(TWO.format(default="default: true\n  "))
    source = read(clone)
    assert sizes(source) == (24, 8)
    assert any("configuration original of its README.md" in note for note in source.notes)
    (clone / "README.md").write_text(TWO.format(default="").replace("original\n", "default\n", 1))
    assert sizes(read(clone)) == (24, 8)


def test_a_configuration_may_be_a_folder_or_images(tmp_path: Path) -> None:
    classes(tmp_path, "x/train", "x/val", "y/train")
    readme = (
        "---\nconfigs:\n- config_name: x\n  data_dir: x\n- config_name: y\n  data_dir: y\n---\n"
    )
    (tmp_path / "README.md").write_text(readme)
    assert sizes(read(tmp_path, dataset_config="x")) == (8, 8)
    readme = (
        "---\nconfigs:\n- config_name: z\n  data_files:\n  - split: train\n    path: x/**\n"
        "  - split: test\n    path: y/train/*/*\n---\n"
    )
    (tmp_path / "README.md").write_text(readme.replace("x/**", "x/train/**"))
    source = read(tmp_path, eval_split="test")
    assert (source.labels, sizes(source)) == (("cat", "dog"), (8, 8))


CSV_FILES = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: train.csv
  - split: {0}
    path: {0}.csv
---
"""


@pytest.mark.parametrize(
    ("split", "head", "row"),
    [
        ("test", "file_name", "{}"),
        ("test", "file_name,label", "{},"),
        ("test", "number,width,file_name", "7,4,{}"),
        ("validation", "file_name", "{}"),
        ("validation", "file_name,label", "{},nan"),
    ],
)
@pytest.mark.parametrize("readme", [True, False])
def test_a_table_without_labels_blocks_nothing(
    tmp_path: Path, split: str, head: str, row: str, readme: bool
) -> None:
    put(tmp_path, "photos", count=8)
    names = [f"photos/{n:03}.png" for n in range(8)]
    labelled = [f"{name},{'ab'[n % 2]}" for n, name in enumerate(names[:5])]
    (tmp_path / "train.csv").write_text("\n".join(["file_name,label", *labelled]))
    rows = [head, *(row.format(name) for name in names[5:])]
    (tmp_path / f"{split}.csv").write_text("\n".join(rows))
    if readme:
        (tmp_path / "README.md").write_text(CSV_FILES.format(split))
    source = read(tmp_path)
    assert sizes(source) == (4, 1)
    line = f"split {split}: 3 images of {split}.csv, without labels"
    assert any(line in text for text in source.overview)
    assert "no labels" in problems(tmp_path, eval_split=split)


@pytest.mark.parametrize("readme", [True, False])
def test_a_table_that_calls_its_labels_otherwise_is_refused(tmp_path: Path, readme: bool) -> None:
    put(tmp_path, "photos", count=8)
    for split, head in (("train", "file_name,breed"), ("validation", "file_name,race")):
        rows = [f"photos/{n:03}.png,{'ab'[n % 2]}" for n in range(4)]
        (tmp_path / f"{split}.csv").write_text("\n".join([head, *rows]))
    if readme:
        (tmp_path / "README.md").write_text(CSV_FILES.format("validation"))
    message = problems(tmp_path)
    assert "breed" in message and "no " in message and "race" in message


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("data_files: ../*.parquet", "../*.parquet lies outside of it"),
        ("data_files: /etc/*", "/etc/* lies outside of it"),
        ("data_dir: ../other", "../other lies outside of it"),
        ("data_files: nothing-*", "split 'train': no files like nothing-*"),
        ("data_files: https://example.org/a.parquet", "is not fetched"),
        ("data_files: 3", "README.md: its head cannot be read"),
    ],
)
def test_configurations_that_cannot_be_read(clone: Path, text: str, found: str) -> None:
    head = "---\nconfigs:\n- config_name: only\n  "
    (clone / "README.md").write_text(f"{head}{text}\n---\n")
    assert found in problems(clone)


def test_a_configuration_of_what_has_none_is_refused(tmp_path: Path, clone: Path) -> None:
    classes(tmp_path / "photos", "train")
    assert "no configurations" in problems(tmp_path / "photos", dataset_config="big")
    (tmp_path / "photos/README.md").write_text("---\nlicense: mit\n---\nPhotos\n---\n")
    assert "no configurations" in problems(tmp_path / "photos", dataset_config="big")
    assert sizes(read(tmp_path / "photos")) == (7, 1)
    file = clone / "original/train-0.parquet"
    assert "no configurations" in problems(file, dataset_config="original")
    assert "digits has none" in problems(Path("digits"), dataset_config="big")
