"""Streams: the same samples as without, read once, left early, exact afterwards."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from vit_colossal.data.cache import CacheOptions, prepare_images
from vit_colossal.data.chosen_rows import choose_rows
from vit_colossal.data.decoding import BadImage
from vit_colossal.data.loaders import EvalBatches, Shard, TrainBatches
from vit_colossal.data.pixels import CachedSplit
from vit_colossal.data.sources.request import SourceRequest
from vit_colossal.data.sources.source import choose, load
from vit_colossal.data.streams import StreamedSource, read_streams
from vit_colossal.data.transforms import Augmentation
from vit_colossal.errors import DataError
from vit_colossal.model.preprocessing import Preprocessing
from vit_colossal.plan.epoch_cut import EpochCut


@pytest.fixture(autouse=True)
def own_library_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library")


def parquet(path: Path, labels: list, feature: object = None, first: int = 0) -> Path:
    """Rows whose red is their number, from ``first`` on; a negative number is a broken image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    feature = feature or datasets.ClassLabel(names=["cat", "dog"])
    features = datasets.Features({"image": datasets.Image(), "label": feature})
    images = [Image.new("RGB", (6, 5), (i, 0, 0)) for i in range(first, first + len(labels))]
    rows = {"image": images, "label": labels}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    return path


def broken(path: Path, labels: list, bad: set[int]) -> Path:
    """The same, but with some images that cannot be decoded."""
    parquet(path, labels)
    rows = datasets.Dataset.from_parquet(str(path)).cast_column(
        "image", datasets.Image(decode=False)
    )
    images = [
        {"bytes": b"?", "path": None} if i in bad else row["image"] for i, row in enumerate(rows)
    ]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    table = {"image": images, "label": labels}
    datasets.Dataset.from_dict(table, features=features).to_parquet(path)
    return path


def options(root: Path, **more: object) -> CacheOptions:
    return CacheOptions(Preprocessing((4, 4)), root / "cache", **more)


def stream(path: Path, root: Path, skip_bad: bool = False, **request: object) -> StreamedSource:
    asked = SourceRequest(str(path), streaming=True, cache_dir=root / "cache", **request)
    loaded = load(asked)
    assert loaded.streamed
    return read_streams(loaded, asked, options(root, skip_bad=skip_bad))


def whole(
    path: Path, root: Path, skip_bad: bool = False, **request: object
) -> tuple[CachedSplit, CachedSplit, str]:
    """What is read without streaming."""
    asked = SourceRequest(str(path), cache_dir=root / "cache", **request)
    source = choose(load(asked), asked)
    columns = source.image_column, source.label_column
    train, evaluation = (
        prepare_images(rows, *columns, source.fingerprint + name, options(root, skip_bad=skip_bad))
        for name, rows in (("train", source.train), ("evaluation", source.evaluation))
    )
    return train, evaluation, source.fingerprint


def reds(split: CachedSplit) -> list[int]:
    return split.images[:][:, 0, 0, 0].tolist()


def assert_same(found: CachedSplit, expected: CachedSplit) -> None:
    assert np.array_equal(found.images[:], expected.images[:])
    assert found.labels.tolist() == expected.labels.tolist()
    assert found.labels.dtype == np.int64
    assert found.bad == expected.bad


def problems(path: Path, root: Path, **request: object) -> str:
    with pytest.raises(DataError) as caught:
        stream(path, root, **request)
    assert all("\n" not in problem for problem in caught.value.problems)
    return "\n".join(caught.value.problems)


# --- The same samples -----------------------------------------------------------------------------

PLAIN = {"int64": [3, 11, 3, 9] * 5, "string": ["b", "a", "b", "c"] * 5, None: [1, 0, 1, 1] * 5}


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("own_split", [True, False], ids=["validation", "held out"])
def test_a_stream_gives_the_samples_that_a_copy_gives(
    tmp_path: Path, kind: str | None, own_split: bool
) -> None:
    feature = datasets.Value(kind) if kind else None
    parquet(tmp_path / "data/train.parquet", PLAIN[kind], feature)
    if own_split:
        parquet(tmp_path / "data/validation.parquet", PLAIN[kind][:3], feature, first=100)
    found = stream(tmp_path / "data", tmp_path, val_split=0.25)
    train, evaluation, fingerprint = whole(tmp_path / "data", tmp_path, val_split=0.25)
    assert_same(found.train, train)
    assert_same(found.evaluation, evaluation)
    assert found.fingerprint == fingerprint
    assert len(found.evaluation) == (3 if own_split else 5)


