"""The keys of images and the pictures before the model's crop, of every kind of source."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from data_folders import as_snapshot, read
from vit_colossal.data import originals
from vit_colossal.data.cache import CacheOptions
from vit_colossal.data.decoding import BadImage
from vit_colossal.data.originals import Originals, originals_of
from vit_colossal.data.pixels import CachedSplit
from vit_colossal.data.sources.request import SourceRequest
from vit_colossal.data.sources.source import ImageSource, load
from vit_colossal.data.streams import StreamedSource, read_streams
from vit_colossal.errors import DataError
from vit_colossal.model.preprocessing import Preprocessing

HOSTILE = "<img src=x onerror=alert(1)>.png"


@pytest.fixture(autouse=True)
def own_library_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library")


def photo(red: int, size: tuple[int, int] = (40, 20), kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (red, 0, 0)).save(stream, format=kind)
    return stream.getvalue()


def write(path: Path, red: int, size: tuple[int, int] = (40, 20)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(photo(red, size))
    return path


def decoded(source: ImageSource | StreamedSource, bad: tuple[int, ...] = ()) -> CachedSplit:
    """A split as if the images in ``bad`` could not have been decoded."""
    count = len(source.evaluation) - len(bad)
    images = tuple(BadImage(number, None, "damaged", 0) for number in bad)
    return CachedSplit(np.zeros((count, 3, 2, 2), np.uint8), np.zeros(count, np.int64), images)


def of(source: ImageSource, *bad: int) -> Originals:
    return originals_of(source, decoded(source, bad))


def reds(found: Originals) -> list[int | None]:
    """What each picture shows, by its red."""
    pictures = found.pictures(range(len(found)), 160)
    return [None if picture is None else picture.getpixel((0, 0))[0] for picture in pictures]


def test_files_of_folders_are_named_below_the_data_and_held_out_ones_keep_their_names(
    tmp_path: Path,
) -> None:
    for place, name in enumerate(("cat", "dog")):
        for number in range(10):
            write(tmp_path / "photos" / name / f"{number}.png", 100 * place + number)
    write(tmp_path / "photos" / "dog" / HOSTILE, 200)
    found = of(read(tmp_path / "photos", val_split=0.4))
    assert len(found) == 8
    assert found.split == "train"
    for key, red in zip(found.keys(), reds(found), strict=True):
        assert Image.open(tmp_path / "photos" / key).getpixel((0, 0))[0] == red
    assert of(read(tmp_path / "photos", val_split=0.95)).keys().count(f"dog/{HOSTILE}") == 1


def test_those_of_a_snapshot_in_the_hub_s_cache_are_its_own(tmp_path: Path) -> None:
    for place, name in enumerate(("cat", "dog")):
        for number in range(4):
            write(tmp_path / "photos" / name / f"{number}.png", 100 * place + number)
    snapshot = as_snapshot(tmp_path / "photos", tmp_path / "datasets--me--photos")
    plain, linked = (read(place, val_split=0.5) for place in (tmp_path / "photos", snapshot))
    assert linked.fingerprint == plain.fingerprint
    assert of(linked).keys() == of(plain).keys()
    assert reds(of(linked)) == reds(of(plain)) and None not in reds(of(linked))
    # Blobs that lie elsewhere are nobody's.
    blobs = tmp_path / "datasets--me--photos" / "blobs"
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"is a link to .*/elsewhere/"):
        read(snapshot)


def test_images_that_were_left_out_move_no_key(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        for place, name in enumerate(("cat", "dog")):
            for number in range(2):
                write(tmp_path / split / name / f"{number}.png", 10 * place + number)
    found = of(read(tmp_path), 1)
    assert found.keys() == ["validation/cat/0.png", "validation/dog/0.png", "validation/dog/1.png"]
    assert reds(found) == [0, 10, 11]


def test_tables_name_files_and_shards_their_members(tmp_path: Path) -> None:
    rows = ["image,label,split"]
    for number in range(8):
        write(tmp_path / "table" / "some" / f"{number}.png", number)
        part = "test" if number > 5 else "train"
        rows.append(f"some/{number}.png,{'ab'[number % 2]},{part}")
    (tmp_path / "table" / "all.csv").write_text("\n".join(rows))
    found = of(read(tmp_path / "table" / "all.csv", keep_test=False))
    assert found.keys() == ["some/6.png", "some/7.png"]
    assert reds(found) == [6, 7]
    for shard, first in (("train-0.tar", 0), ("test-0.tar", 10)):
        path = tmp_path / "shards" / shard
        path.parent.mkdir(exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for number in range(first, first + 2):
                for name, content in (
                    (f"in/{number}.png", photo(number)),
                    (f"in/{number}.cls", str(number % 2).encode()),
                ):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    found = of(read(tmp_path / "shards", keep_test=False))
    assert found.keys() == ["test-0.tar::in/10.png", "test-0.tar::in/11.png"]
    assert reds(found) == [10, 11]


def parquet(path: Path, names: list[str | None]) -> Path:
    images = [{"bytes": photo(number), "path": name} for number, name in enumerate(names)]
    labels = [number % 2 for number in range(len(names))]
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"])
    )
    rows = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
    path.parent.mkdir(exist_ok=True)
    rows.to_parquet(path)
    return path


def test_rows_that_hold_their_image_have_its_name_or_their_number(tmp_path: Path) -> None:
    names = [f"/home/other/{number}.png" for number in range(10)]
    path = parquet(tmp_path / "named" / "all.parquet", names)
    found = of(read(path, val_split=0.3))
    assert found.keys() == [names[red] for red in reds(found) if red is not None]
    nameless = parquet(tmp_path / "nameless" / "all.parquet", [None] * 7 + ["same.png"] * 3)
    found = of(read(nameless, val_split=0.3))
    assert found.keys() == [f"train[{red}]" for red in reds(found)]
    sliced = read(nameless, train_split="train[:4]", eval_split="train[4:]", max_eval_samples=3)
    assert of(sliced, 1).keys() == ["train[4]", "train[6]"]
    sliced = read(path, train_split="train[:4]", eval_split="train[4:]", max_eval_samples=3)
    assert of(sliced, 1).keys() == [names[4], names[6]]
    assert reds(of(sliced, 1)) == [4, 6]


def test_a_stream_has_numbers_and_no_pictures(tmp_path: Path) -> None:
    path = parquet(tmp_path / "data" / "all.parquet", ["a.png"] * 10)
    options = CacheOptions(Preprocessing((2, 2)), tmp_path / "cache")
    request = SourceRequest(str(path), streaming=True, val_split=0.3)
    source = read_streams(load(request), request, options)
    found = originals_of(source, source.evaluation)
    whole = of(read(path, val_split=0.3))
    assert found.keys() == whole.keys() == [f"train[{n}]" for n in source.eval_rows.numbers]
    assert reds(found) == [None] * 3


def test_a_picture_is_whole_upright_and_small(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        wide = Image.new("RGB", (1200, 400), "blue")
        wide.save(tmp_path / name / "large.jpg", exif=exif)
        write(tmp_path / name / "tiny.png", 9, (8, 4))
    found = of(read(tmp_path, train_split="train[:]", eval_split="train[0:]"))
    pictures = zip(found.keys(), found.pictures(range(4), 160), strict=True)
    sizes = {key: picture and picture.size for key, picture in pictures}
    assert sizes["cat/large.jpg"] == (53, 160)
    assert sizes["dog/tiny.png"] == (160, 80)


def test_what_is_gone_damaged_or_led_elsewhere_since_is_no_picture(tmp_path: Path) -> None:
    for number in range(4):
        for name in ("cat", "dog"):
            write(tmp_path / "data" / "test" / name / f"{number}.png", number)
            write(tmp_path / "data" / "train" / name / f"{number}.png", number)
    found = of(read(tmp_path / "data", keep_test=False))
    cats = tmp_path / "data" / "test" / "cat"
    (cats / "0.png").unlink()
    (cats / "1.png").write_bytes(b"\x89PNG?")
    (cats / "2.png").unlink()
    (cats / "2.png").symlink_to(write(tmp_path / "outside.png", 77))
    assert reds(found) == [None, None, None, 3, 0, 1, 2, 3]
    assert json.dumps(found.keys())


def test_nobody_waits_long_for_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cat", "dog"):
        for number in range(2):
            write(tmp_path / name / f"{number}.png", 5)
    monkeypatch.setattr(originals, "_WITHIN_S", -1)
    assert reds(of(read(tmp_path, val_split=0.5))) == [None, None]
