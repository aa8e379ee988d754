"""Odd, but usable: what must not be refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bad_files import folder, image, put
from vit_colossal.config.reading import load_config
from vit_colossal.data.prepare import RunData
from vit_colossal.runtime.group import Topology
from vit_colossal.training.run import plan_run

BASE = "--device cpu --model vit-micro --output-dir run --global-batch-size 4"


def data(*flags: str) -> RunData:
    """What would be trained on, in the current folder."""
    return plan_run(load_config([*BASE.split(), *flags]), Topology())[1]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_images_of_one_pixel() -> None:
    for name in ("ant", "bee"):
        for row in range(6):
            put(f"photos/{name}/{row}.png", image("PNG", row, size=1))
    found = data("--dataset", "photos")
    assert len(found.train) + len(found.evaluation) == 12
    assert found.train.images.shape[1:] == (3, 16, 16)


def test_names_with_blanks_and_other_alphabets() -> None:
    names = ("Äpfel & Birnen", "вид пчелы", "蜜蜂", "-rf", "a'b\"c", "%(class)s")
    folder("my photos (2024)", names)
    assert set(data("--dataset", "my photos (2024)").labels) == set(names)


def test_a_class_that_validation_lacks() -> None:
    folder("all/train", ("ant", "bee", "wasp"))
    folder("all/validation", ("ant", "wasp"))
    found = data("--dataset", "all")
    assert found.labels == ("ant", "bee", "wasp")
    assert sorted(set(found.evaluation.labels.tolist())) == [0, 2]


def test_bad_images_are_left_out_when_asked_for() -> None:
    folder()
    put("photos/ant/empty.jpg")
    put("photos/bee/page.jpg", "<html>")
    found = data("--dataset", "photos", "--skip-bad-images")
    assert len(found.train) + len(found.evaluation) == 12
    assert any("left out" in note for note in found.notes)


@pytest.mark.slow
def test_ten_thousand_classes() -> None:
    put("one.jpg", image())
    for number in range(10_000):
        name = Path(f"photos/c{number:05}")
        name.mkdir(parents=True)
        os.link("one.jpg", name / "a.jpg")
    found = data("--dataset", "photos")
    assert len(found.labels) == 10_000
    assert len(found.train) == 8_000
