"""One policy for images, whatever they come from: the same pixels, refusals and omissions."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from vit_colossal.config.reading import TrainConfig
from vit_colossal.data.decoding import Row, decode_rows
from vit_colossal.data.prepare import RunData, decode_data, find_data
from vit_colossal.errors import DataError
from vit_colossal.model.preprocessing import Preprocessing
from vit_colossal.plan.plan import Device, make_plan

SIZE = 16
LABELS = ("cat", "dog")


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library")
    monkeypatch.setenv("VIT_COLOSSAL_CACHE", str(tmp_path / "cache"))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(width: int = 40, height: int = 30, shift: int = 0) -> Image.Image:
    """Four quarters of other colours, so that no turn or flip goes unnoticed."""
    image = Image.new("RGB", (width, height), (200, 40 + shift, 10))
    image.paste((20, 180, 30), (width // 2, 0, width, height // 2))
    image.paste((10, 60, 220), (0, height // 2, width // 2, height))
    image.paste((240, 240, 90), (width // 2, height // 2, width, height))
    return image


def kinds() -> dict[str, tuple[bytes, Image.Image]]:
    """What people have, and what it must be read as: name, file, the same in plain RGB."""
    rgb = picture()
    grey = rgb.convert("L")
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = np.asarray(grey).astype(np.uint16) * 257
    palette = rgb.quantize(8)
    clear = rgb.copy()
    clear.putalpha(Image.new("L", rgb.size, 0))
    on_white = Image.new("RGB", rgb.size, "white")
    cmyk = rgb.convert("CMYK")
    turned = rgb.transpose(Image.Transpose.ROTATE_90)
    found = {
        "grey.png": (encoded(grey, "PNG"), grey.convert("RGB")),
        "palette.png": (encoded(palette, "PNG"), palette.convert("RGB")),
        "alpha.png": (encoded(clear, "PNG"), on_white),
        "cmyk.tif": (encoded(cmyk, "TIFF"), cmyk.convert("RGB")),
        "wide.png": (encoded(Image.fromarray(wide), "PNG"), grey.convert("RGB")),
        "wide.tiff": (encoded(Image.fromarray(wide), "TIFF"), grey.convert("RGB")),
        # Orientation 6: to be turned clockwise by a quarter to stand upright.
        "turned.png": (encoded(turned, "PNG", exif=exif), rgb),
        "bilevel.bmp": (encoded(grey.convert("1"), "BMP"), grey.convert("1").convert("RGB")),
        "animated.gif": (
            encoded(palette, "GIF", save_all=True, append_images=[grey]),
            palette.convert("RGB"),
        ),
        "animated.webp": (
            encoded(rgb, "WEBP", save_all=True, append_images=[on_white], lossless=True),
            rgb,
        ),
        "grey.pgm": (encoded(grey, "PPM"), grey.convert("RGB")),
    }
    for name, kind, file in (("cmyk.jpg", "JPEG", cmyk), ("two.mpo.jpg", "MPO", rgb)):
        options = {"save_all": True, "append_images": [on_white]} if kind == "MPO" else {}
        content = encoded(file, kind, **options)
        found[name] = (content, Image.open(io.BytesIO(content)).convert("RGB"))
    jpeg = encoded(rgb, "JPEG", quality=95)
    found["Caf\u00e9 \u732b.JPG"] = (jpeg, Image.open(io.BytesIO(jpeg)).convert("RGB"))
    return found


Images = dict[str, bytes]


def label_of(number: int) -> str:
    return LABELS[number % 2]


def as_folder(root: Path, split: str, images: Images) -> Path:
    for number, (name, content) in enumerate(images.items()):
        # Nested and with a space, as photos are kept.
        folder = root / split / label_of(number) / "2024 summer"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:03} {name}").write_bytes(content)
    return root


def written_beside(root: Path, split: str, images: Images) -> list[tuple[str, str]]:
    folder = root / "images" / split
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (name, content) in enumerate(images.items()):
        (folder / name).write_bytes(content)
        rows.append((f"images/{split}/{name}", label_of(number)))
    return rows


def as_csv(root: Path, split: str, images: Images) -> Path:
    rows = written_beside(root, split, images)
    with (root / f"{split}.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("path", "label"), *rows])
    return root


def as_json_lines(root: Path, split: str, images: Images) -> Path:
    rows = written_beside(root, split, images)
    lines = [json.dumps({"file_name": path, "class": label}) for path, label in rows]
    (root / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return root


def as_parquet(root: Path, split: str, images: Images) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=list(LABELS))
    )
    rows = {
        "image": [{"bytes": content, "path": name} for name, content in images.items()],
        "label": [number % 2 for number in range(len(images))],
    }
    datasets.Dataset.from_dict(rows, features=features).to_parquet(root / f"{split}.parquet")
    return root


def as_shards(root: Path, split: str, images: Images) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    members = list(images.items())
    for shard, start in enumerate(range(0, len(members), 5)):
        with tarfile.open(root / f"{split}-{shard:03}.tar", "w") as tar:
            for number, (name, content) in enumerate(members[start : start + 5], start=start):
                suffix = name.rpartition(".")[2]
                for member, body in ((suffix, content), ("cls", label_of(number).encode())):
                    info = tarfile.TarInfo(f"{number:03}.{member}")
                    info.size = len(body)
                    tar.addfile(info, io.BytesIO(body))
    return root


WRITERS: dict[str, Callable[[Path, str, Images], Path]] = {
    "folder": as_folder,
    "csv": as_csv,
    "json lines": as_json_lines,
    "parquet": as_parquet,
    "shards": as_shards,
}
WAYS: dict[str, dict[str, object]] = {
    "cached": {},
    "lazy": {"cache": False},
    "streamed": {"streaming": True},
}
# Of all but parquet nothing is copied, so there is nothing to stream.
every_source_and_way = pytest.mark.parametrize(
    ("source", "way"),
    [(s, w) for s in WRITERS for w in WAYS if w != "streamed" or s == "parquet"],
)


def prepare(path: Path, **options: object) -> RunData:
    settings = {
        "dataset": str(path),
        "model": "vit-micro",
        "model_config": {"image_size": SIZE, "patch_size": 8},
        "global_batch_size": 2,
    }
    config = TrainConfig.model_validate({**settings, **options})
    return decode_data(find_data(make_plan(config, 1, Device("cpu"))))


def plain(images: list[Image.Image]) -> list[bytes]:
    """The pixels of images at the model's size, as `ViTImageProcessorPil` resizes them."""
    resized = [
        image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, reducing_gap=None) for image in images
    ]
    pixels = [np.asarray(image).reshape(SIZE, SIZE, -1) for image in resized]
    return [image.transpose(2, 0, 1).tobytes() for image in pixels]


