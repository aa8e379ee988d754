"""Labels in the types that people's programs write: the same classes, or a line that helps."""

from __future__ import annotations

import csv
import datetime
import io
import json
import tarfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vit_colossal.data.cache import CacheOptions
from vit_colossal.data.sources.labels import is_label
from vit_colossal.data.sources.request import SourceRequest
from vit_colossal.data.sources.source import ImageSource, load, open_source
from vit_colossal.data.streams import read_streams
from vit_colossal.errors import DataError
from vit_colossal.model.preprocessing import Preprocessing


@pytest.fixture(autouse=True)
def own_library_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library")


def png(shade: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (shade % 256, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


# --- Writers: each puts labels into a file as a program of that format would ----------------------


def as_parquet(folder: Path, labels: Any, split: str = "train") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": png(i), "path": None} for i in range(len(labels))]
    pq.write_table(pa.table({"image": images, "label": labels}), folder / f"{split}.parquet")
    return folder


def as_arrow(folder: Path, labels: Any, split: str = "train") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": png(i), "path": None} for i in range(len(labels))]
    table = pa.table({"image": images, "label": labels})
    with pa.ipc.new_stream(str(folder / f"{split}.arrow"), table.schema) as writer:
        writer.write_table(table)
    return folder


def as_csv(folder: Path, labels: Any, split: str = "train") -> Path:
    """As pandas writes a frame."""
    files = photos(folder, len(labels))
    values = labels.to_pylist() if isinstance(labels, pa.Array) else list(labels)
    frame = pd.DataFrame({"file": files, "label": values})
    frame.to_csv(folder / f"{split}.csv", index=False)
    return folder


def as_json_lines(folder: Path, labels: Any, split: str = "train") -> Path:
    files = photos(folder, len(labels))
    values = labels.to_pylist() if isinstance(labels, pa.Array) else list(labels)
    rows = [{"file": file, "label": value} for file, value in zip(files, values, strict=True)]
    (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


def as_shard(folder: Path, labels: Any, split: str = "train") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    values = labels.to_pylist() if isinstance(labels, pa.Array) else list(labels)
    with tarfile.open(folder / f"{split}.tar", "w") as tar:
        for number, value in enumerate(values):
            body = json.dumps({"label": value}).encode()
            for suffix, content in (("png", png(number)), ("json", body)):
                info = tarfile.TarInfo(f"{number:04}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return folder


def photos(folder: Path, count: int) -> list[str]:
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    names = [f"photos/{i}.png" for i in range(count)]
    for i, name in enumerate(names):
        (folder / name).write_bytes(png(i))
    return names


WRITERS: dict[str, Callable[..., Path]] = {
    "parquet": as_parquet,
    "arrow": as_arrow,
    "csv": as_csv,
    "json lines": as_json_lines,
    "shard": as_shard,
}
every_source = pytest.mark.parametrize("source", WRITERS)


def open_path(path: Path, **options: object) -> ImageSource:
    return open_source(SourceRequest(str(path), **{"eval_split": "train", **options}))


def names_of(split: datasets.Dataset, labels: tuple[str, ...]) -> list[str]:
    return [labels[i] for i in split.select_columns(["label"])[:]["label"]]


def named_rows(source: ImageSource) -> list[str]:
    """The names of all rows of the only split, sorted as they come from two parts of it."""
    train, held_out = (names_of(s, source.labels) for s in (source.train, source.evaluation))
    return sorted(train + held_out)


def problems(path: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        open_path(path, **options)
    assert all("\n" not in problem for problem in caught.value.problems)
    return "\n".join(caught.value.problems)


def streamed(folder: Path, **options: Any) -> Any:
    request = SourceRequest(str(folder), streaming=True, cache_dir=folder / "cache", **options)
    loaded = load(request)
    assert loaded.streamed
    return read_streams(loaded, request, CacheOptions(Preprocessing((4, 4)), folder / "cache"))


# --- Read by rule ---------------------------------------------------------------------------------

N = 12
READ: dict[str, tuple[list[Any], tuple[str, ...]]] = {
    "truth": ([True, False] * 6, ("False", "True")),
    "whole floats": ([1.0, 0.0, 2.0] * 4, ("0", "1", "2")),
    "signs": ([-1, 1] * 6, ("-1", "1")),
    "signs as floats": ([1.0, -1.0] * 6, ("-1", "1")),
    "a scale": ([-2, -1, 0, 1] * 3, ("-2", "-1", "0", "1")),
    "numbers as text": (["10", "9", "2"] * 4, ("2", "9", "10")),
    "floats as text": (["3.0", "1.0"] * 6, ("1", "3")),
    "one-hot": ([[0, 0, 1], [1, 0, 0], [0, 1, 0]] * 4, ("0", "1", "2")),
    "one-hot floats": ([[0.0, 1.0], [1.0, 0.0]] * 6, ("0", "1")),
    "one-hot truths": ([[False, True], [True, False]] * 6, ("0", "1")),
    "numbers in lists": ([[7], [3]] * 6, ("3", "7")),
    "names in lists": ([["cat"], ["dog"]] * 6, ("cat", "dog")),
    "codes": (["007", "010"] * 6, ("007", "010")),
    "blanks around": (["cat", " cat ", "dog\t"] * 4, ("cat", "dog")),
    "accents two ways": (["Caf\u00e9", "Cafe\u0301", "Tee"] * 4, ("Caf\u00e9", "Tee")),
    "nothing to be seen": (["cat\u200b", "\ufeffcat", "dog\u00a0"] * 4, ("cat", "dog")),
    "words for nothing": (["NA", "None", "null"] * 4, ("NA", "None", "null")),
}


@every_source
@pytest.mark.parametrize("kind", READ)
def test_labels_of_every_type_are_read_alike(tmp_path: Path, source: str, kind: str) -> None:
    labels, names = READ[kind]
    found = open_path(WRITERS[source](tmp_path / "data", labels))
    assert found.labels == names
    expected = {
        "one-hot": lambda v: str(v.index(1)),
        "numbers in lists": lambda v: str(v[0]),
        "names in lists": lambda v: v[0],
        "blanks around": str.strip,
        "nothing to be seen": lambda v: "cat" if "cat" in v else "dog",
        "accents two ways": lambda v: "Tee" if v == "Tee" else "Caf\u00e9",
    }.get(kind.partition(" floats")[0].partition(" truths")[0])
    if kind in ("whole floats", "signs as floats", "floats as text"):
        expected = lambda v: str(int(float(v)))  # noqa: E731
    assert named_rows(found) == sorted(map(expected or str, labels))


@pytest.mark.parametrize("kind", READ)
def test_a_stream_reads_labels_as_a_copy_does(tmp_path: Path, kind: str) -> None:
    labels, names = READ[kind]
    folder = as_parquet(tmp_path / "data", labels)
    as_parquet(folder, labels[:5], "test")
    ours = streamed(folder)
    theirs = open_source(SourceRequest(str(folder)))
    assert ours.labels == theirs.labels == names
    assert ours.train.labels.tolist() == theirs.train[:]["label"]
    assert ours.evaluation.labels.tolist() == theirs.evaluation[:]["label"]
    assert ours.fingerprint == theirs.fingerprint


TYPED: dict[str, tuple[pa.Array, tuple[str, ...]]] = {
    "dictionary": (pa.array(["b", "a"] * 6).dictionary_encode(), ("a", "b")),
    "dictionary of numbers": (pa.array([5, 3] * 6).dictionary_encode(), ("3", "5")),
    "large text": (pa.array(["b", "a"] * 6, pa.large_string()), ("a", "b")),
    "bytes": (pa.array([b"b", b"a"] * 6), ("a", "b")),
    "decimals without a fraction": (pa.array([Decimal("2"), Decimal("1")] * 6), ("1", "2")),
    "half floats": (pa.array(np.array([1, 0] * 6, np.float16)), ("0", "1")),
    "uint8": (pa.array([200, 3] * 6, pa.uint8()), ("3", "200")),
    "fixed lists": (pa.array([[0, 1], [1, 0]] * 6, pa.list_(pa.int8(), 2)), ("0", "1")),
}


@pytest.mark.parametrize("kind", TYPED)
@pytest.mark.parametrize("source", ["parquet", "arrow"])
def test_arrow_types_of_labels_are_read(tmp_path: Path, source: str, kind: str) -> None:
    labels, names = TYPED[kind]
    assert open_path(WRITERS[source](tmp_path / "data", labels)).labels == names


def test_a_frame_with_categories_is_read(tmp_path: Path) -> None:
    images = [{"bytes": png(i), "path": None} for i in range(6)]
    kinds = pd.Categorical(["mid", "low", "high"] * 2, ["low", "mid", "high"], ordered=True)
    (tmp_path / "data").mkdir()
    pd.DataFrame({"image": images, "label": kinds}).to_parquet(tmp_path / "data/train.parquet")
    assert open_path(tmp_path / "data").labels == ("high", "low", "mid")


@every_source
def test_120_numbers_as_text_are_in_the_order_of_numbers(tmp_path: Path, source: str) -> None:
    found = open_path(WRITERS[source](tmp_path / "data", [str(i % 120) for i in range(240)]))
    assert found.labels == tuple(map(str, range(120)))


def test_numpys_way_of_writing_lists_is_read(tmp_path: Path) -> None:
    photos(tmp_path, 4)
    lines = [f"photos/{i}.png,{t}" for i, t in enumerate(["[0. 1. 0.]", "[1. 0. 0.]"] * 2)]
    (tmp_path / "a.csv").write_text("\n".join(["file,label", *lines]))
    assert open_path(tmp_path / "a.csv").labels == ("0", "1")


# --- Said -----------------------------------------------------------------------------------------


def test_what_was_made_of_doubtful_labels_is_said(tmp_path: Path) -> None:
    labels = ["Cat", "cat", "cat", " cat", "None", "S\u00fc\u00df", "SÜSS"]
    notes = "\n".join(open_path(as_csv(tmp_path, labels)).notes)
    assert "Cat (1) and cat (3) differ in case, and are different labels" in notes
    assert "None (1) is taken as a label's name" in notes
    assert "one label each, differing only by blanks" in notes and ": cat" in notes
    assert "S\u00dcSS (1) and S\u00fc\u00df (1) differ in case" in notes
    assert open_path(as_csv(tmp_path / "plain", ["Katze", "Hund"] * 3)).notes == ()


def test_one_hot_and_negative_labels_are_said(tmp_path: Path) -> None:
    notes = open_path(as_parquet(tmp_path / "a", [[0, 1], [1, 0]] * 3)).notes
    assert any("one-hot" in note for note in notes)
    notes = open_path(as_parquet(tmp_path / "b", [-1, 1] * 3)).notes
    assert any("-1 is a label like others" in note for note in notes)
    assert not any("unlabelled" in note for note in notes)


def test_a_column_of_names_beside_numbers_is_said(tmp_path: Path) -> None:
    photos(tmp_path, 4)
    lines = [f"photos/{i}.png,{i % 2},{'ab'[i % 2]}" for i in range(4)]
    (tmp_path / "a.csv").write_text("\n".join(["file,label,label_name", *lines]))
    (note,) = open_path(tmp_path / "a.csv").notes
    assert "label_name" in note and "--label-column" in note
    found = open_path(tmp_path / "a.csv", label_column="label_name")
    assert (found.labels, found.notes) == (("a", "b"), ())


# --- Refused --------------------------------------------------------------------------------------

DATES = [datetime.date(2024, 1, day) for day in range(1, 7)]
REFUSED: dict[str, tuple[list[Any], tuple[str, ...]]] = {
    "a regression target": ([0.37, 0.52, 1.0] * 2, ("decimals (0.37, 0.52", "not class labels")),
    "grades": ([1.5, 2.0, 2.5] * 2, ("decimals (1.5, 2.5", "--label-column")),
    "shares": ([[0.3, 0.7], [1.0, 0.0]] * 3, ("several labels an image", "one label an image")),
    "several marks": ([[1, 1, 0], [0, 1, 0]] * 3, ("row 0", "marks 2 of several labels")),
    "no mark": ([[0, 0], [0, 1]] * 3, ("row 0", "marks 0 of several labels")),
    "several numbers as text": (["[3, 4]", "[4]"] * 3, ("several labels an image ([3, 4]",)),
    "several names": ([["cat", "dog"], ["cat"]] * 3, ("several labels an image",)),
    "lists of other lengths": ([[0, 1], [1, 0, 0]] * 3, ("several labels an image",)),
    "one of three unlabelled": ([0, 1, -1] * 2, ("-1", "unlabelled", "write it as a name")),
    "objects": ([{"id": 1}, {"id": 2}] * 3, ("neither text nor whole numbers", "choose another")),
    "no label at all": ([-1] * 6, ("6 of 6", "unlabelled", "--train-split")),
    "nothing": ([None] * 6, ("6 of 6", "unlabelled")),
    "one label": ([3.0] * 6, ("1 label(s)", "needs 2")),
}


@every_source
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_class_is_refused_with_the_fix(tmp_path: Path, source: str, kind: str) -> None:
    labels, words = REFUSED[kind]
    message = problems(WRITERS[source](tmp_path / "data", labels))
    if (source, kind) == ("shard", "nothing"):
        words = ("no sample has a label beside its image",)
    words = tuple(w.replace("row 0", "a") for w in words)  # a file's line or a sample's key
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize("kind", REFUSED)
def test_a_stream_refuses_the_same(tmp_path: Path, kind: str) -> None:
    labels, words = REFUSED[kind]
    folder = as_parquet(tmp_path / "data", labels)
    with pytest.raises(DataError) as caught:
        streamed(folder, val_split=0.5)
    assert "label" in str(caught.value) and "\n" not in caught.value.problems[0]
    if "decimals" in words[0] or "several" in words[0]:
        assert words[0] in str(caught.value)
        assert not list((folder / "cache").glob("*/images.npy"))


@pytest.mark.parametrize("source", ["parquet", "arrow"])
@pytest.mark.parametrize(
    "labels",
    [DATES, [datetime.datetime(2024, 1, d, 3) for d in range(1, 7)], [str(d) for d in DATES]],
    ids=["dates", "times", "text"],
)
def test_dates_are_no_classes(tmp_path: Path, source: str, labels: list[Any]) -> None:
    message = problems(WRITERS[source](tmp_path / "data", labels))
    assert "holds dates or times (2024-01-01" in message and "choose another column" in message


def test_decimals_with_a_comma_are_told_apart_from_names(tmp_path: Path) -> None:
    message = problems(as_csv(tmp_path, ["0,5", "1,5", "2,0"] * 2))
    assert "holds decimals (0,5, 1,5, 2,0; a decimal comma is not read)" in message


@every_source
def test_a_label_for_every_image_is_an_identifier(tmp_path: Path, source: str) -> None:
    labels = [f"{n:08x}-ba5e" for n in range(60)]
    message = problems(WRITERS[source](tmp_path / "a", labels))
    assert "60 of 60 images have a label of their own" in message and "--label-column" in message
    numbers = [*range(1000, 1058), 1000, 1001]
    assert "56 of 60" in problems(WRITERS[source](tmp_path / "b", numbers))
    assert len(open_path(WRITERS[source](tmp_path / "c", [i // 2 for i in range(60)])).labels) == 30


@every_source
def test_odd_cells_among_good_ones_are_listed(tmp_path: Path, source: str) -> None:
    if source in ("parquet", "arrow"):
        pytest.skip("its columns have one type")
    if source == "csv":
        message = problems(as_csv(tmp_path / "data", ["ant", None, "bee", "ant", ""]))
        assert "train.csv line 3: no label in column 'label'" in message
        assert "train.csv line 6: no label" in message and "line 2" not in message
        return
    message = problems(WRITERS[source](tmp_path / "data", ["ant", True, "bee", {"a": 1}, 0.5]))
    for value in ("True", "{'a': 1}", "0.5"):
        assert f"label {value} is neither text nor a whole number" in message
    assert len(message.splitlines()) == 3


def test_a_cell_does_not_flood_the_terminal(tmp_path: Path) -> None:
    long = ["x" * 100_000 + str(i % 2) for i in range(6)]
    as_parquet(tmp_path / "data", long)
    as_parquet(tmp_path / "data", ["\x1b[31mred\x07" + "y" * 5000], "test")
    message = problems(tmp_path / "data", eval_split="test")
    assert len(message) < 500 and "\x1b" not in message and "\x07" not in message
    steep = [[0] * 5000 + [1, 1], [1] + [0] * 5001] * 3
    assert all(len(line) < 300 for line in problems(as_parquet(tmp_path / "b", steep)).split("\n"))


# --- Two splits -----------------------------------------------------------------------------------


def classes(folder: Path, split: str, values: list[int | None], names: list[str]) -> None:
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))
    rows = {"image": [{"bytes": png(i), "path": None} for i in range(len(values))], "label": values}
    folder.mkdir(exist_ok=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")


def evaluated(folder: Path) -> list[str]:
    """The names of the test split's labels, by both ways of reading."""
    source = open_source(SourceRequest(str(folder)))
    stream = streamed(folder)
    assert stream.evaluation.labels.tolist() == source.evaluation[:]["label"]
    assert stream.fingerprint == source.fingerprint
    return names_of(source.evaluation, source.labels)


def test_class_names_in_another_order_are_matched_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    classes(folder, "train", [0, 1, 2], ["cat", "dog", "yak"])
    classes(folder, "test", [0, 1, 2, 0], ["yak", "cat", "dog"])
    assert evaluated(folder) == ["yak", "cat", "dog", "yak"]


def test_a_split_with_a_part_of_the_names_is_matched_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    classes(folder, "train", [0, 1, 2], ["cat", "dog", "yak"])
    classes(folder, "test", [0, 0], ["yak"])
    assert evaluated(folder) == ["yak", "yak"]


def test_names_and_class_names_meet_by_name(tmp_path: Path) -> None:
    classes(tmp_path / "a", "train", [0, 1, 2], ["cat", "dog", "yak"])
    as_parquet(tmp_path / "a", ["yak ", "cat"], "test")
    assert evaluated(tmp_path / "a") == ["yak", "cat"]
    as_parquet(tmp_path / "b", ["dog", "cat"])
    classes(tmp_path / "b", "test", [1, 0, 1], ["dog", "cat"])
    assert evaluated(tmp_path / "b") == ["cat", "dog", "cat"]


def test_numbers_are_places_among_class_names_where_they_can_be_nothing_else(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "a"
    classes(folder, "train", [0, 1, 2], ["yak", "cat", "dog"])
    as_parquet(folder, [2, 0, 1], "test")
    assert evaluated(folder) == ["dog", "yak", "cat"]
    (note,) = open_source(SourceRequest(str(folder))).notes
    assert "'test'" in note and "0 is yak, 2 is dog" in note
    folder = tmp_path / "b"
    as_parquet(folder, [2, 0, 1])
    classes(folder, "test", [2, 0], ["yak", "cat", "dog"])
    assert evaluated(folder) == ["2", "0"]
    # Counted from 1, or too many: nothing settles what they mean.
    for number, values in enumerate(([1, 2], [1, 2, 3], [0, 3])):
        folder = tmp_path / f"c{number}"
        classes(folder, "train", [0, 1, 2], ["yak", "cat", "dog"])
        as_parquet(folder, values, "test")
        message = problems(folder, eval_split="test")
        assert "where training holds yak, cat, dog" in message and "--eval-split" in message


def test_class_names_that_are_numbers_have_to_mean_one_thing(tmp_path: Path) -> None:
    digits = [str(d) for d in range(10)]
    classes(tmp_path / "a", "train", list(range(10)), digits)
    as_parquet(tmp_path / "a", [7, 3], "test")
    assert evaluated(tmp_path / "a") == ["7", "3"]
    # Sorted as text, 2 stands at place 4.
    classes(tmp_path / "b", "train", list(range(12)), sorted(map(str, range(12))))
    as_parquet(tmp_path / "b", [2, 3], "test")
    message = problems(tmp_path / "b", eval_split="test")
    assert "may be names or places" in message and "--eval-split" in message


@every_source
def test_numbers_for_names_are_refused(tmp_path: Path, source: str) -> None:
    write = WRITERS[source]
    folder = write(write(tmp_path / "data", ["cat", "dog"] * 3), [0, 1], "test")
    message = problems(folder, eval_split="test")
    assert "holds 0, 1 where training holds cat, dog" in message and "--eval-split" in message


@every_source
def test_the_nearest_name_is_said(tmp_path: Path, source: str) -> None:
    write = WRITERS[source]
    folder = write(write(tmp_path / "data", ["cat", "dog"] * 3), ["Cat", "dog"], "test")
    message = problems(folder, eval_split="test")
    assert "outside of the 2 labels (Cat) (did you mean cat?) in 1 of 2 rows" in message


@every_source
def test_minus_one_is_the_class_that_it_is_in_training(tmp_path: Path, source: str) -> None:
    write = WRITERS[source]
    folder = write(write(tmp_path / "data", [-1, 1] * 3), [-1, -1], "test")
    found = open_path(folder, eval_split="test")
    assert names_of(found.evaluation, found.labels) == ["-1", "-1"]
    other = write(write(tmp_path / "other", [0, 1] * 3), [-1, -1], "test")
    assert "--eval-split test: it has no labels" in problems(other, eval_split="test")
    # Nor does it stop training, which it does where a part of it is labelled.
    assert len(open_path(other, val_split=0.5).evaluation) == 3
    write(other, [0, -1, 1], "test")
    message = problems(other, eval_split="test")
    assert "1 of 3 rows are unlabelled" in message and "--eval-split" in message


def test_one_predicate_says_what_is_no_label() -> None:
    nothing: list[Any] = [None, "", "  ", "nan", "NaN", float("nan"), [], np.nan, -1, "-1", -1.0]
    assert [value for value in nothing if is_label(value)] == []
    something: list[Any] = [0, False, "0", "none", "NA", [0], -2, "unlabelled"]
    assert [value for value in something if not is_label(value)] == []
    assert is_label(-1, ("-1", "1")) and not is_label(None, ("-1", "1"))


def test_a_csv_can_be_written_by_hand(tmp_path: Path) -> None:
    """The writers above go through pandas; the module's own quoting is read as well."""
    files = photos(tmp_path, 4)
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, quoting=csv.QUOTE_ALL, delimiter=";")
        writer.writerows([("file", "label"), *zip(files, ["a;b", "c,d"] * 2, strict=True)])
    assert open_path(tmp_path / "a.csv").labels == ("a;b", "c,d")
