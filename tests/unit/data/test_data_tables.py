"""CSV, TSV and JSON-lines files: columns, labels, paths, and everything that is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from vit_colossal.data.sources.request import SourceRequest
from vit_colossal.data.sources.source import ImageSource, open_source
from vit_colossal.errors import DataError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with photos/0.jpg to photos/9.jpg."""
    (tmp_path / "photos").mkdir()
    for i in range(10):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / f"photos/{i}.jpg")
    return tmp_path


def rows(*labels: object) -> list[str]:
    return [f"photos/{i}.jpg,{label}" for i, label in enumerate(labels)]


def write(folder: Path, name: str, *lines: str) -> Path:
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / name


def open_path(path: Path, **options: object) -> ImageSource:
    return open_source(SourceRequest(str(path), **options))


def problems(path: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        open_path(path, **options)
    assert all("\n" not in problem for problem in caught.value.problems)
    return "\n".join(caught.value.problems)


def labels_of(source: ImageSource) -> list[str]:
    ids = source.train[:][source.label_column] + source.evaluation[:][source.label_column]
    return sorted(source.labels[i] for i in ids)


# --- Reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "separator"), [("a.csv", ","), ("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", "\t")]
)
def test_separators_are_recognised(photos: Path, name: str, separator: str) -> None:
    lines = [line.replace(",", separator) for line in ["file,breed", *rows(*"ababababab")]]
    source = open_path(write(photos, name, *lines), val_split=0.2)
    assert (source.image_column, source.label_column) == ("file", "breed")
    assert (source.labels, len(source.train), len(source.evaluation)) == (("a", "b"), 8, 2)


def test_quotes_blanks_and_a_byte_order_mark_are_read(photos: Path) -> None:
    (photos / "photos/0.jpg").rename(photos / "photos/a, b.jpg")
    lines = ['\ufeff"image","label"', '"photos/a, b.jpg"," cat "', *rows("", *"x" * 8)[1:]]
    source = open_path(write(photos, "a.csv", *lines))
    assert source.labels == ("cat", "x")


def test_whole_numbers_are_ordered_as_numbers_and_codes_kept_as_text(photos: Path) -> None:
    assert open_path(write(photos, "a.csv", "image,label", *rows(10, 9, 10, 9))).labels == (
        "9",
        "10",
    )
    codes = write(photos, "b.csv", "image,label", *rows("010", "9", "010", "9"))
    assert open_path(codes).labels == ("010", "9")
    mixed = [f'{{"image": "photos/{i}.jpg", "label": {v}}}' for i, v in enumerate([3, '"b"'] * 2)]
    assert open_path(write(photos, "c.jsonl", *mixed)).labels == ("3", "b")


def test_json_lines_may_hold_more_and_leave_lines_empty(photos: Path) -> None:
    lines = [
        f'{{"meta": {{"camera": "x"}}, "file_name": "photos/{i}.jpg", "label": {i % 2}}}\n'
        for i in range(10)
    ]
    source = open_path(write(photos, "a.ndjson", *lines))
    assert labels_of(source) == ["0"] * 5 + ["1"] * 5


def test_splits_are_told_by_the_files_names(photos: Path) -> None:
    write(photos, "train.csv", "image,label", *rows(*"abab"))
    write(photos, "test.csv", "image,label", "photos/8.jpg,b")
    write(photos, "notes.csv", "never,read")
    source = open_path(photos)
    assert (len(source.train), len(source.evaluation), source.eval_split) == (4, 1, "test")
    assert labels_of(source) == ["a", "a", "b", "b", "b"]


def test_columns_can_be_named(photos: Path) -> None:
    lines = [f"photos/{i}.jpg,photos/{9 - i}.jpg,{i % 2},{i % 3}" for i in range(10)]
    file = write(photos, "a.csv", "front,back,label,breed", *lines)
    message = problems(file)
    assert "several image columns: choose one of front, back with --image-column" in message
    source = open_path(file, image_column="back", label_column="breed")
    assert (source.image_column, source.label_column) == ("back", "breed")
    assert source.labels == ("0", "1", "2")


