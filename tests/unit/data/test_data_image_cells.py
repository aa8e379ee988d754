"""Images as people's programs put them into tables: read, or one line that says what to do."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vit_colossal.data.cache import CacheOptions, prepare_images
from vit_colossal.data.lazy import check_images
from vit_colossal.data.pixels import CachedSplit
from vit_colossal.data.sources.request import SourceRequest
from vit_colossal.data.sources.source import ImageSource, choose, load, open_source
from vit_colossal.data.streams import read_streams
from vit_colossal.errors import DataError
from vit_colossal.model.preprocessing import Preprocessing

LABELS = [0, 1] * 4


@pytest.fixture(autouse=True)
def own_library_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library")


def pixels(number: int) -> np.ndarray:
    """A picture whose first value is its number."""
    found = np.full((6, 5, 3), 100, np.uint8)
    found[..., 0] = number
    return found


def encoded(number: int, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels(number)).save(stream, kind)
    return stream.getvalue()


def text(number: int, kind: str = "PNG") -> str:
    return base64.b64encode(encoded(number, kind)).decode()


def write(folder: Path, images: Any, split: str = "train") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    labels = LABELS[: len(images)]
    pq.write_table(pa.table({"image": images, "label": labels}), folder / f"{split}.parquet")
    return folder


def open_path(path: Path, **options: Any) -> ImageSource:
    return open_source(SourceRequest(str(path), **options))


def problems(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        reds(path, **options)
    assert all("\n" not in problem for problem in caught.value.problems)
    return "\n".join(caught.value.problems)


def reds(path: Path, way: str = "cached", **options: Any) -> list[int]:
    """The first value of every image, decoded in one of the three ways."""
    folder = path if path.is_dir() else path.parent
    request = SourceRequest(str(path), streaming=way == "streamed", val_split=0.25, **options)
    decoding = CacheOptions(Preprocessing((4, 4), 0), folder.parent / f"cache-{way}")
    splits: list[CachedSplit]
    if way == "streamed":
        stream = read_streams(load(request), request, decoding)
        splits = [stream.train, stream.evaluation]
    else:
        source = choose(load(request), request)
        prepare = prepare_images if way == "cached" else check_images
        columns = source.image_column, source.label_column
        rows = {"train": source.train, "evaluation": source.evaluation}
        splits = [
            prepare(part, *columns, source.fingerprint + name, decoding)
            for name, part in rows.items()
        ]
    return sorted(int(image[0, 0, 0]) for split in splits for image in split.images[:])


# --- Images in the cells --------------------------------------------------------------------------

N = len(LABELS)
SIZES = pa.list_(pa.list_(pa.list_(pa.uint8())))


def first_channel(number: int) -> list[Any]:
    return pixels(number).transpose(2, 0, 1).tolist()


CELLS: dict[str, Callable[[], Any]] = {
    "bytes": lambda: [encoded(i) for i in range(N)],
    "large bytes": lambda: pa.array([encoded(i) for i in range(N)], pa.large_binary()),
    "base64": lambda: [text(i) for i in range(N)],
    "base64 of BMP": lambda: [text(i, "BMP") for i in range(N)],
    "base64 of Python": lambda: [str(text(i).encode()) for i in range(N)],
    "base64 for addresses": lambda: [
        base64.urlsafe_b64encode(encoded(i)).decode().rstrip("=") for i in range(N)
    ],
    "base64 in lines": lambda: [base64.encodebytes(encoded(i)).decode() for i in range(N)],
    "data URI": lambda: [f"data:image/png;base64,{text(i)}" for i in range(N)],
    "lists of bytes": lambda: [[encoded(i)] for i in range(N)],
    "lists of structs": lambda: [[{"bytes": encoded(i), "path": "x.png"}] for i in range(N)],
    "lists of text": lambda: [[text(i)] for i in range(N)],
    "numbers that are bytes": lambda: pa.array(
        [list(encoded(i)) for i in range(N)], pa.list_(pa.uint8())
    ),
    "bytes alone in a struct": lambda: [{"bytes": encoded(i)} for i in range(N)],
    "large bytes in a struct": lambda: pa.array(
        [{"bytes": encoded(i), "path": None} for i in range(N)],
        pa.struct({"bytes": pa.large_binary(), "path": pa.large_string()}),
    ),
    "pixels": lambda: pa.array([pixels(i).tolist() for i in range(N)], SIZES),
    "pixels by channel": lambda: pa.array([first_channel(i) for i in range(N)], SIZES),
    "grey pixels": lambda: pa.array(
        [pixels(i)[..., 0].tolist() for i in range(N)], pa.list_(pa.list_(pa.uint8()))
    ),
}


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("way", ["cached", "lazy", "streamed"])
def test_images_in_the_cells_are_read_in_every_way(tmp_path: Path, kind: str, way: str) -> None:
    folder = write(tmp_path / "data", CELLS[kind]())
    # Lists of numbers may be anything: they have to be named.
    named = {"image_column": "image"} if kind == "numbers that are bytes" else {}
    assert reds(folder, way, **named) == list(range(N))


def test_arrays_that_the_library_wrote_are_read(tmp_path: Path) -> None:
    features = datasets.Features(
        scan=datasets.Array3D((3, 6, 5), "uint8"), label=datasets.Value("int64")
    )
    rows = {"scan": [first_channel(i) for i in range(N)], "label": LABELS}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    assert reds(tmp_path / "a.parquet") == list(range(N))


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize("kind", ["base64", "data URI", "base64 of Python"])
def test_images_in_the_cells_of_text_files_are_read(tmp_path: Path, suffix: str, kind: str) -> None:
    rows = list(zip(CELLS[kind](), LABELS, strict=True))
    (tmp_path / "data").mkdir()
    file = tmp_path / f"data/a.{suffix}"
    if suffix == "csv":
        file.write_text("\n".join(["photo,label", *(f'"{cell}",{label}' for cell, label in rows)]))
    else:
        file.write_text("\n".join(json.dumps({"photo": [c], "label": n}) for c, n in rows))
    assert reds(file) == list(range(N))


def test_a_cell_of_a_large_image_in_csv_is_no_obstacle(tmp_path: Path) -> None:
    noise = np.random.RandomState(0).randint(0, 256, (400, 300, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")
    cell = base64.b64encode(stream.getvalue()).decode()
    assert len(cell) > 400_000
    lines = [f"{cell},{label}" for label in (0, 1, 0, 1)]
    (tmp_path / "a.csv").write_text("\n".join(["image,label", *lines]))
    assert len(open_path(tmp_path / "a.csv").train) == 3


REFUSED: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "addresses": (
        lambda: [f"https://example.org/{i}.jpg?size=3" for i in range(N)],
        ("web addresses (https://example.org/0.jpg", "nothing is downloaded", "fetch"),
    ),
    "stores": (lambda: [f"s3://bucket/{i}.jpg" for i in range(N)], ("web addresses (s3://",)),
    "addresses in structs": (
        lambda: [{"bytes": None, "path": f"http://127.0.0.1:9/{i}.jpg"} for i in range(N)],
        ("web addresses (http://127", "nothing is downloaded"),
    ),
    "several images": (
        lambda: [[encoded(i), encoded(i)] for i in range(N)],
        ("6 of 6", "2 images in one row"),
    ),
    "damaged base64": (lambda: [text(i) + "!" for i in range(N)], ("damaged base64",)),
    "pixels as decimals": (
        lambda: [(pixels(i) / 255).tolist() for i in range(N)],
        ("holds pixels as float64", "uint8"),
    ),
    "pixels of unknown range": (
        lambda: [pixels(i).tolist() for i in range(N)],
        ("holds pixels as int64", "whose range is unknown", "PNG"),
    ),
    "pixels of no shape": (
        lambda: pa.array([[[[1, 2], [3, 4]], [[5, 6], [7, 8]]]] * N, SIZES),
        ("pixels of shape 2x2x2", "channels"),
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_image_is_refused_with_the_fix(tmp_path: Path, kind: str) -> None:
    cells, words = REFUSED[kind]
    folder = write(tmp_path / "data", cells())
    message = problems(folder, image_column="image")
    assert [word for word in words if word not in message] == []
    assert max(map(len, message.splitlines())) < 300


def test_addresses_beside_the_images_do_not_matter(tmp_path: Path) -> None:
    urls = [f"https://example.org/{i}.jpg" for i in range(N)]
    table = pa.table({"url": urls, "image": CELLS["base64"](), "label": LABELS})
    pq.write_table(table, tmp_path / "a.parquet")
    assert open_path(tmp_path / "a.parquet").image_column == "image"
    for i in range(N):
        (tmp_path / f"{i}.png").write_bytes(encoded(i))
    lines = [f"{url},{i}.png,{i % 2}" for i, url in enumerate(urls)]
    (tmp_path / "a.csv").write_text("\n".join(["url,photo,label", *lines]))
    assert open_path(tmp_path / "a.csv").image_column == "photo"
    (tmp_path / "b.csv").write_text("\n".join(["url,label", *(f"{u},a" for u in urls)]))
    message = problems(tmp_path / "b.csv")
    assert "web addresses" in message and len(message.splitlines()) == 1


# --- Names of files -------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """data/Bilder 1/0.png to 7.png, and a secret outside."""
    folder = tmp_path / "data" / "Bilder 1"
    folder.mkdir(parents=True)
    for i in range(N):
        (folder / f"{i}.png").write_bytes(encoded(i))
    (tmp_path / "secret.png").write_bytes(encoded(99))
    return folder.parent


NAMES: dict[str, Callable[[Path, int], str]] = {
    "relative": lambda root, i: f"Bilder 1/{i}.png",
    "absolute": lambda root, i: f"{root}/Bilder 1/{i}.png",
    "of Windows": lambda root, i: f"Bilder 1\\{i}.png",
    "from here": lambda root, i: f"./Bilder 1/../Bilder 1/{i}.png",
    "as an address": lambda root, i: f"{(root / 'Bilder 1').as_uri()}/{i}.png",
    "with %20": lambda root, i: f"Bilder%201/{i}.png",
    "blanks around": lambda root, i: f" Bilder 1/{i}.png ",
}


def as_table(root: Path, names: list[Any], source: str) -> Path:
    if source == "parquet":
        write(root, names)
    elif source == "struct":
        write(root, [{"bytes": None, "path": name} for name in names])
    elif source == "csv":
        lines = [f"{name},{label}" for name, label in zip(names, LABELS, strict=False)]
        (root / "train.csv").write_text("\n".join(["image,label", *lines]))
        return root / "train.csv"
    else:
        rows = [{"image": n, "label": label} for n, label in zip(names, LABELS, strict=False)]
        (root / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return root / "train.jsonl"
    return root


every_table = pytest.mark.parametrize("source", ["parquet", "struct", "csv", "json lines"])


@every_table
@pytest.mark.parametrize("kind", NAMES)
def test_names_below_the_table_are_found(photos: Path, source: str, kind: str) -> None:
    names = [NAMES[kind](photos, i) for i in range(N)]
    assert reds(as_table(photos, names, source)) == list(range(N))


@every_table
def test_nothing_outside_of_the_data_is_read(photos: Path, source: str) -> None:
    os.symlink(photos.parent / "secret.png", photos / "linked.png")
    outside = ["../secret.png", f"{photos.parent}/secret.png", "linked.png", "/etc/passwd"]
    outside += [(photos.parent / "secret.png").as_uri(), "..\\secret.png"]
    names = ["Bilder 1/0.png", "Bilder 1/1.png", *outside]
    message = problems(as_table(photos, names, source), image_column="image")
    assert message.count(f"outside of {photos}") == len(outside)


@every_table
def test_what_is_there_instead_is_said(photos: Path, source: str) -> None:
    names = [
        "bilder 1/0.PNG",
        "Bilder 1/1",
        "C:\\Users\\me\\Bilder 1\\2.png",
        "/mnt/x/Bilder 1/3.png",
    ]
    names += ["Bilder 1/nothing.png", "Bilder 1/5.png", "Bilder 1/6.png", "Bilder 1/7.png"]
    message = problems(as_table(photos, names, source), image_column="image").splitlines()
    assert len(message) == 5
    for line, number in zip(message, range(4), strict=False):
        assert f"(Bilder 1/{number}.png is there)" in line
    assert "is there)" not in message[4] and "no such file" in message[4]


@every_table
def test_one_address_among_names_is_named_by_its_row(photos: Path, source: str) -> None:
    names = ["Bilder 1/0.png", "https://example.org/1.png", "Bilder 1/2.png", "Bilder 1/3.png"]
    (line,) = problems(as_table(photos, names, source), image_column="image").splitlines()
    assert "https://example.org/1.png is a web address; nothing is downloaded" in line


@every_table
def test_a_long_cell_is_cut(photos: Path, source: str) -> None:
    names = ["Bilder 1/0.png", f"{'x' * 5000}.png", "Bilder 1/2\x1b[31m\x07.png"]
    message = problems(as_table(photos, names, source), image_column="image")
    assert max(len(line.replace(str(photos), "")) for line in message.splitlines()) < 200
    assert "\x1b" not in message and "\x07" not in message


@pytest.mark.parametrize("name", ["Bilder 1/{}.png", "../Bilder 1/{}.png"])
def test_shards_in_a_folder_of_their_own_name_files(photos: Path, name: str) -> None:
    write(photos / "data", [name.format(i) for i in range(N)])
    assert reds(photos) == list(range(N))


def test_rows_with_bytes_and_rows_with_names_stand_side_by_side(photos: Path) -> None:
    cells = [
        {"bytes": encoded(i) if i % 2 else None, "path": f"Bilder 1/{i}.png"} for i in range(N)
    ]
    assert reds(write(photos, cells)) == list(range(N))


def test_the_files_are_part_of_the_datas_identity(photos: Path) -> None:
    as_table(photos, [f"Bilder 1/{i}.png" for i in range(N)], "parquet")
    before = open_path(photos).fingerprint
    assert open_path(photos).fingerprint == before
    (photos / "Bilder 1/3.png").write_bytes(encoded(77))
    assert open_path(photos).fingerprint != before
    assert reds(photos) == sorted([0, 1, 2, 77, 4, 5, 6, 7])


@pytest.mark.parametrize("source", ["parquet", "struct"])
def test_a_stream_looks_for_no_files(photos: Path, source: str) -> None:
    as_table(photos, [f"Bilder 1/{i}.png" for i in range(N)], source)
    message = problems(photos, way="streamed")
    assert "leave out --streaming" in message and len(message.splitlines()) == 1
    cells = [{"bytes": None, "path": f"http://127.0.0.1:9/{i}.png"} for i in range(N)]
    assert "leave out --streaming" in problems(write(photos, cells), way="streamed")


def test_names_that_two_folders_have_are_refused(tmp_path: Path) -> None:
    for part in ("a", "b"):
        folder = tmp_path / "data" / part
        write(folder, ["0.png", f"{part}.png"], f"train-{part}")
        for name in ("0.png", f"{part}.png"):
            (folder / name).write_bytes(encoded(1))
    message = problems(tmp_path / "data")
    assert "0.png may be" in message and "a/0.png" in message and "b/0.png" in message


def test_a_cell_beside_bytes_does_not_flood_the_terminal(tmp_path: Path) -> None:
    cells = [{"bytes": b"?", "path": "\x1b[2J" + "x" * 9000}] * N
    message = problems(write(tmp_path / "data", cells))
    assert "8 of 8" in problems(write(tmp_path / "data", cells)) or "6 of 6" in message
    assert max(map(len, message.splitlines())) < 250 and "\x1b" not in message
