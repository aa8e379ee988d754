from __future__ import annotations

import io
import logging
import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, ViTImageProcessorPil

from vit_colossal.data import cache
from vit_colossal.data.cache import CacheOptions, prepare_images
from vit_colossal.data.decoding import to_mode
from vit_colossal.data.pixels import CacheDamaged, CachedSplit, images_digest
from vit_colossal.data.sources.request import default_cache_root
from vit_colossal.data.transforms import normalize
from vit_colossal.errors import DataError
from vit_colossal.model.preprocessing import Preprocessing

FEATURES = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"]))
WHITE, RED = (255, 255, 255), (255, 0, 0)


def noise(count: int, height: int = 40, width: int = 50) -> list[Image.Image]:
    random = np.random.RandomState(0)
    pixels = random.randint(0, 256, (count, height, width, 3)).astype(np.uint8)
    return [Image.fromarray(p) for p in pixels]


def dataset_of(images: list) -> datasets.Dataset:
    rows = {"image": images, "label": [i % 2 for i in range(len(images))]}
    return datasets.Dataset.from_dict(rows, features=FEATURES)


PLAIN = Preprocessing((32, 24))


def prepare(
    root: Path, images: list, key: str = "k", how: Preprocessing = PLAIN, **options: object
) -> CachedSplit:
    settings = CacheOptions(how, root, **options)
    return prepare_images(dataset_of(images), "image", "label", key, settings)


