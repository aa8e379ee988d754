"""The image processor that is saved is the one that was applied: the model's own where it can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import edit, pictures, save_model
from PIL import Image
from transformers import AutoImageProcessor, ViTForImageClassification

from vit_colossal.data.decoding import decode
from vit_colossal.data.transforms import normalize
from vit_colossal.errors import ModelError
from vit_colossal.model.processor import build_processor, preprocessing_of
from vit_colossal.plan.model_spec import read_spec
from vit_colossal.trained.predict import Predictor
from vit_colossal.trained.saved import locate

CROP = {"height": 16, "width": 16}

#: Settings that are applied as they are.
EXACT: dict[str, dict[str, Any]] = {
    "plain": {},
    "no mean": {"do_normalize": False},
    "from -1 to 1 by the factor": {"rescale_factor": 1 / 127.5, "do_normalize": False},
    "a factor and a mean": {"rescale_factor": 1 / 200, "image_mean": [0.1, 0.2, 0.3]},
    "levels of 255": {"do_rescale": False, "do_normalize": False},
    "levels of 255, normalized": {
        "do_rescale": False,
        "image_mean": [123.7, 116.3, 103.5],
        "image_std": [58.4, 57.1, 57.4],
    },
    "ImageNet's": {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
    "nearest": {"resample": 0},
    "lanczos": {"resample": 1},
    "bicubic": {"resample": 3},
    "box": {"resample": 4},
    "hamming": {"resample": 5},
    "a size of one number": {"size": 16},
    "a size of two numbers": {"size": [16, 16]},
    "no type": {"image_processor_type": None},
    "the fast one": {"image_processor_type": "ViTImageProcessorFast"},
    "the Pillow one": {"image_processor_type": "ViTImageProcessorPil"},
    "an extractor": {"image_processor_type": None, "feature_extractor_type": "ViTFeatureExtractor"},
    "DeiT": {
        "image_processor_type": "DeiTImageProcessor",
        "size": {"height": 20, "width": 20},
        "crop_size": CROP,
    },
    "DeiT, oblong": {
        "image_processor_type": None,
        "feature_extractor_type": "DeiTFeatureExtractor",
        "size": {"height": 17, "width": 30},
        "crop_size": CROP,
    },
    "CLIP": {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 18},
        "crop_size": 16,
        "do_convert_rgb": True,
    },
    "CLIP by one number": {"image_processor_type": "CLIPImageProcessorFast", "size": 16}
    | {"crop_size": CROP},
    "a crop, nothing resized": {"do_resize": False, "do_center_crop": True, "crop_size": CROP},
    "a crop of something smaller": {
        "size": {"height": 9, "width": 25},
        "do_center_crop": True,
        "crop_size": CROP,
    },
    "BEiT": {"image_processor_type": "BeitImageProcessor", "size": {"height": 20, "width": 20}}
    | {"do_center_crop": True, "crop_size": CROP, "do_reduce_labels": True},
    "ConvNeXt": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 16}}
    | {"crop_pct": 0.875, "resample": 3},
    "ConvNeXt by one number": {"image_processor_type": "ConvNextImageProcessor", "size": 16}
    | {"crop_pct": 0.9},
    "an odd rest": {"size": {"shortest_edge": 19}, "do_center_crop": True, "crop_size": CROP},
}
#: Settings of which no image of the model's size comes, and a word that the plan has to say.
REPLACED: dict[str, tuple[dict[str, Any], str]] = {
    "another size": ({"size": {"height": 32, "width": 32}}, "32 x 32 px"),
    "an oblong size": ({"size": {"height": 16, "width": 24}}, "16 x 24 px"),
    "the shorter edge alone": ({"size": {"shortest_edge": 16}}, "shortest_edge"),
    "both edges": ({"size": {"shortest_edge": 16, "longest_edge": 20}}, "longest_edge"),
    "nothing resized": ({"do_resize": False}, "do_resize"),
    "nothing resized, no mean": ({"do_resize": False, "do_normalize": False}, "do_resize"),
    "a larger crop": (
        {"size": {"height": 40, "width": 40}, "do_center_crop": True, "crop_size": 32},
        "32 x 32 px",
    ),
    "an oblong crop": (
        {"do_center_crop": True, "crop_size": {"height": 16, "width": 12}},
        "16 x 12 px",
    ),
    "padding": ({"do_pad": True, "pad_size": CROP}, "do_pad"),
    "steps of its own": ({"image_processor_type": "PoolFormerImageProcessor"}, "PoolFormer"),
    "a type of nobody's": ({"image_processor_type": "MyProcessor"}, "MyProcessor"),
}


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal up to rounding in fp32, at any scale."""
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=2e-6 * float(expected.abs().max()))


