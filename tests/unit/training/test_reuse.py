"""Whether what is frozen is computed once, and what the plan says where it is not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from families import TINY
from vit_colossal import TrainConfig
from vit_colossal.data.loaders import TrainBatches
from vit_colossal.data.mixing import Mixing
from vit_colossal.data.transforms import Augmentation
from vit_colossal.model.build import build_model
from vit_colossal.model.optim import freeze
from vit_colossal.plan.plan import Device, make_plan
from vit_colossal.training.reuse import Reuse, find_reuse

LABELS = ("a", "b")
ONCE = "computed once for each image and kept: up to"


def found(
    *, processes: int = 1, device: str = "cpu", images: int = 90, batches: Any = None, **values: Any
) -> Reuse:
    settings = {"dataset": "photos", "model": "vit-micro", "precision": "fp32"} | values
    plan = make_plan(TrainConfig.model_validate(settings), processes, Device(device))
    model = build_model(plan.spec, LABELS, 0)
    freeze(model, plan.spec, plan.config)
    plain = {"augmentation": Augmentation(), "mixing": Mixing()}
    one_epoch = {"split": range(images), "steps_per_epoch": 10}
    seen = SimpleNamespace(**one_epoch | plain | (batches or {}))
    return find_reuse(plan, model, cast(TrainBatches, seen), 10, 20)


def test_a_head_and_layers_are_computed_once() -> None:
    head = found(freeze="backbone")
    assert head.active and head.part.whole
    assert str(head) == f"all but the head, {ONCE} 0.3 KB an image, 0.0 MB in all"
    layers = found(freeze_layers=3)
    assert layers.active and not layers.part.whole
    assert str(layers) == f"the first 3 layers, {ONCE} 4.4 KB an image, 0.4 MB in all"
    assert found(freeze_layers=4).part.layers == 4


@pytest.mark.parametrize("values", [{}, {"freeze_layers": 0}])
def test_nothing_is_said_where_no_layer_is_frozen(values: dict[str, Any]) -> None:
    reuse = found(**values)
    assert not reuse.found and not reuse.active


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"feature_cache": False}, "as --no-feature-cache says"),
        ({"plugin": "hybrid", "pp": 2, "processes": 2}, "a pipeline is full of micro-batches"),
        ({"compile": True}, "compiled layers are not taken apart (--compile)"),
        ({"batches": {"steps_per_epoch": 20}}, "the run sees each image once"),
        (
            {"images": 10**8},
            "25600.0 MB in all, more than --feature-cache-gb 20",
        ),
    ],
)
def test_the_plan_says_why_it_is_computed_in_each_epoch(values: dict[str, Any], why: str) -> None:
    reuse = found(freeze="backbone", **values)
    assert reuse.found and not reuse.active
    assert str(reuse).startswith("all but the head, computed in each epoch: ") and why in str(reuse)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (
            {"batches": {"augmentation": Augmentation(horizontal_flip=True)}},
            "augmentation shows it other images each time (",
        ),
        ({"batches": {"mixing": Mixing(0.2)}}, "it sees mixed images (mixup 0.2)"),
        (
            {"model_overrides": {"hidden_dropout_prob": 0.1}},
            "it drops something else each time (hidden_dropout_prob 0.1)",
        ),
    ],
)
def test_of_training_that_varies_the_evaluation_alone_is_computed_once(
    values: dict[str, Any], why: str
) -> None:
    reuse = found(freeze="backbone", **values)
    assert reuse.active and reuse.images == 10 and why in reuse.variation
    assert str(reuse).startswith(
        f"all but the head, {ONCE.replace('image', 'evaluation image')} 0.3 KB an image, "
        f"0.0 MB in all; for training images in each epoch: {why}"
    )
    assert not found(freeze="backbone", feature_cache=False, **values).active


def test_on_a_gpu_hidden_states_are_computed() -> None:
    assert "a GPU computes" in found(freeze_layers=2, device="cuda").obstacle
    assert found(freeze="backbone", device="cuda").active


def test_a_limit_can_be_raised() -> None:
    assert found(freeze="backbone", images=10**8, feature_cache_gb=30.0).active


@pytest.mark.parametrize(
    ("name", "settings", "why"),
    [
        ("beit", {"freeze": "backbone"}, "(drop_path_rate 0.1): --drop-path 0 leaves none out"),
        ("beit", {"freeze": "backbone", "drop_path": 0.0}, ""),
        ("beit", {"freeze_layers": 2, "drop_path": 0.0}, "a BEiT is taken apart at its head alone"),
        ("convnext", {"freeze": "backbone"}, ""),
    ],
)
def test_families(name: str, settings: dict[str, Any], why: str, tmp_path: Any) -> None:
    TINY[name].save(tmp_path)
    reuse = found(model=str(tmp_path), **settings)
    reasons = reuse.obstacle + reuse.variation
    assert reuse.found and why in reasons and bool(why) == bool(reasons)