def test_slices_and_limits_give_the_same_samples_too(tmp_path: Path) -> None:
    parquet(tmp_path / "data/train.parquet", [0, 1] * 20)
    for request in (
        {"train_split": "train[5:30]", "eval_split": "train[30:]", "max_train_samples": 7},
        {"train_split": "train[:9]", "eval_split": "train[9:12]", "max_eval_samples": 2},
    ):
        found = stream(tmp_path / "data", tmp_path, **request)
        train, evaluation, fingerprint = whole(tmp_path / "data", tmp_path, **request)
        assert_same(found.train, train)
        assert_same(found.evaluation, evaluation)
        assert found.fingerprint == fingerprint


@pytest.mark.parametrize("own_split", [True, False], ids=["validation", "held out"])
def test_bad_images_are_left_out_alike(tmp_path: Path, own_split: bool) -> None:
    broken(tmp_path / "data/train.parquet", [0, 1] * 15, {0, 7, 8, 29})
    if own_split:
        broken(tmp_path / "data/test.parquet", [0, 1] * 3, {5})
    found = stream(tmp_path / "data", tmp_path, skip_bad=True, val_split=0.3)
    train, evaluation, fingerprint = whole(
        tmp_path / "data", tmp_path, skip_bad=True, val_split=0.3
    )
    assert_same(found.train, train)
    assert_same(found.evaluation, evaluation)
    assert found.fingerprint == fingerprint
    assert "4 of 30 training images cannot be decoded" in problems(tmp_path / "data", tmp_path)


def test_held_out_samples_of_a_limited_stream_come_from_its_first_rows(tmp_path: Path) -> None:
    parquet(tmp_path / "data/train.parquet", [0, 1] * 50)
    found = stream(tmp_path / "data", tmp_path, max_train_samples=18, val_split=0.1)
    assert (len(found.train), len(found.evaluation)) == (18, 2)
    assert sorted(reds(found.train) + reds(found.evaluation)) == list(range(20))
    unlimited = stream(tmp_path / "data", tmp_path, val_split=0.1)
    assert found.fingerprint != unlimited.fingerprint


def test_chosen_rows_skip_the_bad_ones_before_them() -> None:
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    bad = (BadImage(1, None, "x", 7), BadImage(4, "p", "y", 8))
    # Numbers 0 to 5; those of the good ones are 0, 2, 3 and 5.
    split = CachedSplit(images, np.array([10, 12, 13, 15]), bad)
    chosen = choose_rows(split, [5, 1, 0, 3, 4])
    assert chosen.images[:].ravel().tolist() == [3, 0, 2]
    assert chosen.images[1].item() == 0
    assert chosen.labels.tolist() == [15, 10, 13]
    assert chosen.bad == (BadImage(1, None, "x", 7), BadImage(4, "p", "y", 8))
    assert chosen.images.shape == (3, 1, 1, 1) and len(chosen) == 3


def test_a_streamed_split_is_shuffled_and_shared_out_like_any_other(tmp_path: Path) -> None:
    parquet(tmp_path / "data/train.parquet", [0, 1] * 30)
    found = stream(tmp_path / "data", tmp_path, val_split=0.2)
    train, evaluation, _ = whole(tmp_path / "data", tmp_path, val_split=0.2)
    plain = Augmentation()
    for rank in range(2):
        batches = [
            TrainBatches(split, EpochCut(4, 2), 2, Shard(rank, 2), 42, plain).batches(3)
            for split in (found.train, train)
        ]
        for ours, theirs in zip(*batches, strict=True):
            for a, b in zip(ours, theirs, strict=True):
                assert a.images.equal(b.images) and a.labels.equal(b.labels)
        ours, theirs = (
            EvalBatches(s, 5, Shard(rank, 2)).batches() for s in (found.evaluation, evaluation)
        )
        assert all(a.images.equal(b.images) for a, b in zip(ours, theirs, strict=True))


# --- Reading once, and no further than needed -----------------------------------------------------


def test_a_limit_leaves_the_stream_early(tmp_path: Path) -> None:
    for shard in range(3):
        parquet(tmp_path / f"data/train-{shard}.parquet", [0, 1] * 5, first=10 * shard)
    parquet(tmp_path / "data/test.parquet", [0, 1])
    (tmp_path / "data/train-2.parquet").write_bytes(b"cut off")
    # The library looks one file ahead.
    found = stream(tmp_path / "data", tmp_path, max_train_samples=10)
    assert reds(found.train) == list(range(10))
    message = problems(tmp_path / "data", tmp_path)
    assert "the stream broke off after" in message
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_nothing_but_the_cache_is_kept(tmp_path: Path) -> None:
    parquet(tmp_path / "data/train.parquet", [0, 1] * 10)
    found = stream(tmp_path / "data", tmp_path)
    kept = [f for f in (tmp_path / "library").rglob("*") if f.is_file() and f.suffix == ".arrow"]
    assert kept == []
    (entry,) = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert (entry / "images.npy").stat().st_size == 20 * 3 * 4 * 4 + 128
    assert len(found.train) + len(found.evaluation) == 20