@every_source_and_way
def test_every_kind_of_image_has_the_same_pixels(tmp_path: Path, source: str, way: str) -> None:
    require_same_pixels(tmp_path, source, way, channels=3)


@pytest.mark.parametrize(
    ("source", "way"), [("folder", "cached"), ("csv", "lazy"), *(("parquet", way) for way in WAYS)]
)
def test_a_model_of_grey_images_gets_them_in_grey(tmp_path: Path, source: str, way: str) -> None:
    require_same_pixels(tmp_path, source, way, channels=1)


def require_same_pixels(tmp_path: Path, source: str, way: str, channels: int) -> None:
    wanted = kinds()
    write = WRITERS[source]
    images = {name: content for name, (content, _) in wanted.items()}
    if source == "shards":  # its keys have no dots
        images = {name.replace("Caf\u00e9 \u732b", "photo"): c for name, c in images.items()}
    root = write(tmp_path / "data", "train", images)
    write(root, "validation", dict(list(images.items())[:2]))
    keys = {"image_size": SIZE, "patch_size": 8, "num_channels": channels}
    data = prepare(root, model_config=keys, **WAYS[way])
    pixels = plain([image.convert("L" if channels == 1 else "RGB") for _, image in wanted.values()])
    expected = sorted(zip(pixels, map(label_of, range(len(wanted))), strict=True))
    found = sorted(
        (np.ascontiguousarray(image).tobytes(), data.labels[label])
        for image, label in zip(data.train.images[:], data.train.labels, strict=True)
    )
    assert data.train.images.shape == (len(wanted), channels, SIZE, SIZE)
    assert len(data.train) == len(wanted) == 14
    assert data.labels == LABELS
    assert found == expected
    assert (len(data.evaluation), data.eval_split) == (2, "validation")


BAD = {
    "cut.png": encoded(picture(300, 300), "PNG")[:700],
    "empty.jpg": b"",
    "page.jpg": b"<!DOCTYPE html><html>404</html>",
    "phone.jpg": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40),
    "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "bomb.png": encoded(Image.new("1", (20_000, 20_000)), "PNG"),
    "float.tiff": encoded(Image.fromarray(np.float32([[0.5, 1.5]])), "TIFF"),
}
REASONS = {
    "cut.png": "truncated",
    "empty.jpg": "the file is empty",
    "page.jpg": "HTML",
    "phone.jpg": "this HEIC is damaged",
    "script.png": "PostScript is not read",
    "bomb.png": "decompression bomb",
    "float.tiff": "no defined range",
}


