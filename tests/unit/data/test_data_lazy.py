"""Decoding on the fly: the cache's pixels without the cache."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from vit_colossal.config.reading import TrainConfig
from vit_colossal.data import lazy
from vit_colossal.data.batches import loader_workers
from vit_colossal.data.cache import CacheOptions, prepare_images
from vit_colossal.data.lazy import check_images
from vit_colossal.data.loaders import EvalBatches, Shard, TrainBatches
from vit_colossal.data.pixels import CachedSplit
from vit_colossal.data.transforms import Augmentation
from vit_colossal.errors import ConfigError, DataError
from vit_colossal.model.preprocessing import Preprocessing
from vit_colossal.plan.epoch_cut import EpochCut

FEATURES = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"]))


def dataset(folder: Path, count: int = 30) -> datasets.Dataset:
    """Noise in files, of several sizes and modes."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.RandomState(0)
    paths = []
    for i in range(count):
        pixels = random.randint(0, 256, (20 + i, 50, 3)).astype(np.uint8)
        path = folder / f"{i}.{('jpg', 'png', 'webp')[i % 3]}"
        Image.fromarray(pixels).convert("L" if i % 5 == 0 else "RGB").save(path)
        paths.append(str(path))
    rows = {"image": paths, "label": [i % 2 for i in range(count)]}
    return datasets.Dataset.from_dict(rows, features=FEATURES)


def options(root: Path, **more: object) -> CacheOptions:
    return CacheOptions(Preprocessing((16, 12), 3), root / "cache", **more)


def both(tmp_path: Path, rows: datasets.Dataset) -> tuple[CachedSplit, CachedSplit]:
    columns = ("image", "label", "key")
    cached = prepare_images(rows, *columns, options(tmp_path))
    return cached, check_images(rows, *columns, options(tmp_path))


def test_the_pixels_are_the_caches_bit_for_bit(tmp_path: Path) -> None:
    cached, fresh = both(tmp_path, dataset(tmp_path / "images"))
    assert fresh.images.shape == cached.images.shape == (30, 3, 16, 12)
    assert len(fresh.images) == len(fresh) == 30
    assert np.array_equal(fresh.images[:], cached.images)
    for places in (3, np.int64(29), slice(4, 20, 3), np.array([7, 0, 7])):
        assert np.array_equal(fresh.images[places], cached.images[places])
        assert fresh.images[places].dtype == np.uint8
    assert np.array_equal(np.asarray(fresh.images), cached.images)
    assert fresh.labels.tolist() == cached.labels.tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_caches_in_every_layout(tmp_path: Path, workers: int) -> None:
    cached, fresh = both(tmp_path, dataset(tmp_path / "images"))
    change = Augmentation(random_resized_crop=True, horizontal_flip=True)
    for rank in range(2):
        shard = Shard(rank, 2)
        ours = TrainBatches(
            fresh, EpochCut(4, 2), 2, shard, 42, change, num_workers=workers
        ).batches(1)
        theirs = TrainBatches(cached, EpochCut(4, 2), 2, shard, 42, change).batches(1)
        for step, reference in zip(ours, theirs, strict=True):
            for a, b in zip(step, reference, strict=True):
                assert a.images.equal(b.images) and a.indices.equal(b.indices)
        evaluations = (
            EvalBatches(fresh, 4, shard, workers).batches(),
            EvalBatches(cached, 4, shard).batches(),
        )
        assert all(a.images.equal(b.images) for a, b in zip(*evaluations, strict=True))


def test_images_are_checked_once_and_nothing_large_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, logger="vit_colossal")
    rows = dataset(tmp_path / "images")
    check_images(rows, "image", "label", "key", options(tmp_path))
    assert "checking 30 images" in caplog.text
    caplog.clear()
    check_images(rows, "image", "label", "key", options(tmp_path))
    assert caplog.text == ""
    kept = [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]
    outcome = {"bad": [], "digest": both(tmp_path, rows)[0].images.digest}
    assert [json.loads(path.read_text()) for path in kept] == [outcome]
    check_images(rows, "image", "label", "other", options(tmp_path))
    assert "checking 30 images" in caplog.text
    kept[0].write_text("{")
    caplog.clear()
    check_images(rows, "image", "label", "key", options(tmp_path))
    assert "checking 30 images" in caplog.text


def test_a_file_that_is_gone_in_mid_run_is_named(tmp_path: Path) -> None:
    _, fresh = both(tmp_path, dataset(tmp_path / "images"))
    (tmp_path / "images/4.png").unlink()
    with pytest.raises(OSError, match=r"cannot be decoded any more: image 4 \(.*4\.png\)"):
        fresh.images[np.array([3, 4])]


def test_a_folder_that_cannot_be_written_is_a_problem_for_people(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    rows = dataset(tmp_path / "images", 2)
    with pytest.raises(DataError, match="--cache-dir"):
        check_images(rows, "image", "label", "key", options(tmp_path))


def test_workers_are_started_where_there_is_something_to_decode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert loader_workers(TrainConfig()) == 0
    assert loader_workers(TrainConfig(cache=False)) == 8
    assert loader_workers(TrainConfig(), busy=True) == 8
    assert loader_workers(TrainConfig(num_workers=0), busy=True) == 0
    assert loader_workers(TrainConfig(cache=False, num_workers=0)) == 0
    assert loader_workers(TrainConfig(num_workers=3)) == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert loader_workers(TrainConfig(cache=False)) == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert loader_workers(TrainConfig(cache=False)) == 1


def test_a_stream_needs_the_cache() -> None:
    with pytest.raises(ConfigError, match="--streaming True: a stream is shuffled from the cache"):
        TrainConfig().replace(cache=False, streaming=True)


def test_the_check_and_the_cache_do_not_mix_up_their_outcomes(tmp_path: Path) -> None:
    rows = dataset(tmp_path / "images", 4)
    (tmp_path / "images/1.png").write_bytes(b"?")
    skipping = options(tmp_path, skip_bad=True)
    fresh = check_images(rows, "image", "label", "key", skipping)
    cached = prepare_images(rows, "image", "label", "key", skipping)
    assert fresh.bad == cached.bad and [image.number for image in fresh.bad] == [1]
    assert np.array_equal(fresh.images[:], cached.images)
    assert fresh.labels.tolist() == cached.labels.tolist() == [0, 0, 1]
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(DataError, match="1 of 4 training images"):
        check_images(rows, "image", "label", "key", options(tmp_path))
    assert not list((tmp_path / "cache").glob("*.json"))
    assert lazy.__doc__