def test_a_stream_is_read_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="vit_colossal")
    parquet(tmp_path / "data/train.parquet", [0, 1] * 10)
    first = stream(tmp_path / "data", tmp_path)
    assert caplog.text.count("decoding a stream of images to 4 x 4 px: 0.00 MB each") == 1
    caplog.clear()
    again = stream(tmp_path / "data", tmp_path, seed=7)
    assert "decoding" not in caplog.text
    assert again.fingerprint != first.fingerprint
    assert sorted(reds(again.train) + reds(again.evaluation)) == list(range(20))


# --- Refusing -------------------------------------------------------------------------------------


def test_unlabelled_and_unknown_labels_are_refused(tmp_path: Path) -> None:
    parquet(tmp_path / "a/train.parquet", [0, 1, -1, 1])
    message = problems(tmp_path / "a", tmp_path)
    assert "of the 4 rows from 0 on, 1 have no label in column 'label' (-1)" in message
    string = datasets.Value("string")
    parquet(tmp_path / "b/train.parquet", ["x", "y"], string)
    parquet(tmp_path / "b/test.parquet", ["x", "yak"], string)
    assert "values outside of the 2 labels (yak)" in problems(tmp_path / "b", tmp_path)
    parquet(tmp_path / "c/train.parquet", ["x", "x"], string)
    assert "has 1 label(s)" in problems(tmp_path / "c", tmp_path)
    parquet(tmp_path / "d/train.parquet", [0, 1])
    parquet(tmp_path / "d/test.parquet", [1], datasets.ClassLabel(names=["cat", "yak"]))
    assert "outside of the 2 labels (yak)" in problems(tmp_path / "d", tmp_path)


@pytest.mark.parametrize("order", [(-2, -1, 0, 1), (1, -2, -1, 0), (-1, 1)])
def test_what_minus_one_means_is_told_by_all_rows_so_far(
    tmp_path: Path, order: tuple[int, ...]
) -> None:
    labels = [label for label in order for _ in range(260)]  # more than a chunk of each
    parquet(tmp_path / "data/train.parquet", labels, datasets.Value("int64"))
    assert stream(tmp_path / "data", tmp_path).labels == tuple(map(str, sorted(order)))


def test_columns_and_splits_are_checked_before_anything_is_decoded(tmp_path: Path) -> None:
    parquet(tmp_path / "data/train.parquet", [0.5, 1.5], datasets.Value("float64"))
    assert "--label-column" in problems(tmp_path / "data", tmp_path)
    message = problems(tmp_path / "data", tmp_path, label_column="label")
    assert "holds decimals (0.5, 1.5), not class labels" in message
    assert "--eval-split exam" in problems(tmp_path / "data", tmp_path, eval_split="exam")
    assert "holds" in problems(
        tmp_path / "data", tmp_path, image_column="label", label_column="label"
    )
    assert not list((tmp_path / "cache").glob("*.lock"))


def test_what_is_never_copied_is_not_streamed(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / f"pets/{name}").mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / f"pets/{name}/{i}.png")
    request = SourceRequest(str(tmp_path / "pets"), streaming=True, cache_dir=tmp_path / "cache")
    loaded = load(request)
    assert not loaded.streamed
    plain = choose(load(replace(request, streaming=False)), request)
    assert choose(loaded, request).fingerprint == plain.fingerprint


@pytest.mark.parametrize("room", [9, 10])
def test_the_disk_needs_room_for_all_splits_whose_sizes_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    counts = {"train": 6, "validation": 4}
    for name, count in counts.items():
        parquet(tmp_path / f"data/{name}.parquet", [i % 2 for i in range(count)])
    asked = SourceRequest(str(tmp_path / "data"), streaming=True, cache_dir=tmp_path / "cache")
    loaded = load(asked)
    for rows in loaded.splits.values():  # what the card of a hub's data set says
        rows.info.splits = datasets.SplitDict(
            {name: datasets.SplitInfo(name, num_examples=count) for name, count in counts.items()}
        )
    usage = shutil.disk_usage(tmp_path)._replace(free=room * 3 * 4 * 4)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    if room < 10:
        with pytest.raises(DataError, match="needed in all"):
            read_streams(loaded, asked, options(tmp_path))
        assert not list(tmp_path.glob("cache/*/images.npy"))
    else:
        assert len(read_streams(loaded, asked, options(tmp_path)).train) == 6
