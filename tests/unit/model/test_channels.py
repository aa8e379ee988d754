"""Models of grey images and of images with transparency, in every family."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from models import pictures
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoImageProcessor, AutoModelForImageClassification

from families import LABELS, SIDE, TINY, Tiny, edit_config
from vit_colossal.data.decoding import decode
from vit_colossal.data.pixels import CachedSplit
from vit_colossal.data.transforms import Augmentation, augment, normalize
from vit_colossal.errors import ModelError
from vit_colossal.evaluation.predictions import Predictions, save, thumbnail
from vit_colossal.model.build import build_model, flops_per_image
from vit_colossal.model.directory import save_directory
from vit_colossal.model.processor import build_processor, preprocessing_of
from vit_colossal.model.weights_fit import check_weights
from vit_colossal.plan.model_spec import read_spec

MODES = {1: "L", 2: "LA", 4: "RGBA"}
#: Unlike one another, so that no channel can stand for another.
MEAN, STD = (0.4, 0.5, 0.6, 0.7), (0.2, 0.3, 0.25, 0.35)

each = pytest.mark.parametrize(("name", "channels"), [(n, c) for n in TINY for c in MODES])


def tiny(name: str, channels: int) -> Tiny:
    """A family's small model for images of so many channels."""
    model = TINY[name]
    kind, settings = model.processor
    numbers = {"image_mean": MEAN[:channels], "image_std": STD[:channels], "do_convert_rgb": False}
    encoder = {**model.encoder, "num_channels": channels}
    return replace(model, encoder=encoder, processor=(kind, {**settings, **numbers}))


def seen(channels: int) -> list[Image.Image]:
    """Pictures in the mode of so many channels; of transparent ones each pixel differs."""
    found = []
    for number, picture in enumerate(pictures()):
        image = picture.convert(MODES[channels])
        if channels in (2, 4):
            clear = np.random.RandomState(number).randint(0, 256, picture.size[::-1])
            image.putalpha(Image.fromarray(clear.astype(np.uint8)))
        found.append(image)
    return found


@each
def test_pixels_and_scores_are_transformers_own(name: str, channels: int, tmp_path: Path) -> None:
    tiny(name, channels).save(tmp_path)
    spec = read_spec(str(tmp_path), {})
    check_weights(spec)
    how = preprocessing_of(spec)
    assert (how.mode, how.shape, how.notes) == (MODES[channels], (channels, SIDE, SIDE), ())
    ours = normalize(torch.from_numpy(np.stack([decode(i, how) for i in seen(channels)])), how)
    saved = tmp_path / "saved"
    save_directory(saved, build_model(spec, LABELS, 0), build_processor(spec))
    for folder in (tmp_path, saved):
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        pixels = [processor(image, return_tensors="pt").pixel_values for image in seen(channels)]
        theirs = torch.cat(pixels).float()
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-5)
    with torch.no_grad():
        scores = AutoModelForImageClassification.from_pretrained(saved).eval()(theirs).logits
        found = build_model(spec, LABELS, 0).eval()(pixel_values=ours).logits
    torch.testing.assert_close(found, scores, rtol=1e-4, atol=1e-5)


@each
def test_flops_differ_from_those_of_rgb_as_a_counter_sees(
    name: str, channels: int, tmp_path: Path
) -> None:
    uncounted = []
    for count in (3, channels):
        model = tiny(name, count).save(tmp_path / str(count))
        spec = read_spec(str(tmp_path / str(count)), {})
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(pixel_values=torch.zeros(1, count, SIDE, SIDE))
        uncounted.append(counter.get_total_flops() - flops_per_image(spec, len(LABELS)) / 3)
    assert uncounted[0] == uncounted[1]


def test_weights_of_other_channels_do_not_fit(tmp_path: Path) -> None:
    tiny("vit", 1).save(tmp_path)
    edit_config(tmp_path, num_channels=4)
    with pytest.raises(ModelError, match=r"is \[32, 1, 8, 8\], not \[32, 4, 8, 8\]"):
        check_weights(read_spec(str(tmp_path), {}))


