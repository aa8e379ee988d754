"""What a resumed run has to agree on, and when it may claim to be bit-exact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from vit_colossal import TrainConfig
from vit_colossal.checkpoints.resume import identity, layout
from vit_colossal.config.train_config import RECIPE
from vit_colossal.data.prepare import RunData
from vit_colossal.plan.checkpoint import Checkpoint
from vit_colossal.plan.plan import Device, RunPlan, make_plan
from vit_colossal.training.resuming import Origin, own_last_batch

#: These may be changed on the way: the schedule is a function of the step, the rest of the future.
MAY_CHANGE = {
    *(
        "epochs",
        "max_steps",
        "lr",
        "lr_schedule",
        "warmup_ratio",
        "momentum",
        "adam_beta1",
        "adam_beta2",
    ),
    *("lr_cycles", "cooldown_ratio"),
    *("adam_eps", "clip_grad_norm", "early_stopping_patience", "save_best_model"),
    *("grad_accumulation", "precision"),
    *(
        "random_resized_crop",
        "min_crop_scale",
        "horizontal_flip",
        "auto_augment",
        "mixup",
        "cutmix",
    ),
    *(
        "randaugment_num_ops",
        "randaugment_magnitude",
        "random_erasing",
        "label_smoothing",
        "drop_path",
    ),
    # Another value of it is another data set, by its fingerprint.
    "max_train_samples",
}
#: A value that differs from the default, of those that have to agree.
OTHER: dict[str, Any] = {
    "global_batch_size": 32,
    "jpeg_draft": True,
    "optimizer": "sgd",
    "order": "transformers",
    "order_processes": 2,
    "weight_decay": 0.0,  # one parameter group instead of two
    "decay_all": True,
    "freeze": "backbone",
    "freeze_layers": 1,
    "layer_decay": 0.5,
    "ema": 0.9,
    "last_batch": "train",
    "sampler": "balanced",
    "class_weights": "balanced",
}
#: The same of what a model from scratch does not take.
ADAPTERS: list[dict[str, Any]] = [
    {"lora_rank": None, "lora_alpha": None},
    {"lora_rank": 4},
    {"lora_rank": 8},
    {"lora_rank": 4, "lora_alpha": 8.0},
]


def plan(world_size: int = 2, **settings: Any) -> RunPlan:
    config = TrainConfig(dataset="digits", model="vit-micro", **settings)
    return make_plan(config, world_size, Device("cpu"))


DATA = cast(RunData, SimpleNamespace(labels=("a", "b"), fingerprint="x"))


def test_every_setting_of_the_recipe_has_to_agree_or_may_change() -> None:
    """A new setting fails here until somebody has decided."""
    assert set(RECIPE) == MAY_CHANGE | OTHER.keys() | ADAPTERS[0].keys()
    assert not MAY_CHANGE & OTHER.keys()


#: What a setting needs beside it.
BESIDE: dict[str, Any] = {
    "optimizer": {"lr": 0.05},
    "order": {"order_processes": 1},
    "order_processes": {"order": "transformers"},
}


@pytest.mark.parametrize("name", OTHER)
def test_another_value_is_another_run(name: str) -> None:
    other = plan(**{name: OTHER[name], **BESIDE.get(name, {})})
    assert identity(other, DATA) != identity(plan(), DATA)


def test_other_adapters_are_another_run() -> None:
    begun = plan()
    found = [
        identity(replace(begun, config=begun.config.replace(**each)), DATA) for each in ADAPTERS
    ]
    assert all(found.count(one) == 1 for one in found)


def test_sgd_without_momentum_keeps_nothing_to_go_on_with() -> None:
    with_it, without = (plan(optimizer="sgd", lr=0.05, momentum=m) for m in (0.9, 0.0))
    assert identity(with_it, DATA) != identity(without, DATA)


def test_trainer_s_order_is_told_by_its_processes_and_its_accumulation() -> None:
    runs = [
        plan(order="transformers", order_processes=n, grad_accumulation=a)
        for n, a in ((1, 1), (2, 1), (1, 2))
    ]
    orders = {identity(run, DATA)["order"] for run in runs}
    assert len(orders) == 3


PIPELINE = {"plugin": "hybrid", "pp": 2, "global_batch_size": 16}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"plugin": "ddp"}, {"plugin": "zero1"}),
        ({"plugin": "hybrid", "pp": 2}, {"plugin": "hybrid", "tp": 2}),
        ({"precision": "fp32"}, {"precision": "bf16"}),
        ({"grad_accumulation": 1}, {"grad_accumulation": 2}),
        (PIPELINE, {**PIPELINE, "layers_per_stage": "3,1"}),
        ({**PIPELINE, "num_microbatches": 2}, {**PIPELINE, "num_microbatches": 8}),
        ({"plugin": "hybrid", "precision": "bf16"}, {"plugin": "hybrid", "zero": 1}),
    ],
)
def test_what_changes_the_order_of_sums_is_another_layout(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert layout(plan(**one)) != layout(plan(**other))
    assert layout(plan(**one)) == layout(plan(**one))


def test_a_run_goes_on_with_its_last_batches_as_it_began() -> None:
    """Checkpoints of earlier versions say nothing of them: they were left out."""
    for given, saved, expected in (
        (None, "train", "train"),
        (None, None, "drop"),
        ("train", None, "train"),  # and is refused, as the identities differ
    ):
        checkpoint = Checkpoint(Path("x"), 1, {"last batch": saved}, {})
        origin = Origin(checkpoint, Path("x"), (), None)
        config = TrainConfig(dataset="photos", last_batch=given)
        assert own_last_batch(config, origin).last_batch == expected