def with_bad_ones(root: Path, source: str) -> Path:
    write = WRITERS[source]
    good = {f"{i}.png": encoded(picture(shift=10 * i), "PNG") for i in range(4)}
    mixed = {}
    for number, (name, content) in enumerate(BAD.items()):
        mixed |= {name: content} | dict([list(good.items())[number]] if number < 4 else [])
    write(root, "train", mixed)
    return write(root, "validation", {**good, "cut.png": BAD["cut.png"]})


@every_source_and_way
def test_all_bad_images_of_both_splits_are_listed(tmp_path: Path, source: str, way: str) -> None:
    root = with_bad_ones(tmp_path / "data", source)
    with pytest.raises(DataError) as caught:
        prepare(root, **WAYS[way])
    text = str(caught.value)
    assert "7 of 11 training images cannot be decoded" in text and "--skip-bad-images" in text
    # A stream is read for training first, and is not read any further.
    assert ("1 of 5 evaluation images" in text) == (way != "streamed")
    for reason in REASONS.values():
        assert reason in text
    if source not in ("shards",):
        assert all(name in text for name in BAD)
    assert "\n\n" not in text


@every_source_and_way
def test_bad_images_can_be_left_out(tmp_path: Path, source: str, way: str) -> None:
    root = with_bad_ones(tmp_path / "data", source)
    data = prepare(root, skip_bad_images=True, **WAYS[way])
    assert (len(data.train), len(data.train.bad)) == (4, 7)
    assert (len(data.evaluation), len(data.evaluation.bad)) == (4, 1)
    assert "left out 7 of 11 training images:" in data.notes
    good = sorted(plain([picture(shift=10 * i) for i in range(4)]))
    for split in (data.train, data.evaluation):
        assert sorted(np.ascontiguousarray(x).tobytes() for x in split.images[:]) == good
    # The next process finds what the first one found; another run without the flag is told.
    again = prepare(root, skip_bad_images=True, **WAYS[way])
    assert again.fingerprint == data.fingerprint
    assert again.train.bad == data.train.bad
    with pytest.raises(DataError, match="7 of 11 training images"):
        prepare(root, **WAYS[way])


def test_leaving_out_images_changes_the_identity_of_the_data(tmp_path: Path) -> None:
    images = {f"{i}.png": encoded(picture(shift=i), "PNG") for i in range(20)}
    root = as_folder(tmp_path / "data", "", images)
    clean = prepare(root)
    assert prepare(root, skip_bad_images=True).fingerprint == clean.fingerprint
    bad = root / "cat/2024 summer/x.png"
    bad.write_bytes(b"x")
    first = prepare(root, skip_bad_images=True).fingerprint
    assert first != clean.fingerprint
    bad.write_bytes(images["0.png"])
    assert prepare(root, skip_bad_images=True).fingerprint not in (first, clean.fingerprint)


@pytest.mark.parametrize("room", [7, 8])
def test_the_disk_needs_room_for_both_splits_before_either_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    images = {f"{i}.png": encoded(picture(shift=i), "PNG") for i in range(4)}
    root = as_folder(as_folder(tmp_path / "data", "train", images), "validation", images)
    usage = shutil.disk_usage(tmp_path)._replace(free=room * 3 * SIZE * SIZE)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    if room < 8:
        with pytest.raises(DataError, match="needed in all") as caught:
            prepare(root)
        assert len(caught.value.problems) == 1 and "--cache-dir" in caught.value.problems[0]
        assert not list((tmp_path / "cache").glob("*/images.npy"))
        prepare(root, cache=False)
        return
    first = prepare(root)
    # What is there already takes no more room.
    usage = usage._replace(free=0)
    assert prepare(root).fingerprint == first.fingerprint


def test_nothing_but_bad_images_is_refused_even_so(tmp_path: Path) -> None:
    as_folder(tmp_path / "data", "train", {f"{i}.png": b"x" for i in range(4)})
    good = {f"{i}.png": encoded(picture(), "PNG") for i in range(4)}
    root = as_folder(tmp_path / "data", "validation", good)
    for options in ({}, {"cache": False}):
        with pytest.raises(DataError, match="4 of 4 training images"):
            prepare(root, skip_bad_images=True, **options)


def test_other_formats_that_pillow_knows_are_not_tried() -> None:
    heads = [b"%!PS-Adobe-3.0 EPSF-3.0", b"8BPS\0\1"]
    pcx = encoded(picture(), "PCX")
    assert Image.open(io.BytesIO(pcx)).size == picture().size
    files = [*(head + bytes(200) for head in heads), pcx]
    rows = [Row(i, {"bytes": content, "path": None}, 0) for i, content in enumerate(files)]
    reasons = [str(found) for found in decode_rows(rows, Preprocessing((4, 4)))]
    assert "PostScript" in reasons[0] and "Photoshop" in reasons[1] and "known" in reasons[2]
