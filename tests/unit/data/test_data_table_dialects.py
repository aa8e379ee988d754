"""CSV and JSON lines as spreadsheets and libraries write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vit_colossal.data.sources.request import SourceRequest
from vit_colossal.data.sources.source import ImageSource, open_source
from vit_colossal.data.sources.table_files import read_table
from vit_colossal.errors import DataError
from vit_colossal.model.preprocessing import Preprocessing

COUNT = 10
HEAD = "file,label"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """0.png to 9.png."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library")
    (tmp_path / "data").mkdir()
    for i in range(COUNT):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / f"data/{i}.png")
    return tmp_path / "data"


def rows(*labels: object) -> list[str]:
    return [f"{i}.png,{labels[i % len(labels)]}" for i in range(COUNT)]


def write(folder: Path, *lines: str, name: str = "a.csv", encoding: str = "utf-8") -> Path:
    (folder / name).write_bytes("\n".join(lines).encode(encoding))
    return folder / name


def open_path(path: Path, **options: Any) -> ImageSource:
    return open_source(SourceRequest(str(path), **options))


def problems(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        open_path(path, **options)
    assert all("\n" not in problem for problem in caught.value.problems)
    return "\n".join(caught.value.problems)


def assert_ten_of_two(path: Path, labels: tuple[str, ...] = ("cat", "dog")) -> ImageSource:
    source = open_path(path, val_split=0.2)
    assert (source.labels, len(source.train), len(source.evaluation)) == (labels, 8, 2)
    return source


GOOD = [HEAD, *rows("cat", "dog")]
SEMICOLONS = [line.replace(",", ";") for line in GOOD]
DIALECTS: dict[str, str] = {
    "Excel's first line": "\n".join(["sep=;", *SEMICOLONS]),
    "Excel's first line in quotes": "\r\n".join(['"sep=|"', *(x.replace(",", "|") for x in GOOD)]),
    "semicolons at the ends": "\n".join(f"{line};" for line in SEMICOLONS),
    "rows of separators": "\n".join([*SEMICOLONS, ";", ";;;", " ; "]),
    "commas at the ends of rows": "\n".join([HEAD, *(f"{row},,," for row in rows("cat", "dog"))]),
    "Windows' ends of lines": "\r\n".join(["", *GOOD, "", ""]),
    "old ends of lines": "\r".join(GOOD),
    "a mark": "\ufeff" + "\n".join(GOOD),
    "blanks after separators": "\n".join(line.replace(",", ", ") for line in GOOD),
    "an index": "\n".join(
        [",file,kind", *(f"{i},{row}" for i, row in enumerate(rows("cat", "dog")))]
    ),
    "an index with a name": "\n".join(
        ["Unnamed: 0,file,kind", *(f"{i},{row}" for i, row in enumerate(rows("cat", "dog")))]
    ),
    "bars": "\n".join(line.replace(",", "|") for line in GOOD),
    "separators in quotes": "\n".join(
        ["file;label;note, or not, or so", *(f'{row};"a;b,c"' for row in SEMICOLONS[1:])]
    ),
    "lines in quotes": "\n".join(
        ["file,note,label", *(row.replace(",", ',"two\nlines, and ""more""",') for row in GOOD[1:])]
    ),
    "capitals": "\n".join(["File,LABEL,rest", *(f"{row},x" for row in rows("cat", "dog"))]),
    "no names of columns": "\n".join(rows("cat", "dog")),
}


@pytest.mark.parametrize("kind", DIALECTS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_dialects_are_read(folder: Path, kind: str, encoding: str) -> None:
    text = DIALECTS[kind]
    if encoding == "utf-16":
        text = text.removeprefix("\ufeff")
    (folder / "a.csv").write_bytes(text.encode(encoding))
    assert_ten_of_two(folder / "a.csv")


def test_lines_without_names_are_no_header_and_said(folder: Path) -> None:
    source = assert_ten_of_two(write(folder, *rows("cat", "dog")))
    (note,) = source.notes
    assert "a.csv: has no line of column names" in note
    lines = [f"{i},{row},{i % 3}" for i, row in enumerate(rows("cat", "dog"))]
    file = write(folder, *lines)
    assert "--label-column" in problems(file)
    assert open_path(file, label_column="4").labels == ("0", "1", "2")


@pytest.mark.parametrize("name", ["train", "test", "split", "None", "NA", "null", "nan bread"])
def test_a_class_may_be_called_like_anything(folder: Path, name: str) -> None:
    expected = tuple(sorted((name, "dog")))
    assert_ten_of_two(write(folder, HEAD, *rows(name, "dog")), expected)


def test_a_label_column_may_be_called_train(folder: Path) -> None:
    assert (
        assert_ten_of_two(write(folder, "file,train", *rows("cat", "dog"))).label_column == "train"
    )
    assert open_path(write(folder, "file,split", *rows("train", "dog"))).labels == ("dog", "train")


def test_columns_named_twice_are_refused_if_they_matter(folder: Path) -> None:
    lines = [f"{row},{i}" for i, row in enumerate(rows("cat", "dog"))]
    message = problems(write(folder, "file,label,label", *lines))
    assert "'label' is there twice: rename one" in message
    lines = [f"{row},{i},{i + 1}" for i, row in enumerate(rows("cat", "dog"))]
    assert_ten_of_two(write(folder, "file,label,x,x", *lines))


def test_other_encodings_are_named_by_line(folder: Path) -> None:
    for encoding in ("cp1252", "latin-1", "mac-roman"):
        message = problems(write(folder, HEAD, *rows("cat", "K\u00e4fer"), encoding=encoding))
        assert "in line 3 is not utf-8; save it as CSV in UTF-8" in message
        assert len(message.splitlines()) == 1
    (folder / "a.csv").write_bytes(b"PK\3\4\x14\0\6\0")
    assert "spreadsheet" in problems(folder / "a.csv") and "CSV" in problems(folder / "a.csv")


def test_utf_16_without_its_mark_is_named(folder: Path) -> None:
    message = problems(write(folder, *GOOD, encoding="utf-16-le"))
    assert "UTF-16 without its mark" in message and "\0" not in message


def test_lines_are_counted_as_an_editor_does(folder: Path) -> None:
    lines = ["sep=;", "file;label", "0.png;cat", "", ";", "nowhere.png;dog", "1.png;dog"]
    assert "a.csv line 6: nowhere.png: no such file" in problems(write(folder, *lines))


def test_values_beyond_the_columns_are_refused(folder: Path) -> None:
    message = problems(write(folder, HEAD, "0.png,cat", "1.png,dog,,x"))
    assert "line 3 has more values than the first line" in message


def test_columns_of_pixels_are_named(folder: Path) -> None:
    names = [f"pixel{i}" for i in range(784)]
    frame = pd.DataFrame([[i % 2, *range(784)] for i in range(4)], columns=["label", *names])
    frame.to_csv(folder / "a.csv", index=False)
    (line,) = problems(folder / "a.csv").splitlines()
    assert "784 columns of pixels" in line and "image file" in line and len(line) < 300


def test_columns_that_mark_a_class_each_are_named(folder: Path) -> None:
    marks = pd.get_dummies(pd.Series(["ant", "bee", "wasp", "ant"]))
    for dtype in (bool, int, float):
        frame = marks.astype(dtype)
        frame.insert(0, "file", [f"{i}.png" for i in range(4)])
        frame.to_csv(folder / "a.csv", index=False)
        (line,) = problems(folder / "a.csv").splitlines()
        assert "columns ant, bee, wasp mark one class each; write one column of labels" in line
    assert open_path(folder / "a.csv", label_column="bee").labels == ("0", "1")


def test_many_columns_do_not_flood_the_terminal(folder: Path) -> None:
    names = [f"feature_{'x' * 200}_{i}" for i in range(500)]
    write(folder, ",".join(names), ",".join(map(str, range(500))))
    assert all(len(line) < 1100 for line in problems(folder / "a.csv").splitlines())


# --- A column that names splits -------------------------------------------------------------------


def table(
    folder: Path,
    parts: list[Any],
    source: str,
    column: str = "split",
    labels: Sequence[str] = ("ant", "bee") * (COUNT // 2),
) -> Path:
    names = [f"{i}.png" for i in range(COUNT)]
    frame = pd.DataFrame({"file": names, "label": labels, column: parts})
    if source == "csv":
        frame.to_csv(folder / "a.csv", index=False)
    elif source == "jsonl":
        frame.to_json(folder / "a.jsonl", orient="records", lines=True)
    else:
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), folder / "a.parquet")
    return folder / f"a.{source}"


every_table = pytest.mark.parametrize("source", ["csv", "jsonl", "parquet"])


@every_table
@pytest.mark.parametrize("column", ["split", "Subset", "partition", "set"])
def test_a_column_of_splits_is_used_and_said(folder: Path, source: str, column: str) -> None:
    parts = ["train"] * 6 + ["Validation", "validation", "TEST", "test"]
    found = open_path(table(folder, parts, source, column))
    assert (len(found.train), len(found.evaluation)) == (6, 2)
    assert found.eval_split == "validation"
    assert any("train 6, validation 2, test 2 rows" in note for note in found.notes)
    assert len(open_path(table(folder, parts, source, column), eval_split="test").evaluation) == 2


@every_table
def test_a_column_that_names_some_splits_is_refused(folder: Path, source: str) -> None:
    parts = ["train"] * 6 + ["test"] * 2 + ["extra", "old"]
    message = problems(table(folder, parts, source))
    assert "'split' names splits in 8 rows, and in 2 it does not (extra, old)" in message


@every_table
@pytest.mark.parametrize("missing", ["", "-1", "nan"])
def test_rows_of_a_split_without_labels_block_nothing(
    folder: Path, source: str, missing: str
) -> None:
    parts = ["train_set"] * 7 + ["Testing"] * 3
    file = table(folder, parts, source, labels=["ant", "bee"] * 3 + ["ant"] + [missing] * 3)
    found = open_path(file, val_split=0.3)
    assert (len(found.train), len(found.evaluation), found.labels) == (5, 2, ("ant", "bee"))
    assert any("split test: 3 images" in x and "without labels" in x for x in found.overview)
    assert "no labels" in problems(file, eval_split="test")
    # The training rows are judged for themselves, by line in a table.
    labels = ["ant", "bee", ""] * 2 + ["bee"] + [missing] * 3
    message = problems(table(folder, parts, source, labels=labels))
    where = {"parquet": "2 of 7 rows are unlabelled", "csv": "a.csv line 4", "jsonl": "line 3"}
    assert where[source] in message


@every_table
@pytest.mark.parametrize("parts", [["left", "right"] * 5, ["train"] * 10], ids=["sides", "one"])
def test_another_column_called_split_does_not_matter(
    folder: Path, source: str, parts: list[str]
) -> None:
    found = open_path(table(folder, parts, source), val_split=0.2)
    assert (len(found.train), len(found.evaluation)) == (8, 2)
    said = [note for note in found.notes if "names no splits" in note]
    assert said == [] if parts[0] == "train" else "(left, right), and is not used" in said[0]


@every_table
@pytest.mark.parametrize(("column", "split"), [("is_valid", "validation"), ("is_test", "test")])
@pytest.mark.parametrize("kind", [bool, int])
def test_a_column_of_truths_divides_too(
    folder: Path, source: str, column: str, split: str, kind: type
) -> None:
    found = open_path(table(folder, [kind(i > 6) for i in range(COUNT)], source, column))
    assert (len(found.train), len(found.evaluation), found.eval_split) == (7, 3, split)


@every_table
@pytest.mark.parametrize("column", ["data set", "mode", "Usage", "train_val_test", "Phase", "fold"])
def test_a_column_of_nothing_but_splits_divides_whatever_it_is_called(
    folder: Path, source: str, column: str
) -> None:
    found = open_path(table(folder, ["Train"] * 7 + ["valid"] * 3, source, column))
    assert (len(found.train), len(found.evaluation), found.eval_split) == (7, 3, "valid")
    assert any(f"splits are those of column {column!r}" in note for note in found.notes)
    # One odd value, and it is about something else.
    trains = ["train"] * 7 + ["valid"] * 2 + ["plane"]
    if column != "Usage":
        assert len(open_path(table(folder, trains, source, column), val_split=0.2).train) == 8


@every_table
@pytest.mark.parametrize("column", ["is_train", "Is Training"])
def test_what_is_not_for_training_is_for_the_end(folder: Path, source: str, column: str) -> None:
    file = table(folder, [i < 7 for i in range(COUNT)], source, column)
    assert len(open_path(file, eval_split="test").evaluation) == 3
    assert len(open_path(file, keep_test=True, val_split=0.3).train) == 5


@every_table
@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["A", "B"] * 5, "column 'subset' names no splits (A, B), and is not used"),
        (["train"] * 8 + ["test"] * 2, None),
        (["train"] * 6 + ["test"] * 4, "divide the rows in two ways"),
    ],
)
def test_of_two_columns_of_splits_one_is_used_or_none(
    folder: Path, source: str, more: list[str], said: str | None
) -> None:
    parts = ["train"] * 7 + ["val"] + ["test"] * 2
    file = table(folder, parts, source)
    frame = {"csv": pd.read_csv, "parquet": pd.read_parquet}.get(source)
    frame = pd.read_json(file, lines=True) if frame is None else frame(file)
    frame["subset"] = more
    if source == "csv":
        frame.to_csv(file, index=False)
    elif source == "jsonl":
        frame.to_json(file, orient="records", lines=True)
    else:
        frame.to_parquet(file)
    if more[6:8] == ["test", "test"]:
        message = problems(file)
        assert said in message and "'split' (train 7, val 1, test 2)" in message
        assert "'subset' (train 6, test 4)" in message
        return
    found = open_path(file)
    assert (len(found.train), len(found.evaluation), found.eval_split) == (7, 1, "val")
    assert said is None or said in found.notes


