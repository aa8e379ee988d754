"""Tables beside and above images: they give the labels, and the folders do not."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_folders import problems, put, read, sizes


def images(root: Path) -> list[Path]:
    return sorted(root.rglob("*.png"))


def table(file: Path, head: str, *rows: object) -> Path:
    file.write_text("\n".join([head, *map(str, rows)]) + "\n", encoding="utf-8")
    return file


def labelled(root: Path, *, by: str = "path", names: str = "ab") -> list[str]:
    """A row for each image below ``root``, the names in turn."""
    found = {
        "path": lambda file: file.relative_to(root).as_posix(),
        "name": lambda file: file.name,
        "stem": lambda file: file.stem,
    }
    return [
        f"{found[by](file)},{names[number % len(names)]}"
        for number, file in enumerate(images(root))
    ]


@pytest.fixture
def cameras(tmp_path: Path) -> Path:
    """Eight images in the folders of two cameras."""
    return put(tmp_path / "Fotos & mehr", "cam 1", "cam 2")


@pytest.mark.parametrize("name", ["metadata.csv", "labels.csv", "Metadata.CSV", "annotations.tsv"])
def test_a_table_above_the_images_labels_them(cameras: Path, name: str) -> None:
    rows = ["file_name,label", *labelled(cameras)]
    separator = "\t" if name.endswith(".tsv") else ","
    table(cameras / name, *(row.replace(",", separator) for row in rows))
    source = read(cameras)
    assert (source.labels, sizes(source)) == (("a", "b"), (7, 1))
    assert source.overview[0].startswith(f"split train: 8 images of {name}")
    assert read(cameras, classes_are_folders=True).labels == ("cam 1", "cam 2")


def test_paths_may_begin_with_the_folders_own_name(cameras: Path) -> None:
    rows = [f"{cameras.name}/{row}" for row in labelled(cameras)]
    table(cameras / "labels.csv", "path,label", *rows)
    assert read(cameras).labels == ("a", "b")


def test_json_lines_and_parquet_are_tables_too(tmp_path: Path) -> None:
    put(tmp_path / "j", "deep/er")
    rows = (row.split(",") for row in labelled(tmp_path / "j"))
    lines = [json.dumps({"file_name": name, "label": label, "by": "me"}) for name, label in rows]
    (tmp_path / "j/metadata.jsonl").write_text("\n".join(lines))
    assert read(tmp_path / "j").labels == ("a", "b")
    put(tmp_path / "p", "x")
    names = [file.relative_to(tmp_path / "p").as_posix() for file in images(tmp_path / "p")]
    columns = pa.table({"file_name": names, "label": ["ü", "b"] * 2})
    pq.write_table(columns, tmp_path / "p/metadata.parquet")
    assert read(tmp_path / "p").labels == ("b", "ü")


def test_a_table_in_each_split(tmp_path: Path) -> None:
    put(tmp_path, "Train", "Valid", "test")
    for split in ("Train", "Valid"):
        table(tmp_path / split / "metadata.csv", "file_name,label", *labelled(tmp_path / split))
    source = read(tmp_path)
    assert (sizes(source), source.eval_split) == ((4, 4), "valid")
    assert any("test: 4 images of test/, without labels" in line for line in source.overview)


def test_one_table_for_the_folders_of_all_splits(tmp_path: Path) -> None:
    put(tmp_path, "train", "val")
    table(tmp_path / "metadata.csv", "file_name,label", *labelled(tmp_path))
    assert sizes(read(tmp_path)) == (4, 4)


@pytest.mark.parametrize("missing", ["", "nan", "-1"])
def test_one_table_may_leave_the_folder_of_test_without_labels(
    tmp_path: Path, missing: str
) -> None:
    put(tmp_path, "Train", "Test", "val")
    rows = [
        f"{row.split(',')[0]},{missing}" if row.startswith("Test") else row
        for row in labelled(tmp_path)
    ]
    table(tmp_path / "metadata.csv", "file_name,label", *rows)
    source = read(tmp_path)
    assert (source.labels, sizes(source)) == (("a", "b"), (4, 4))
    assert any("test: 4 images of metadata.csv, without labels" in x for x in source.overview)
    assert "no labels" in problems(tmp_path, eval_split="test")
    # Of the others each image has one.
    rows[4:5] = [f"{rows[4].split(',')[0]},"]
    table(tmp_path / "metadata.csv", "file_name,label", *rows)
    assert "metadata.csv line 6: no label" in problems(tmp_path)


@pytest.mark.parametrize("column", ["split", "Subset", "partition"])
def test_a_column_may_name_the_splits(cameras: Path, column: str) -> None:
    rows = [f"{row},{'Train' if n % 4 else 'val'}" for n, row in enumerate(labelled(cameras))]
    file = table(cameras / "labels.csv", f"file,label,{column}", *rows)
    assert sizes(read(cameras)) == sizes(read(file)) == (6, 2)


def test_a_column_of_splits_gives_way_to_folders_of_splits(tmp_path: Path) -> None:
    put(tmp_path, "Train")
    rows = [f"{row},{'train' if n % 2 else 'test'}" for n, row in enumerate(labelled(tmp_path))]
    table(tmp_path / "metadata.csv", "file_name,label,split", *rows)
    source = read(tmp_path, val_split=0.5)
    assert sizes(source) == (2, 2)
    assert "column 'split' is not used, as the folders name the splits" in source.notes


def test_splits_of_a_column_have_the_tables_place(cameras: Path) -> None:
    rows = [f"{row},{'train' if n % 4 else 'Test Set'}" for n, row in enumerate(labelled(cameras))]
    table(cameras / "labels.csv", "file,label,set", *rows)
    source = read(cameras, eval_split="testing")
    assert sizes(source) == (6, 2)
    assert source.overview[1] == "split test: 2 images of labels.csv, 2 to evaluate on"


def test_a_table_may_hold_the_images_itself(cameras: Path) -> None:
    cells = [base64.b64encode(file.read_bytes()).decode() for file in images(cameras)]
    rows = [f"{cell},{'ab'[number % 2]}" for number, cell in enumerate(cells)]
    table(cameras / "train.csv", "picture,label", *rows)
    source = read(cameras, val_split=0.25)
    assert (source.labels, sizes(source)) == (("a", "b"), (6, 2))
    assert any("8 image(s) are in no table" in note for note in source.notes)
    shutil.rmtree(cameras / "cam 1")
    shutil.rmtree(cameras / "cam 2")
    table(cameras / "val.csv", "picture,label", *rows[:3])
    assert sizes(read(cameras)) == (8, 3)
    table(cameras / "val.csv", "picture,label", *(f"{cell}," for cell in cells[:3]))
    assert sizes(read(cameras)) == (7, 1)


@pytest.mark.parametrize("by", ["stem", "name"])
@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("labels.csv", "train"),
        ("train.csv", "train_images"),
        ("trainLabels.csv", "Train/Train"),
        ("train_labels.csv", "images"),
    ],
)
def test_competitions_name_images_without_folder_or_suffix(
    tmp_path: Path, by: str, file: str, folder: str
) -> None:
    put(tmp_path, folder, count=8)
    table(tmp_path / file, "id,breed", *labelled(tmp_path, by=by, names="xyz"))
    table(tmp_path / "sample_submission.csv", "id,x", "nothing,0.5")
    put(tmp_path / "Test", "unknown")
    for number, image in enumerate(images(tmp_path / "Test")):
        image.rename(tmp_path / f"Test/t{number}.png")
    if folder == "images":  # no folder says which ones are for training
        (tmp_path / "Test").rename(tmp_path / "images/test")
    source = read(tmp_path)
    assert (source.labels, sizes(source)) == (("x", "y", "z"), (7, 1))


def test_a_competitions_test_table_has_no_labels(tmp_path: Path) -> None:
    put(tmp_path, "train", count=8)
    put(tmp_path, "test", count=3)
    for image in images(tmp_path / "test"):
        image.rename(image.with_stem(f"t{image.stem}"))
    table(tmp_path / "train.csv", "id,label", *labelled(tmp_path / "train", by="stem"))
    for rows in (["id"], ["id,label"]):
        ids = [file.stem + ("," if "," in rows[0] else "") for file in images(tmp_path / "test")]
        table(tmp_path / "test.csv", *rows, *ids)
        source = read(tmp_path)
        assert sizes(source) == (7, 1)
        assert any("test: 3 images of test.csv, without labels" in x for x in source.overview)
    assert "no labels" in problems(tmp_path, eval_split="test")


def test_images_that_no_table_lists_are_counted(cameras: Path) -> None:
    file = table(cameras / "metadata.csv", "file_name,label", *labelled(cameras)[:5])
    message = problems(cameras)
    assert "says nothing of 3 of the 8 images (cam 2/001.png" in message
    assert f"--dataset {file}" in message
    assert sum(sizes(read(file))) == 5
    # A table of one camera says nothing of the other.
    file.unlink()
    rows = labelled(cameras / "cam 1")
    table(cameras / "cam 1/metadata.csv", "file_name,label", *rows)
    assert "4 of the 8 images" in problems(cameras)


def test_images_that_are_not_there_are_listed(cameras: Path) -> None:
    table(cameras / "metadata.csv", "file_name,label", *labelled(cameras), "cam 1/9.png,a")
    assert "metadata.csv line 10: cam 1/9.png: no such file" in problems(cameras)


def test_two_readings_of_a_column_and_of_folders_are_both_shown(cameras: Path) -> None:
    table(cameras / "metadata.csv", "file_name,caption", *labelled(cameras, names="abcd"))
    message = problems(cameras)
    assert "4 values in column 'caption'" in message and "--label-column caption" in message
    assert "its 2 folders (cam 1, cam 2 ...)" in message and "--classes-are-folders" in message
    assert read(cameras, label_column="caption").labels == ("a", "b", "c", "d")
    # Where both say the same there is one reading.
    for image in images(cameras):
        image.rename(image.with_stem(f"{image.parent.name} {image.stem}"))
    rows = [f"{f.relative_to(cameras).as_posix()},{f.parent.name}" for f in images(cameras)]
    table(cameras / "metadata.csv", "file_name,species", *rows)
    assert read(cameras).labels == ("cam 1", "cam 2")


def test_the_way_out_beside_named_splits_is_not_a_flag_that_makes_classes_of_them(
    tmp_path: Path,
) -> None:
    put(tmp_path, "Train/0", "Train/1", "Test")
    rows = [f"{row.split(',')[0]},4,x{n % 3}" for n, row in enumerate(labelled(tmp_path / "Train"))]
    file = table(tmp_path / "Train/metadata.csv", "path,width,kind", *rows)
    message = problems(tmp_path)
    assert "--classes-are-folders" not in message
    assert "to take the 2 folders in its splits (0, 1 ...) as the labels" in message
    file.unlink()
    assert read(tmp_path).labels == ("0", "1")


def test_a_table_of_something_else_is_not_used_and_said(tmp_path: Path) -> None:
    put(tmp_path, "cat", "dog")
    table(tmp_path / "labels.csv", "number,name", "0,cat", "1,dog")
    source = read(tmp_path)
    assert source.labels == ("cat", "dog")
    assert any("labels.csv names none of the images" in note for note in source.notes)


def test_classes_for_training_and_a_table_for_test(tmp_path: Path) -> None:
    put(tmp_path, "Train/0", "Train/1", "Test")
    for image in images(tmp_path / "Test"):
        image.rename(image.with_stem(f"t{image.stem}"))
    rows = [f"Test/{file.name},{n % 2}" for n, file in enumerate(images(tmp_path / "Test"))]
    table(tmp_path / "Test.csv", "path,label", *rows)
    source = read(tmp_path, eval_split="test")
    assert (source.labels, sizes(source)) == (("0", "1"), (8, 4))
    assert source.evaluation[:]["label"] == [0, 1, 0, 1]


def test_the_fingerprint_covers_the_table(cameras: Path) -> None:
    rows = labelled(cameras)
    prints = set()
    for some in (rows, rows[::-1], [row.replace(",a", ",c") for row in rows]):
        table(cameras / "metadata.csv", "file_name,label", *some)
        prints.add(read(cameras).fingerprint)
    assert len(prints) == 3


def test_tables_of_other_names_are_mentioned(tmp_path: Path) -> None:
    put(tmp_path, "cat", "dog")
    file = table(tmp_path / "birds.csv", "file,label", *labelled(tmp_path))
    assert any("birds.csv not read" in note for note in read(tmp_path).notes)
    for image in images(tmp_path):
        image.rename(tmp_path / f"{image.parent.name}{image.name}")
    assert f"or name the table: --dataset {file}" in problems(tmp_path)


def test_a_damaged_table_beside_classes_names_both_ways_out(tmp_path: Path) -> None:
    put(tmp_path, "cat", "dog")
    (tmp_path / "labels.csv").write_bytes(b"PK\x03\x04\xff\xfe")
    message = problems(tmp_path)
    assert "labels.csv: cannot be read" in message and "--classes-are-folders" in message
    assert read(tmp_path, classes_are_folders=True).labels == ("cat", "dog")
