from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from vit_colossal.data.transforms import (
    Augmentation,
    _crop_box,
    augment,
    normalize,
    seeded,
    stable_seed,
)
from vit_colossal.model.preprocessing import Preprocessing

BOTH = Augmentation(random_resized_crop=True, horizontal_flip=True)


def picture(height: int = 24, width: int = 20) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("divisor", [255.0, 127.5])
def test_normalize_is_the_formula_in_fp32_then_cast(dtype: torch.dtype, divisor: float) -> None:
    images = torch.stack([picture(), picture().flip(-1)])
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    how = Preprocessing((24, 20), divisor=divisor, mean=mean, std=std)
    result = normalize(images, how, dtype)
    pixels = images.numpy().astype(np.float64).transpose(0, 2, 3, 1) / divisor
    expected = torch.from_numpy(((pixels - mean) / std).transpose(0, 3, 1, 2))
    assert result.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(result.double(), expected, atol=tolerance, rtol=0)


def test_seeds_are_the_same_everywhere_and_differ_in_every_part() -> None:
    assert stable_seed("order", 42, 0) == 5921271748208041587
    seeds = {stable_seed(*parts) for parts in [(1, 2), (2, 1), (12,), ("1", 2), (1, 2, 0), (-1, 2)]}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_augmentation_depends_on_seed_epoch_and_index_only() -> None:
    torch.manual_seed(1)
    first = augment(picture(), 42, 3, 7, BOTH)
    torch.manual_seed(2)
    assert torch.equal(augment(picture(), 42, 3, 7, BOTH), first)
    for other in [(43, 3, 7), (42, 4, 7), (42, 3, 8)]:
        assert not torch.equal(augment(picture(), *other, BOTH), first)


def test_augmentation_leaves_the_global_generator_and_the_input_alone() -> None:
    image, before = picture(), torch.get_rng_state()
    augment(image, 42, 0, 0, BOTH)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(image, picture())


AUTO = [Augmentation(auto="randaugment"), Augmentation(auto="trivialaugment")]
ERASED = Augmentation(erasing=1.0, fill=(10, 20, 30))


@pytest.mark.parametrize("options", [*AUTO, ERASED], ids=str)
def test_torchvisions_transforms_depend_on_seed_epoch_and_index_only(
    options: Augmentation,
) -> None:
    image, state = picture(32, 32), torch.get_rng_state()
    first = [augment(image, 42, 3, index, options) for index in range(10)]
    torch.rand(1)
    assert all(torch.equal(augment(image, 42, 3, i, options), x) for i, x in enumerate(first))
    torch.set_rng_state(state)
    for other in ((43, 3), (42, 4)):
        again = [augment(image, *other, index, options) for index in range(10)]
        assert not all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(image, picture(32, 32))
    assert {(x.shape, x.dtype) for x in first} == {(image.shape, torch.uint8)}


def test_the_policies_are_torchvisions() -> None:
    image = picture(32, 32)
    bilinear = v2.InterpolationMode.BILINEAR
    options = Augmentation(auto="randaugment", num_ops=3, magnitude=15, fill=(1, 2, 3))
    expected = v2.RandAugment(3, 15, interpolation=bilinear, fill=[1, 2, 3])
    with seeded(stable_seed("randaugment", 42, 0, 7)):
        assert torch.equal(expected(image), augment(image, 42, 0, 7, options))


def test_erasing_paints_one_rectangle() -> None:
    image, fill = picture(32, 32), torch.tensor(ERASED.fill, dtype=torch.uint8)[:, None, None]
    for index in range(20):
        changed = (augment(image, 42, 0, index, ERASED) != image).any(0)
        rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
        painted = image.clone()
        painted[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = fill
        assert torch.equal(painted, augment(image, 42, 0, index, ERASED))
    half = [augment(image, 42, 0, i, Augmentation(erasing=0.5)) for i in range(200)]
    assert 60 < sum(torch.equal(x, image) for x in half) < 140


def test_no_step_decides_what_another_draws() -> None:
    image = picture(32, 32)
    crop = Augmentation(random_resized_crop=True, horizontal_flip=True)
    everything = replace(crop, auto="randaugment", erasing=1.0, fill=(10, 20, 30))
    for index in range(10):
        moved = augment(image, 42, 0, index, crop)
        coloured = augment(moved, 42, 0, index, replace(AUTO[0], fill=(10, 20, 30)))
        erased = augment(coloured, 42, 0, index, ERASED)
        assert torch.equal(erased, augment(image, 42, 0, index, everything))


def test_inactive_augmentation_changes_nothing() -> None:
    assert not Augmentation().active
    assert torch.equal(augment(picture(), 42, 0, 0, Augmentation()), picture())


def test_half_of_the_images_are_mirrored_and_the_crop_does_not_decide_which() -> None:
    flip, image = Augmentation(horizontal_flip=True), picture()
    results = [augment(image, 42, 0, i, flip) for i in range(400)]
    mirrored = [torch.equal(result, image.flip(-1)) for result in results]
    assert all(m or torch.equal(r, image) for m, r in zip(mirrored, results, strict=True))
    assert 160 < sum(mirrored) < 240
    crop = Augmentation(random_resized_crop=True)
    for i in range(20):
        cropped = augment(image, 42, 0, i, crop)
        expected = cropped.flip(-1) if mirrored[i] else cropped
        assert torch.equal(augment(image, 42, 0, i, BOTH), expected)


def test_crops_have_the_size_and_kind_of_the_image() -> None:
    result = augment(picture(24, 20), 42, 0, 0, Augmentation(random_resized_crop=True))
    assert result.shape == (3, 24, 20)
    assert result.dtype == torch.uint8


def test_a_crop_of_everything_is_the_image() -> None:
    whole = Augmentation(random_resized_crop=True, min_scale=1.0)
    image = picture(6, 60)  # so wide that only the centred fallback fits
    result = augment(image, 42, 0, 0, whole)
    expected = v2.functional.resized_crop(image, 0, 26, 6, 8, [6, 60], antialias=True)
    assert torch.equal(result, expected)


@pytest.mark.parametrize(("height", "width"), [(24, 20), (224, 224), (6, 60), (60, 6), (1, 1)])
def test_crop_boxes_are_distributed_as_torchvisions(height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(5)
    ours = np.array([_crop_box(height, width, 0.08, generator) for _ in range(2000)])
    assert np.all(ours[:, :2] >= 0) and np.all(ours[:, 2:] >= 1)
    assert np.all(ours[:, :2] + ours[:, 2:] <= (height, width))
    torch.manual_seed(6)
    crop = v2.RandomResizedCrop((height, width))
    sample = torch.zeros(3, height, width)
    drawn = [crop.make_params([sample]) for _ in range(2000)]
    theirs = np.array([[d["top"], d["left"], d["height"], d["width"]] for d in drawn])
    # Two means of 2,000 draws: 5 standard errors of their difference.
    error = 5 * np.sqrt((ours.var(0) + theirs.var(0)) / 2000) + 1e-9
    assert np.all(np.abs(ours.mean(0) - theirs.mean(0)) <= error)
    assert math.isclose(ours[:, 2].std(), theirs[:, 2].std(), rel_tol=0.1, abs_tol=1e-9)