@pytest.mark.parametrize("parts", [["train"] * 8 + ["test"] * 2, ["Val"] * 10, ["test_1"] * 10])
def test_a_stream_is_not_divided_by_a_column(folder: Path, parts: list[str]) -> None:
    images = [{"bytes": (folder / f"{i}.png").read_bytes(), "path": None} for i in range(COUNT)]
    pq.write_table(
        pa.table({"image": images, "label": [0, 1] * 5, "split": parts}), folder / "a.parquet"
    )
    from vit_colossal.data.cache import CacheOptions
    from vit_colossal.data.sources.source import load
    from vit_colossal.data.streams import read_streams

    request = SourceRequest(str(folder / "a.parquet"), streaming=True)
    with pytest.raises(DataError, match=r"'split' names splits.*leave out --streaming"):
        read_streams(
            load(request), request, CacheOptions(Preprocessing((4, 4), 0), folder / "cache")
        )
    found = open_path(folder / "a.parquet", val_split=0.2)
    assert (len(found.train), len(found.evaluation)) == (8, 2)
    said = "splits are those of" if parts[0] == "train" else "names no training split"
    assert any(f"column 'split' {said}" in n or f"{said} column 'split'" in n for n in found.notes)


def test_tables_are_read_by_column(folder: Path) -> None:
    read = read_table(write(folder, "a;b;", "1;x;", ";", "2;;"))
    assert read.lines == [(2, {"a": "1", "b": "x"}), (4, {"a": "2", "b": ""})]
    assert read.names == ["a", "b"]
