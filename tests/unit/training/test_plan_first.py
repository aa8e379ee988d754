"""What becomes of photos is known before they are decoded, which may take long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vit_colossal import TrainConfig
from vit_colossal.errors import ConfigError
from vit_colossal.runtime.group import Topology
from vit_colossal.training.run import plan_run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """24 photos, of which 18 are trained on."""
    for number in range(24):
        place = tmp_path / "photos" / ("moss", "rust")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (number, 0, 0)).save(place / f"{number}.png")
    return tmp_path / "photos"


def settings(photos: Path, **more: Any) -> TrainConfig:
    values = {"dataset": str(photos), "model": "vit-micro", "device": "cpu", "val_split": 0.25}
    return TrainConfig(**values, cache_dir=photos.parent / "cache", **more)


def test_the_plan_is_told_before_an_image_is_decoded(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vit_colossal.data.cache.decode_rows", None)
    told: list[str] = []
    with pytest.raises(TypeError):
        plan_run(settings(photos), Topology(), tell=told.extend)
    assert any(line.startswith("recipe for 18 images of 2 labels on cpu") for line in told)
    assert "18 training images are few" in told[-1]
    # Nor is anything decoded for a run that cannot be.
    with pytest.raises(ConfigError, match=r"not divisible by 1 .* x --grad-accumulation 7"):
        plan_run(settings(photos, grad_accumulation=7), Topology())


def test_images_that_are_left_out_do_not_count(photos: Path) -> None:
    for number in range(0, 10, 2):
        (photos / "moss" / f"{number}.png").write_bytes(b"cut off")
    told: list[str] = []
    plan, data = plan_run(settings(photos, skip_bad_images=True), Topology(), tell=told.extend)
    assert len(data.train) < 18 and told == []
    [recipe] = [line for line in plan.notes if "recipe for" in line]
    assert recipe.startswith(f"recipe for {len(data.train)} images")