def reopened(image: Image.Image, kind: str, **options: object) -> Image.Image:
    """The image as a file would give it."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return Image.open(io.BytesIO(buffer.getvalue()))


# --- Modes ----------------------------------------------------------------------------------------


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    for image in (
        reopened(Image.fromarray(values), "PNG"),
        reopened(Image.fromarray(values), "TIFF"),
    ):
        assert image.mode.startswith("I")
        assert np.asarray(to_mode(image))[0, :, 0].tolist() == [0, 1, 128, 255]
    wide = Image.fromarray(values.astype(np.int32))
    assert wide.mode == "I"
    assert np.asarray(to_mode(wide))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_8_bit_values_in_a_32_bit_mode_are_kept() -> None:
    image = Image.fromarray(np.array([[0, 7, 255]], np.int32))
    assert np.asarray(to_mode(image))[0, :, 0].tolist() == [0, 7, 255]


@pytest.mark.parametrize(
    "values", [np.float32([[0.5]]), np.int32([[70000]]), np.int32([[-1]])], ids=str
)
def test_pixels_without_a_defined_range_are_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError):
        to_mode(Image.fromarray(values))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_pixels_become_white(mode: str) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    result = to_mode(image.convert(mode))
    assert [result.getpixel((x, 0)) for x in (0, 1)] == [WHITE, (0, 0, 0)]


def test_half_transparent_red_is_pink() -> None:
    assert to_mode(Image.new("RGBA", (1, 1), (255, 0, 0, 128))).getpixel((0, 0)) == (255, 127, 127)


def test_palettes_are_looked_up_with_and_without_transparency() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    opaque = to_mode(reopened(image, "PNG"))
    assert [opaque.getpixel((x, 0)) for x in (0, 1)] == [RED, (0, 0, 255)]
    clear = to_mode(reopened(image, "PNG", transparency=1))
    assert [clear.getpixel((x, 0)) for x in (0, 1)] == [RED, WHITE]


def test_grey_bilevel_and_cmyk_are_converted() -> None:
    assert to_mode(Image.new("L", (1, 1), 77)).getpixel((0, 0)) == (77, 77, 77)
    assert to_mode(Image.new("1", (1, 1), 1)).getpixel((0, 0)) == WHITE
    assert to_mode(Image.new("CMYK", (1, 1), (0, 255, 255, 0))).getpixel((0, 0)) == RED


def test_the_exif_rotation_is_applied_once() -> None:
    image = Image.new("RGB", (3, 2))
    image.putpixel((0, 0), RED)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    result = to_mode(reopened(image, "PNG", exif=exif))
    assert result.size == (2, 3)
    assert result.getpixel((1, 0)) == RED
    assert to_mode(result).size == (2, 3)


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (2, 2), color) for color in (RED, WHITE)]
    image = reopened(frames[0], "GIF", save_all=True, append_images=frames[1:])
    image.seek(1)
    assert to_mode(image).getpixel((0, 0)) == RED


# --- Pixels ---------------------------------------------------------------------------------------


MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def processor_of(resample: int, width: int) -> ViTImageProcessorPil:
    return ViTImageProcessorPil(
        size={"height": 32, "width": width}, resample=resample, image_mean=MEAN, image_std=STD
    )


def levels(processor: object, images: list[Image.Image]) -> np.ndarray:
    """What a processor resizes to, before it scales."""
    result = processor(images, do_rescale=False, do_normalize=False)["pixel_values"]
    return np.stack([np.asarray(image) for image in result])


@pytest.mark.parametrize("width", [32, 24])
@pytest.mark.parametrize("resample", [0, 1, 2, 3, 4, 5])
def test_pixels_are_those_of_the_vit_image_processor(
    tmp_path: Path, resample: int, width: int
) -> None:
    images = [*noise(4), *noise(2, 17, 90)]
    processor = processor_of(resample, width)
    how = Preprocessing((32, width), resample, mean=tuple(MEAN), std=tuple(STD))
    split = prepare(tmp_path, images, how=how)
    assert np.array_equal(split.images, levels(processor, images))
    expected = processor(images, return_tensors="pt")["pixel_values"]
    found = normalize(torch.from_numpy(np.array(split.images)), how)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("resample", [2, 3])
def test_the_processor_that_is_saved_gives_these_pixels_by_its_pil_backend(
    tmp_path: Path, resample: int
) -> None:
    """Without a backend's name it is torchvision's, one level of 255 away, two for bicubic."""
    images = [*noise(4), *noise(2, 17, 90)]
    processor_of(resample, 24).save_pretrained(tmp_path / "model")
    split = prepare(tmp_path, images, how=Preprocessing((32, 24), resample))
    pil = AutoImageProcessor.from_pretrained(tmp_path / "model", backend="pil")
    assert np.array_equal(split.images, levels(pil, images))
    other = levels(AutoImageProcessor.from_pretrained(tmp_path / "model"), images)
    assert np.abs(split.images[:].astype(int) - other).max() in (1, resample - 1)


def test_a_split_is_a_read_only_map_in_the_order_of_the_rows(tmp_path: Path) -> None:
    count = 2 * cache._CHUNK + 3
    shades = [Image.new("RGB", (4, 4), (i % 256, i // 256, 0)) for i in range(count)]
    split = prepare(tmp_path, shades, how=Preprocessing((2, 3)))
    images = split.images[:]
    assert isinstance(images, np.memmap)
    assert (images.dtype, images.shape, split.images.shape) == (np.uint8, *[(count, 3, 2, 3)] * 2)
    assert images[:, 0, 0, 0].tolist() == [i % 256 for i in range(count)]
    assert images[:, 1, 1, 2].tolist() == [i // 256 for i in range(count)]
    assert split.labels.dtype == np.int64
    assert split.labels.tolist() == [i % 2 for i in range(count)]
    assert len(split) == count
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 0


# --- Entries --------------------------------------------------------------------------------------


def entries(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.suffix != ".lock")


def test_the_size_is_announced_once_and_the_entry_used_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger=cache.__name__)
    first = prepare(tmp_path, noise(3))
    assert "decoding 3 images to 32 x 24 px" in caplog.text
    caplog.clear()
    second = prepare(tmp_path, noise(3))
    assert caplog.text == ""
    assert np.array_equal(first.images, second.images)
    assert len(entries(tmp_path)) == 1


def test_everything_that_changes_pixels_changes_the_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path, noise(1))
    prepare(tmp_path, noise(1), key="other")
    prepare(tmp_path, noise(1), how=Preprocessing((24, 32)))
    prepare(tmp_path, noise(1), how=Preprocessing((32, 24), resample=3))
    for frame in ("as it is", 40, 41, (40, 40), (32, 24)):
        prepare(tmp_path, noise(1), how=Preprocessing((32, 24), cut_from=frame))
    monkeypatch.setattr(cache, "POLICY_VERSION", cache.POLICY_VERSION + 1)
    prepare(tmp_path, noise(1))
    assert len(entries(tmp_path)) == 10


def test_only_what_changes_pixels_changes_the_entry() -> None:
    """Nor does another release: this is the name of an entry that version 0.1 made."""
    other = replace(PLAIN, divisor=1.0, mean=(0.0, 0.0, 0.0), std=(0.2, 0.2, 0.2), notes=("x",))
    for how in (PLAIN, other):
        entry = CacheOptions(how, Path("caches")).entry("k", "image", "label")
        assert entry == Path("caches/342959e5dc301382b6897848e435f751")


def build_and_report(root: Path, barrier: object, results: object) -> None:
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger(cache.__name__).addHandler(handler)
    logging.getLogger(cache.__name__).setLevel(logging.INFO)
    barrier.wait(60)
    split = prepare(root, noise(200))
    results.put((len(messages), int(split.images[:].astype(np.int64).sum()), split.labels.tolist()))


def test_several_processes_build_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    workers = [
        context.Process(target=build_and_report, args=(tmp_path, barrier, results))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    reports = [results.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join(60)
    assert sum(builds for builds, _, _ in reports) == 1
    assert len({total for _, total, _ in reports}) == 1
    assert all(labels == [i % 2 for i in range(200)] for _, _, labels in reports)
    assert len(entries(tmp_path)) == 1


def die_while_building(root: Path) -> None:
    rows_of = cache.rows_of

    def first_chunk_then_death(*args: object) -> object:
        def chunks() -> object:
            yield next(rows_of(*args)())
            os.kill(os.getpid(), signal.SIGKILL)

        return chunks

    cache.rows_of = first_chunk_then_death
    prepare(root, noise(300))


def test_what_a_killed_process_left_does_not_count(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    worker = context.Process(target=die_while_building, args=(tmp_path,))
    worker.start()
    worker.join(60)
    assert worker.exitcode == -9
    (leftover,) = entries(tmp_path)
    assert leftover.endswith(".partial")
    assert len(prepare(tmp_path, noise(300))) == 300
    assert entries(tmp_path) == [leftover.removesuffix(".partial")]


@pytest.mark.parametrize("file", ["images.npy", "labels.npy", "checksums.npy", "meta.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_entry_is_rebuilt(tmp_path: Path, file: str, damage: str) -> None:
    expected = np.array(prepare(tmp_path, noise(3)).images)
    (entry,) = (tmp_path / name for name in entries(tmp_path))
    if damage == "gone":
        (entry / file).unlink()
    else:
        (entry / file).write_bytes((entry / file).read_bytes()[:-30])
    assert np.array_equal(prepare(tmp_path, noise(3)).images, expected)


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 0x10
    file.write_bytes(content)


@pytest.mark.parametrize("file", ["labels.npy", "checksums.npy", "meta.json"])
def test_any_changed_byte_beside_the_images_is_seen(
    tmp_path: Path, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Of its header too, where NumPy still reads it."""
    expected = prepare(tmp_path, noise(3))
    pixels, labels = np.array(expected.images), expected.labels
    (entry,) = (tmp_path / name for name in entries(tmp_path))
    for place in np.linspace(0, (entry / file).stat().st_size - 1, 12).astype(int):
        flip(entry / file, int(place))
        caplog.clear()
        found = prepare(tmp_path, noise(3))
        assert np.array_equal(found.images, pixels) and np.array_equal(found.labels, labels)
        assert caplog.text.count("rebuilding the damaged image cache") <= 1
    flip(entry / file, -2)
    caplog.clear()
    prepare(tmp_path, noise(3))
    assert "rebuilding the damaged image cache" in caplog.text