def test_an_absolute_path_inside_the_folder_is_as_good(photos: Path) -> None:
    lines = [f"{photos}/photos/{i}.jpg,{i % 2}" for i in range(10)]
    assert len(open_path(write(photos, "a.csv", "image,label", *lines)).train) == 9


def test_the_fingerprint_covers_the_table_and_its_images(photos: Path) -> None:
    file = write(photos, "a.csv", "image,label", *rows(*"abababab"))
    before = open_path(file).fingerprint
    assert open_path(file).fingerprint == before
    write(photos, "a.csv", "image,label", *rows(*"babababa"))
    swapped = open_path(file).fingerprint
    Image.new("RGB", (4, 4), (99, 0, 0)).save(photos / "photos/0.jpg")
    assert len({before, swapped, open_path(file).fingerprint}) == 3


# --- Refusing -------------------------------------------------------------------------------------


def test_names_without_suffix_say_where_they_would_be_found(photos: Path) -> None:
    file = write(photos, "a.csv", "id,label", *(f"{n},{n % 2}" for n in range(8)))
    message = problems(file)
    assert "no column of image paths" in message and "call it metadata.csv, beside" in message
    assert "--image-column (of id, label)" in message
    file.rename(photos / "metadata.csv")
    write(photos, "metadata.csv", "id,label", *(f"{n},{n % 2}" for n in range(10)))
    assert open_path(photos).labels == ("0", "1")


def test_missing_images_and_labels_are_all_listed_by_line(photos: Path) -> None:
    lines = [
        "photos/0.jpg,cat",
        "photos/nowhere.jpg,cat",
        "photos/1.jpg,",
        "photos/2.jpg,NaN",
        ",dog",
        "photos,dog",
        "photos/3.jpg",
    ]
    message = problems(write(photos, "a.csv", "image,label", *lines))
    assert f"a.csv line 3: photos/nowhere.jpg: no such file below {photos}" in message
    assert "a.csv line 4: no label in column 'label'" in message
    assert "a.csv line 5: no label in column 'label'" in message
    assert "a.csv line 6: no image path" in message
    assert "a.csv line 7: photos: no such file" in message
    assert "a.csv line 8: no label in column 'label'" in message
    assert "line 2" not in message


@pytest.mark.parametrize(
    "again", ["photos/1.jpg,b", "./photos/1.jpg, b", "photos/../photos/1.jpg,b"]
)
def test_an_image_that_is_listed_again_is_said(photos: Path, again: str) -> None:
    file = write(photos, "a.csv", "image,label", *rows(*"abab"), again)
    assert "1 row(s) list an image that an earlier row lists" in open_path(file).notes
    # As tables of boxes have it, or of several labels an image.
    write(photos, "a.csv", "image,label", *rows(*"abab"), again.replace("b", "c"), again)
    (line,) = problems(file).splitlines()
    assert "line 6: 1.jpg has the label c, and b in a.csv line 3: write one label an image" in line


@pytest.mark.parametrize("other", ["val.csv", "validation.jsonl", "test.csv"])
def test_an_image_of_two_splits_is_said(photos: Path, other: str) -> None:
    write(photos, "train.csv", "image,label", *rows(*"abab"))
    again = "photos/1.jpg,b" if other.endswith("csv") else '{"image": "photos/1.jpg", "label": "b"}'
    head = ["image,label"] if other.endswith("csv") else []
    write(photos, other, *head, again)
    (note,) = (note for note in open_path(photos).notes if "too" in note)
    assert f"1 image(s) of split {other.partition('.')[0]} are in split train too (1.jpg" in note


def test_problems_of_both_splits_are_listed(photos: Path) -> None:
    write(photos, "train.csv", "image,label", *rows("a", "b"), "photos/x.jpg,a")
    write(photos, "test.csv", "image,label", "photos/y.jpg,b")
    message = problems(photos)
    assert (
        "train.csv line 4: photos/x.jpg" in message and "test.csv line 2: photos/y.jpg" in message
    )


