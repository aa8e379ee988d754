"""Kept features: complete or absent, compared with their checksums; a full disk is no failure."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from vit_colossal.data.features import FeatureForm, FeatureWriter, open_features

FORMS = [FeatureForm(torch.float32, (5,)), FeatureForm(torch.bfloat16, (3, 4))]


def kept(entry: Path, form: FeatureForm = FORMS[0], count: int = 7) -> torch.Tensor:
    features = torch.randn(count, *form.shape).to(form.dtype)
    writer = FeatureWriter(entry, count)
    with writer.writing():
        for part in (*features.split(3), features[:2]):  # the last is padding
            writer.add(form.bytes_of(part), form)
        writer.finish()
    assert writer.problem == ""
    return features


@pytest.mark.parametrize("form", FORMS)
def test_what_is_kept_comes_back_bit_for_bit(form: FeatureForm, tmp_path: Path) -> None:
    features = kept(tmp_path / "below" / "entry", form)
    found = open_features(tmp_path / "below" / "entry", compare=True)
    assert found is not None and found[1] == form and len(found[0]) == 7
    rows = torch.from_numpy(np.asarray(found[0][np.array([4, 0, 4])]))
    assert form.features_of(rows).equal(features[[4, 0, 4]])
    assert os.listdir(tmp_path / "below") == ["entry"]


@pytest.mark.parametrize("place", [-1, 128, 40])
def test_damage_is_found_before_anything_is_read(
    place: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept(tmp_path / "entry")
    file = tmp_path / "entry" / ("meta.json" if place == 40 else "images.npy")
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    assert open_features(tmp_path / "entry", compare=True) is None
    assert f"features in {tmp_path / 'entry'} are damaged" in caplog.text
    features = kept(tmp_path / "entry")
    found = open_features(tmp_path / "entry", compare=True)
    assert found is not None
    assert FORMS[0].features_of(torch.from_numpy(found[0][:].copy())).equal(features)


def test_an_unfinished_entry_is_none_and_goes_with_its_process(tmp_path: Path) -> None:
    entry = tmp_path / "entry"
    left = tmp_path / "entry.dead.partial"
    left.mkdir()
    (left / "images.npy").write_bytes(b"half")
    with FeatureWriter(entry, 7).writing():
        assert not left.exists()
        [mine] = tmp_path.iterdir()
        with FeatureWriter(entry, 7).writing():
            assert mine.exists()  # its owner lives
    assert list(tmp_path.iterdir()) == [] and open_features(entry, compare=True) is None


def test_links_are_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    cache = tmp_path / "cache"
    cache.mkdir()
    for name in ("entry", "entry.x.partial"):
        (cache / name).symlink_to(tmp_path / "mine")
    kept(cache / "entry")
    assert open_features(cache / "entry", compare=True) is not None
    assert list((tmp_path / "mine").iterdir()) == []


def test_the_first_of_two_writers_wins(tmp_path: Path) -> None:
    first = kept(tmp_path / "entry")
    kept(tmp_path / "entry")
    found = open_features(tmp_path / "entry", compare=True)
    assert found is not None
    assert FORMS[0].features_of(torch.from_numpy(found[0][:].copy())).equal(first)


def test_a_disk_that_takes_nothing_is_told_and_not_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    form, rows = FORMS[0], torch.zeros(7, 20, dtype=torch.uint8)
    for root in (tmp_path / "file", tmp_path / "full"):
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 3}))
        writer = FeatureWriter(root / "entry", 7)
        with writer.writing():
            writer.add(rows, form)
            writer.finish()
        assert writer.problem
        assert not (root / "entry").exists()
    assert "MB free" in writer.problem