@pytest.mark.parametrize("places", [4, slice(2, 6), np.array([5, 4, 4])])
def test_a_changed_image_is_decoded_anew(
    tmp_path: Path, places: object, caplog: pytest.LogCaptureFixture
) -> None:
    """By its place among the good ones, and for all who read the file."""
    images = noise(8)
    images.insert(2, None)
    options = {"skip_bad": True}
    expected = np.array(prepare(tmp_path, images, **options).images)
    (entry,) = (tmp_path / name for name in entries(tmp_path))
    size = expected[0].nbytes
    before = (entry / "images.npy").read_bytes()
    flip(entry / "images.npy", 128 + 4 * size + 17)
    split = prepare(tmp_path, images, **options)
    assert np.array_equal(split.images[0], expected[0])
    assert "of the image cache" not in caplog.text
    assert np.array_equal(split.images[places], expected[places])
    assert caplog.text.count("image 4 of the image cache") == 1
    assert (entry / "images.npy").read_bytes() == before


def test_links_in_the_cache_are_not_written_through(tmp_path: Path) -> None:
    """Whoever can write there knows the names."""
    expected = np.array(prepare(tmp_path, noise(3)).images)
    (entry,) = (tmp_path / name for name in entries(tmp_path))
    shutil.rmtree(entry)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "file").write_text("mine")
    for planted in (entry, entry.with_suffix(".partial")):
        planted.symlink_to(mine)
    assert np.array_equal(prepare(tmp_path, noise(3)).images, expected)
    assert not entry.is_symlink() and os.listdir(mine) == ["file"]
    lock = entry.with_suffix(".lock")
    lock.unlink(missing_ok=True)
    lock.symlink_to(mine / "file")
    shutil.rmtree(entry)
    with pytest.raises(DataError, match="cannot write the image cache"):
        prepare(tmp_path, noise(3))
    assert (mine / "file").read_text() == "mine"


