"""HEIC and AVIF as phones write them: turned once, by the file's own properties or by EXIF."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from vit_colossal import TrainConfig
from vit_colossal.data import heic
from vit_colossal.data.decoding import BadImage, Row, decode_rows, safe_formats
from vit_colossal.data.prepare import decode_data, find_data
from vit_colossal.errors import DataError
from vit_colossal.model.preprocessing import Preprocessing
from vit_colossal.plan.plan import Device, make_plan

FILES = Path(__file__).parents[2] / "heic"
#: 48 pixels wide and 32 high: red on the left, blue on the right, and green along the top. The last
#: three are to be turned by 90 degrees, so that the green lies on the right.
UPRIGHT, TURNED = "plain", ("irot", "both", "exif")


def is_green(pixel: tuple[int, ...]) -> bool:
    return pixel[1] > 150 and max(pixel[0], pixel[2]) < 80


def where_green_lies(file: Path) -> list[str]:
    """At the top of the decoded picture, or on its right."""
    how = Preprocessing((48, 48), 0)
    (found,) = decode_rows([Row(0, {"path": str(file), "bytes": None}, 0)], how)
    assert not isinstance(found, BadImage), found
    places = {"top": (2, 24), "right": (24, 45)}
    return [name for name, (y, x) in places.items() if is_green(tuple(found[:, y, x]))]


@pytest.mark.parametrize("name", [UPRIGHT, *TURNED])
def test_photos_are_upright(name: str) -> None:
    assert where_green_lies(FILES / f"{name}.heic") == ["right" if name in TURNED else "top"]


@pytest.mark.parametrize(("orientation", "place"), [(1, "top"), (6, "right")])
def test_avif_is_upright_too(orientation: int, place: str, tmp_path: Path) -> None:
    picture, exif = Image.new("RGB", (48, 32), (200, 0, 0)), Image.Exif()
    picture.paste((0, 220, 0), (0, 0, 48, 8))
    exif[ExifTags.Base.Orientation] = orientation
    picture.save(tmp_path / "photo.avif", exif=exif)
    assert where_green_lies(tmp_path / "photo.avif") == [place]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(12):
        place = tmp_path / "photos" / ("Katze", "Hund")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        if number < 3:
            shutil.copy(FILES / f"{TURNED[number]}.heic", place / f"IMG_{number}.HEIC")
        else:
            Image.new("RGB", (20, 20), (number * 20, 0, 0)).save(place / f"{number}.jpg")
    return tmp_path / "photos"


def prepared(photos: Path, **settings: bool) -> tuple[int, int]:
    config = TrainConfig(
        dataset=str(photos), model="vit-micro", global_batch_size=4, val_split=0.25,
        cache_dir=photos.parent / "cache", **settings,
    )  # fmt: skip
    data = decode_data(find_data(make_plan(config, 1, Device("cpu"))))
    return len(data.train) + len(data.evaluation), len(data.train.bad) + len(data.evaluation.bad)


@pytest.mark.parametrize("cache", [True, False])
def test_a_folder_of_photos_and_pictures_is_one_data_set(photos: Path, cache: bool) -> None:
    assert prepared(photos, cache=cache) == (12, 0)


@pytest.fixture
def without_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heic, "find_spec", lambda name: None)
    without = tuple(name for name in safe_formats() if name != heic.FORMAT)
    monkeypatch.setattr("vit_colossal.data.decoding.safe_formats", lambda: without)


@pytest.mark.usefixtures("without_reader")
def test_without_the_reader_they_are_named_before_anything_is_decoded(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "Katze" / "page.jpg").write_text("<html>")
    (photos / "Katze" / "wrongly named.jpg").write_bytes((FILES / "plain.heic").read_bytes())
    with monkeypatch.context() as patched:
        patched.setattr("vit_colossal.data.cache.decode_rows", None)
        with pytest.raises(DataError) as caught:
            prepared(photos)
    text = str(caught.value)
    assert "images are HEIC: pip install 'vit_colossal[heic]'" in text
    assert "--skip-bad-images" in text and str(photos / "Katze" / "IMG_0.HEIC") in text
    # And with them, what is no image either.
    assert "page.jpg): this is HTML" in text and "wrongly named.jpg): to read HEIC" in text
    assert text.count("IMG_0.HEIC") == 1
    assert prepared(photos, skip_bad_images=True) == (9, 5)


def test_the_reader_is_among_what_is_tested() -> None:
    assert importlib.util.find_spec("pi_heif") is not None