@pytest.mark.parametrize("channels", MODES)
def test_photos_of_every_mode_are_read_in_that_of_the_model(channels: int, tmp_path: Path) -> None:
    tiny("vit", channels).save(tmp_path)
    how = preprocessing_of(read_spec(str(tmp_path), {}))
    for picture in pictures():
        for mode in ("L", "RGB", "RGBA", "CMYK", "P"):
            image = picture.convert(mode)
            plain = image.convert("RGB").convert(MODES[channels])
            assert np.array_equal(decode(image, how), decode(plain, how))


def test_a_model_of_rgb_reads_grey_photos_as_rgb(tmp_path: Path) -> None:
    TINY["vit"].save(tmp_path)
    how = preprocessing_of(read_spec(str(tmp_path), {}))
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    for picture in pictures():
        grey = picture.convert("L")
        ours = normalize(torch.from_numpy(decode(grey, how)[None]), how)
        theirs = processor(grey.convert("RGB"), return_tensors="pt").pixel_values
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-5)


def test_what_is_transparent_is_white_in_grey(tmp_path: Path) -> None:
    tiny("vit", 1).save(tmp_path)
    how = preprocessing_of(read_spec(str(tmp_path), {}))
    assert (decode(Image.new("RGBA", (9, 9), (0, 0, 0, 0)), how) == 255).all()


def test_a_preset_is_normalized_by_one_half_in_each_channel(tmp_path: Path) -> None:
    spec = read_spec("vit-micro", {"num_channels": 1})
    assert preprocessing_of(spec).mean == preprocessing_of(spec).std == (0.5,)
    build_processor(spec).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["image_mean"] == [0.5]


def test_a_processor_that_would_make_rgb_does_so_no_more(tmp_path: Path) -> None:
    tiny("clip", 1).save(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "do_convert_rgb": True}))
    spec = read_spec(str(tmp_path), {})
    (note,) = preprocessing_of(spec).notes
    assert "do_convert_rgb would make 3 channels of 1" in note
    assert build_processor(spec).do_convert_rgb is False


@pytest.mark.parametrize("mean", [[0.5, 0.5, 0.5], []])
def test_a_processor_of_other_channels_is_refused(mean: list[float], tmp_path: Path) -> None:
    tiny("vit", 1).save(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "image_mean": mean}))
    with pytest.raises(ModelError, match=r"image_mean is .*: 1 number is needed"):
        preprocessing_of(read_spec(str(tmp_path), {}))


@pytest.mark.parametrize(
    ("channels", "auto"),
    [(1, None), (1, "randaugment"), (1, "trivialaugment"), (2, None), (4, None)],
)
def test_images_of_every_mode_are_augmented(channels: int, auto: str | None) -> None:
    options = Augmentation(
        random_resized_crop=True, horizontal_flip=True, auto=auto, erasing=1.0, fill=(7,) * channels
    )
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (channels, 24, 20), dtype=torch.uint8, generator=generator)
    changed = [augment(image, 42, 0, number, options) for number in range(20)]
    assert {(one.dtype, one.shape) for one in changed} == {(torch.uint8, image.shape)}
    assert not any(torch.equal(one, image) for one in changed)
    assert all((one == 7).all(dim=0).any() for one in changed)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_thumbnail_shows_what_the_model_saw(channels: int, tmp_path: Path) -> None:
    images = np.full((1, channels, 16, 16), 255, np.uint8)
    images[:, :1, :8] = 0
    split = CachedSplit(images, np.zeros(1, np.int64))
    found = Predictions(
        labels=LABELS,
        label=split.labels,
        prediction=np.ones(1, np.int64),
        loss=np.ones(1, np.float32),
        top_labels=np.array([[1, 0]]),
        top_scores=np.array([[0.7, 0.3]], np.float32),
    )
    save(tmp_path, found, split.images)
    picture = Image.open(thumbnail(tmp_path, 0))
    expected = (0, 0, 0) if channels < 3 else (0, 255, 255)
    assert np.abs(np.subtract(picture.getpixel((20, 20)), expected)).max() < 8
    assert np.abs(np.subtract(picture.getpixel((20, 140)), (255, 255, 255))).max() < 8