def test_an_image_is_not_repaired_through_a_link(tmp_path: Path) -> None:
    expected = np.array(prepare(tmp_path, noise(3)).images)
    (entry,) = (tmp_path / name for name in entries(tmp_path))
    (entry / "images.npy").rename(tmp_path / "mine")
    (entry / "images.npy").symlink_to(tmp_path / "mine")
    flip(tmp_path / "mine", 200)
    before = (tmp_path / "mine").read_bytes()
    assert np.array_equal(np.array(prepare(tmp_path, noise(3)).images), expected)
    assert (tmp_path / "mine").read_bytes() == before


def test_what_a_run_has_read_once_it_does_not_check_again(tmp_path: Path) -> None:
    """Nor do the loader processes that an epoch forks."""
    split = prepare(tmp_path, noise(3))
    (entry,) = (tmp_path / name for name in entries(tmp_path))
    context = multiprocessing.get_context("fork")
    reader = context.Process(target=split.images.__getitem__, args=(np.array([0, 1]),))
    reader.start()
    reader.join(60)
    assert reader.exitcode == 0
    split.images._checksums[:] = 0
    split.images[np.array([0, 1])]
    with pytest.raises(CacheDamaged, match=r"image 2 of .*decodes to other pixels"):
        split.images[2]
    assert not (entry / "meta.json").exists()
    assert len(prepare(tmp_path, noise(3))) == 3


def test_the_digest_is_that_of_the_pixels(tmp_path: Path) -> None:
    split = prepare(tmp_path, noise(3))
    assert images_digest(split.images) == images_digest(np.array(split.images))
    assert images_digest(split.images) != images_digest(prepare(tmp_path, noise(4), "l").images)


# --- Refusals -------------------------------------------------------------------------------------


def test_undecodable_images_are_all_listed(tmp_path: Path) -> None:
    good = io.BytesIO()
    noise(1)[0].save(good, "PNG")
    page = tmp_path / "page.png"
    page.write_text("<html>not found</html>")
    encoded = [
        {"bytes": good.getvalue(), "path": None},
        {"bytes": None, "path": str(page)},
        {"bytes": good.getvalue()[:2000], "path": "cut.png"},
        {"bytes": b"", "path": None},
        {"bytes": None, "path": str(tmp_path / "absent.png")},
        None,
        {"bytes": good.getvalue(), "path": None},
    ]
    with pytest.raises(DataError) as caught:
        prepare(tmp_path / "root", encoded)
    total, *listed = caught.value.problems
    assert total.startswith("5 of 7 training images cannot be decoded")
    assert [line.split()[1].rstrip(":") for line in listed] == ["1", "2", "3", "4", "5"]
    assert str(page) in listed[0] and "cut.png" in listed[1] and "absent.png" in listed[3]
    assert entries(tmp_path / "root") == []


def test_a_hundred_undecodable_images_are_listed_and_the_rest_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        prepare(tmp_path, [{"bytes": b"x", "path": None}] * 105)
    assert caught.value.problems[0].startswith("105 of 105")
    assert len(caught.value.problems) == 102
    assert caught.value.problems[-1] == "... and 5 more"


def test_a_decompression_bomb_is_an_undecodable_image(tmp_path: Path) -> None:
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    with pytest.raises(DataError, match="decompression bomb"):
        prepare(tmp_path, [{"bytes": bomb.getvalue(), "path": None}])


def test_a_root_that_cannot_be_written_is_a_problem_for_people(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="VIT_COLOSSAL_CACHE"):
        prepare(tmp_path / "file" / "root", noise(1))


def test_a_full_disk_is_noticed_before_anything_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match="0 MB free"):
        prepare(tmp_path, noise(1))


def test_the_default_root_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIT_COLOSSAL_CACHE", str(tmp_path))
    assert default_cache_root() == tmp_path
    monkeypatch.delenv("VIT_COLOSSAL_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_root() == tmp_path / ".cache" / "vit_colossal"