def prepared(folder: Path) -> torch.Tensor:
    """What this product makes of the pictures for a model: fp32 [N, 3, H, W]."""
    how = preprocessing_of(read_spec(str(folder), {}))
    pixels = np.stack([decode(picture, how) for picture in pictures()])
    assert pixels.dtype == np.uint8
    return normalize(torch.from_numpy(pixels), how)


def by_transformers(folder: Path) -> torch.Tensor:
    """The same by transformers, image for image: those of one size only can be stacked."""
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    found = [processor(picture, return_tensors="pt")["pixel_values"] for picture in pictures()]
    return torch.cat(found).float()


def saved(folder: Path, to: Path) -> Path:
    """A folder with the processor that training would write."""
    build_processor(read_spec(str(folder), {})).save_pretrained(to)
    return to


@pytest.mark.parametrize("name", EXACT)
def test_the_model_s_processor_is_applied_and_saved(name: str, tmp_path: Path) -> None:
    save_model(tmp_path)
    edit(tmp_path / "preprocessor_config.json", **EXACT[name])
    ours = prepared(tmp_path)
    close(ours, by_transformers(tmp_path))
    close(ours, by_transformers(saved(tmp_path, tmp_path / "saved")))
    assert preprocessing_of(read_spec(str(tmp_path), {})).notes == ()


@pytest.mark.parametrize("name", REPLACED)
def test_what_is_applied_instead_is_saved_and_said(name: str, tmp_path: Path) -> None:
    settings, word = REPLACED[name]
    save_model(tmp_path)
    edit(tmp_path / "preprocessor_config.json", **settings)
    ours = prepared(tmp_path)
    close(ours, by_transformers(saved(tmp_path, tmp_path / "saved")))
    (note,) = preprocessing_of(read_spec(str(tmp_path), {})).notes
    assert word in note