def test_a_hundred_problems_are_listed_and_the_rest_counted(photos: Path) -> None:
    file = write(photos, "a.csv", "image,label", *(f"{i}.jpg,a" for i in range(1500)))
    message = problems(file)
    assert message.endswith("... and 1,400 more")
    assert len(message.splitlines()) == 101


@pytest.mark.parametrize("value", ["null", "NaN", "1.5", "[1]", "true", '""', '{"a": 1}'])
def test_what_is_no_label_in_json_is_named(photos: Path, value: str) -> None:
    lines = ['{"image": "photos/0.jpg", "label": "a"}', '{"image": "photos/1.jpg", "label": VALUE}']
    file = write(photos, "a.jsonl", *(line.replace("VALUE", value) for line in lines))
    message = problems(file)
    assert "a.jsonl line 2: " in message and "label" in message


def test_labels_outside_of_the_training_labels_are_named(photos: Path) -> None:
    write(photos, "train.csv", "image,label", *rows(*"abab"))
    write(photos, "test.csv", "image,label", "photos/8.jpg,yak")
    assert "values outside of the 2 labels (yak)" in problems(photos)
    write(photos, "test.csv", "image,label", "photos/8.jpg,-1", "photos/9.jpg,b")
    assert "(-1)" in problems(photos)
    # Without any label it is no split to evaluate on, and no obstacle.
    write(photos, "test.csv", "image,label", "photos/8.jpg,-1")
    assert "it has no labels" in problems(photos, eval_split="test")


def test_nothing_outside_of_the_tables_folder_is_read(photos: Path) -> None:
    inner = photos / "inner"
    inner.mkdir()
    os.symlink(photos / "photos", inner / "linked")
    lines = ["../photos/0.jpg,a", f"{photos}/photos/1.jpg,b", "linked/2.jpg,a"]
    message = problems(write(inner, "a.csv", "image,label", *lines))
    assert message.count(f"lies outside of {inner}") == 3
    assert "put the table above its images" in message


def test_missing_columns_are_named(photos: Path) -> None:
    file = write(photos, "a.csv", "id,kind,age", "1,cat,3", "2,dog,4")
    message = problems(file)
    assert "no column of image paths found" in message and "no column of labels found" in message
    assert "(of id, kind, age)" in message
    message = problems(file, image_column="pic", label_column="tag")
    assert "--image-column pic: no such column, only id, kind, age" in message
    assert "--label-column tag: no such column" in message


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", b"", "holds no rows"),
        ("a.csv", b"image,label\n", "holds no rows"),
        ("a.csv", b"image,label\nx.jpg,a,b\n", "more values than the first line"),
        ("a.csv", b'image,label\n"x.jpg"y,a\n', "cannot be read"),
        ("a.csv", b"image,label\n\xff\xfe.jpg,a\n", "cannot be read"),
        ("a.csv", b"image,label\n" + b"x" * 200_000 + b".jpg,a\n", "no such file below"),
        ("a.jsonl", b"\n\n", "holds no rows"),
        ("a.jsonl", b'{"image": 1}\n{"image": \n', "line 2"),
        ("a.jsonl", b'["photos/0.jpg", "a"]\n', "line 1: expected an object"),
        ("a.jsonl", b"[" * 100_000 + b"\n", "cannot be read"),
    ],
    ids=range(10),
)
def test_damaged_tables_are_refused(photos: Path, name: str, content: bytes, reason: str) -> None:
    (photos / name).write_bytes(content)
    message = problems(photos / name)
    assert reason in message and name in message


def test_a_path_with_a_null_byte_is_no_file(photos: Path) -> None:
    lines = ['{"image": "photos/0.jpg", "label": "a"}', '{"image": "a\\u0000.jpg", "label": "b"}']
    assert "a.jsonl line 2" in problems(write(photos, "a.jsonl", *lines))
