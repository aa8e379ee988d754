"""A new user's folder of phone photos, from scratch; and what decoding on the fly changes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from launching import Finished, run, warm
from vit_colossal.evaluation import predictions

pytestmark = pytest.mark.slow

COLORS = {"\u00c4pfel rot": (200, 30, 30), "\u732b": (30, 160, 60), "blue cars": (40, 60, 210)}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """36 JPEGs, turned in every way, in nested folders with names as people give them."""
    draws = random.Random(0)
    root = tmp_path / "my photos"
    for name, color in COLORS.items():
        for i in range(12):
            width, height = (4000, 3000) if i == 0 else (640, 480)
            image = Image.new("RGB", (width, height), (230, 230, 220))
            left, top = draws.randint(0, width // 2), draws.randint(0, height // 2)
            box = (left, top, left + width // 2, top + height // 2)
            ImageDraw.Draw(image).ellipse(box, fill=color)
            exif = Image.Exif()
            exif[0x0112] = (1, 3, 6, 8)[i % 4]
            folder = root / name / ("2024" if i % 2 else "2023/July \u00e9t\u00e9")
            folder.mkdir(parents=True, exist_ok=True)
            image.save(
                folder / f"IMG {i:04} \u2013 \u00fc.{('JPG', 'jpeg')[i % 2]}", "JPEG", exif=exif
            )
    (root / ".DS_Store").write_bytes(b"x")
    (root / "blue cars/Thumbs.db").write_bytes(b"x")
    (root / "blue cars/._IMG 0000.jpg").write_bytes(b"no image, but a note of macOS")
    (root / "blue cars/IMG 0000.mov").write_bytes(b"x")
    return root


def train(folder: Path, *flags: str) -> Finished:
    command = warm("-m", "vit_colossal", "train", "--dataset", str(folder), "--model", "vit-micro")
    command += flags
    return run(command, timeout_s=300, cwd=folder.parent)


def learned(run_dir: Path) -> list[Any]:
    events = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [(e["event"], e["step"], e["loss"], e.get("correct")) for e in events if "loss" in e]


def test_a_folder_of_photos_trains_with_a_preset(photos: Path) -> None:
    finished = train(photos)
    assert finished.returncode == 0, finished.output
    assert "--global-batch-size 4: near a 64th of 29 images" in finished.output
    # Before the first step, and beside the result.
    assert finished.output.count("29 training images are few for that") == 2
    assert "accuracy 1.0000 (7/7)" in finished.output
    assert f"{photos}: passed over what is no image: 1 .mov" in finished.output
    (saved,) = photos.parent.glob("runs/*/model/config.json")
    assert set(json.loads(saved.read_text())["id2label"].values()) == set(COLORS)
    found = predictions.load(saved.parents[1])
    assert found is not None and len(found.keys) == 7
    for index, key in enumerate(found.keys):
        assert (photos / key).is_file()
        assert key.startswith(f"{found.labels[found.label[index]]}/")
        # Of the whole photo, upright, and not of the model's square.
        with Image.open(predictions.thumbnail(saved.parents[1], index)) as small:
            assert sorted(small.size) == [120, 160]
    assert found.cropped == frozenset()


def test_the_plan_comes_before_decoding_with_processes_of_our_own_too(photos: Path) -> None:
    """Their launcher decodes: it tells what they would, and they do not tell it again."""
    cache = str(photos.parent / "cache")
    finished = train(photos, "--nproc", "2", "--dry-run", "--cache-dir", cache)
    assert finished.returncode == 0, finished.output
    said = finished.output
    assert said.index("recipe for") < said.index("decoding 29 images") < said.index("passed over")
    for line in ("recipe for", "29 training images are few", "passed over what is no image"):
        assert said.count(line) == 1


def test_without_the_cache_and_without_the_bad_images(photos: Path, tmp_path: Path) -> None:
    (photos / "blue cars/cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    refused = train(photos)
    assert refused.returncode == 2, refused.output
    assert "1 of 30 training images cannot be decoded" in refused.output
    assert "cut.jpg" in refused.output and "Traceback" not in refused.output
    flags = ("--skip-bad-images", "--epochs", "2", "--log-every", "1")
    for name, more in (("lazy", ("--no-cache",)), ("cached", ())):
        finished = train(photos, *flags, "--output-dir", name, *more)
        assert finished.returncode == 0, finished.output
        assert "left out 1 of 30 training images:" in finished.output
        record = json.loads((tmp_path / name / "environment.json").read_text())
        assert record["left_out_images"] == {"train": 1, "evaluation": 0}
    assert learned(tmp_path / "lazy") == learned(tmp_path / "cached") != []