def test_no_processor_is_vit_s_own_one(tmp_path: Path) -> None:
    save_model(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    close(prepared(tmp_path), by_transformers(saved(tmp_path, tmp_path / "saved")))
    (note,) = preprocessing_of(read_spec(str(tmp_path), {})).notes
    assert "no preprocessor_config.json" in note


def test_a_processor_within_a_processor(tmp_path: Path) -> None:
    """As transformers 5 saves one that has a part for text as well."""
    save_model(tmp_path)
    edit(tmp_path / "preprocessor_config.json", do_normalize=False)
    inner = (tmp_path / "preprocessor_config.json").read_text()
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text(f'{{"image_processor": {inner}}}')
    close(prepared(tmp_path), by_transformers(tmp_path))


@pytest.mark.parametrize("name", ["DeiT", "levels of 255", "no mean", "CLIP", "padding"])
def test_scores_of_the_saved_folder_are_transformers_own(name: str, tmp_path: Path) -> None:
    settings = EXACT[name] if name in EXACT else REPLACED[name][0]
    save_model(tmp_path)
    edit(tmp_path / "preprocessor_config.json", **settings)
    saved(tmp_path, tmp_path)
    model = ViTForImageClassification.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        expected = model(by_transformers(tmp_path)).logits.softmax(-1)
    found = list(Predictor(locate(str(tmp_path)), "cpu").predict(pictures(), top_k=2))
    for row, prediction in zip(expected, found, strict=True):
        scores = {model.config.label2id[label]: score for label, score in prediction.top}
        torch.testing.assert_close(torch.tensor([scores[0], scores[1]]), row, atol=1e-5, rtol=0)


def test_a_larger_image_size_scales_what_is_cut_off(tmp_path: Path) -> None:
    save_model(tmp_path)
    edit(tmp_path / "preprocessor_config.json", **EXACT["DeiT"])
    how = preprocessing_of(read_spec(str(tmp_path), {"image_size": 32}))
    assert (how.size, how.cut_from, how.notes) == ((32, 32), (40, 40), ())
    edit(tmp_path / "preprocessor_config.json", **EXACT["CLIP"])
    how = preprocessing_of(read_spec(str(tmp_path), {"image_size": 24}))
    assert (how.size, how.cut_from, how.notes) == ((24, 24), 27, ())


@pytest.mark.parametrize(
    ("name", "fill"),
    [
        ("plain", (128, 128, 128)),
        ("ImageNet's", (124, 116, 104)),
        ("levels of 255, normalized", (124, 116, 104)),
        ("no mean", (0, 0, 0)),
        ("a factor and a mean", (20, 40, 60)),
    ],
)
def test_augmentation_paints_what_becomes_zero(
    name: str, fill: tuple[int, int, int], tmp_path: Path
) -> None:
    save_model(tmp_path)
    edit(tmp_path / "preprocessor_config.json", **EXACT[name])
    assert preprocessing_of(read_spec(str(tmp_path), {})).fill == fill


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("plain", "resized to 16 x 16 px, divided by 255, mean 0.5, deviation 0.5"),
        ("no mean", "resized to 16 x 16 px, divided by 255, mean 0, deviation 1"),
        ("DeiT", "resized to 20 x 20, center of 16 x 16 px, divided by 255, mean 0.5, "),
        ("CLIP", "shorter edge resized to 18, center of 16 x 16 px, divided by 255, mean 0.5, "),
        ("a crop, nothing resized", "as it is, center of 16 x 16 px, divided by 255, mean 0.5, "),
        ("a factor and a mean", "divided by 200, mean 0.1, 0.2, 0.3, deviation 0.5"),
    ],
)
def test_the_plan_names_it(name: str, words: str, tmp_path: Path) -> None:
    save_model(tmp_path)
    edit(tmp_path / "preprocessor_config.json", **EXACT[name])
    assert words in str(preprocessing_of(read_spec(str(tmp_path), {})))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"rescale_factor": 0}, "rescale_factor is 0"),
        ({"rescale_factor": "1/255"}, "rescale_factor"),
        ({"do_resize": "false"}, 'do_resize is "false"'),
        ({"size": {"height": 16}}, "no image processor"),
        ({"size": {"height": -16, "width": 16}}, "size"),
        ({"do_center_crop": True, "crop_size": {"height": 0, "width": 0}}, "crop_size"),
        ({"image_std": [0.5, -0.5, 0.5]}, "image_std"),
        ({"image_mean": [0.5, 0.5]}, "image_mean"),
    ],
)
def test_settings_that_cannot_be_meant(
    settings: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    save_model(tmp_path)
    edit(tmp_path / "preprocessor_config.json", **settings)
    with pytest.raises(ModelError, match=reason) as caught:
        preprocessing_of(read_spec(str(tmp_path), {}))
    assert len(caught.value.problems) == 1


def test_an_image_too_oblong_for_its_shorter_edge_is_bad(tmp_path: Path) -> None:
    save_model(tmp_path)
    edit(tmp_path / "preprocessor_config.json", **EXACT["CLIP"])
    with pytest.raises(ValueError, match="18 x 180000000 pixels"):
        decode(Image.new("RGB", (10_000_000, 1)), preprocessing_of(read_spec(str(tmp_path), {})))


def test_one_mean_for_all_channels(tmp_path: Path) -> None:
    save_model(tmp_path)
    edit(tmp_path / "preprocessor_config.json", image_mean=0.4, image_std=0.3)
    close(prepared(tmp_path), by_transformers(tmp_path))


def test_settings_that_are_not_used_do_not_matter(tmp_path: Path) -> None:
    save_model(tmp_path)
    edit(tmp_path / "preprocessor_config.json", do_normalize=False, image_std=[0, 0, 0])
    close(prepared(tmp_path), by_transformers(tmp_path))
