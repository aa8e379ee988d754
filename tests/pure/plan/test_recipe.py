"""The recipe that fits a set of photos: each rule as a table, and what it may not depend on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vit_colossal import ConfigError, TrainConfig
from vit_colossal.plan.plan import Device, RunPlan, draft, fit_recipe, make_plan
from vit_colossal.plan.recipe import (
    TrainingSet,
    choose,
    explained,
    fitting_batch,
    share_to_hold_out,
)

CPU, CUDA = Device("cpu"), Device("cuda")


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """A directory that looks like a saved ViT; only its config is read here."""
    config = {"model_type": "vit", "num_hidden_layers": 6, "num_attention_heads": 6}
    config |= {"hidden_size": 48, "intermediate_size": 96, "image_size": 32, "patch_size": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").touch()
    return str(tmp_path)


def fitted(
    images: int, labels: int = 4, world: int = 1, device: Device = CPU, **asked: Any
) -> RunPlan:
    """A run on photos, planned as `training.run.plan_run` does."""
    config = TrainConfig(**{"dataset": "photos", **asked})
    plan = make_plan(draft(config, device), world, device)
    return fit_recipe(plan, config, images, labels)


def chosen(
    images: int = 108,
    labels: int = 4,
    *,
    pretrained: bool = True,
    device: str = "cpu",
    **asked: Any,
) -> dict[str, Any]:
    data = TrainingSet(images, labels, pretrained, device)
    return {choice.name: choice.value for choice in choose(TrainConfig(**asked), data)}


@pytest.mark.parametrize(
    ("images", "batch"),
    [
        *((1, 1), (3, 3), (4, 4), (7, 4), (10, 8), (27, 8), (32, 8), (108, 12), (120, 8)),
        *((400, 8), (640, 12), (1034, 16), (1797, 28), (2000, 32), (3000, 48), (3680, 64)),
        *((4096, 64), (50_000, 64), (1_281_167, 64)),
    ],
)
def test_the_batch_leaves_few_images_out(images: int, batch: int) -> None:
    assert fitting_batch(images) == batch


def test_the_batch_over_all_sizes() -> None:
    """Three images at most, or about one of a hundred, sit out each epoch."""
    for images in range(4, 5000):
        batch = fitting_batch(images)
        assert 4 <= batch <= min(images, 96)
        assert batch % (8 if images >= 2048 else 4) == 0
        assert images % batch <= max(3, images // 80)


@pytest.mark.parametrize(
    ("images", "labels", "pretrained", "epochs"),
    [
        *((108, 4, True, 28), (20, 2, True, 30), (1034, 3, True, 3), (2000, 120, True, 6)),
        *((50_000, 10, True, 3), (50_000, 1000, True, 3), (108, 4, False, 60)),
        *((500, 4, False, 40), (5000, 10, False, 20), (1000, 150, False, 30)),
    ],
)
def test_epochs(images: int, labels: int, pretrained: bool, epochs: int) -> None:
    assert chosen(images, labels, pretrained=pretrained)["epochs"] == epochs


@pytest.mark.parametrize(
    ("images", "labels", "share"),
    [
        *((4, 2, 0.2), (40, 4, 0.2), (120, 4, 0.2), (300, 4, 0.17), (400, 4, 0.13)),
        *((500, 4, 0.1), (50_000, 10, 0.1), (1000, 40, 0.2), (4000, 120, 0.15)),
    ],
)
def test_the_share_that_is_held_out(images: int, labels: int, share: float) -> None:
    assert share_to_hold_out(images, labels) == share


def test_what_was_held_out_is_told_and_kept(tiny: str) -> None:
    plan = make_plan(draft(config := TrainConfig(dataset="photos", model=tiny), CPU), 1, CPU)
    fitting = fit_recipe(plan, config, 96, 4, held_out=0.2)
    assert fitting.config.val_split == 0.2
    assert fitting.notes[1].startswith("  --val-split 0.2: a tenth to evaluate on")
    # With a split of its own, and where it was named, nothing was chosen.
    assert fitted(96, model=tiny).config.val_split is None
    named = fit_recipe(plan, config.replace(val_split=0.3), 96, 4, held_out=0.3)
    assert named.config.val_split == 0.3 and "--val-split" not in str(named.notes)


def test_who_asks_for_augmentation_is_told_what_it_costs_a_frozen_backbone() -> None:
    """Training all would cost more still."""
    data = TrainingSet(108, 4, True, "cpu")
    asked = TrainConfig(mixup=0.2, horizontal_flip=True)
    reasons = {choice.name: choice.reason for choice in choose(asked, data)}
    assert "with --horizontal-flip and --mixup the rest is computed anew" in reasons["freeze"]
    assert "--freeze none trains all" in reasons["freeze"]
    assert "random_resized_crop" not in reasons
    (plain,) = (c.reason for c in choose(TrainConfig(), data) if c.name == "freeze")
    assert "each epoch" not in plain


HEAD = {"freeze": "backbone", "lr": 3e-3, "warmup_ratio": 0.0, "random_resized_crop": False}
WHOLE = {"lr": 2e-4, "warmup_ratio": 0.1, "random_resized_crop": True, "min_crop_scale": 0.5}


@pytest.mark.parametrize(
    ("pretrained", "device", "asked", "expected"),
    [
        (True, "cpu", {}, HEAD),
        (True, "cuda", {}, WHOLE),
        (False, "cpu", {}, WHOLE | {"lr": 1e-3}),
        (False, "cuda", {}, WHOLE | {"lr": 1e-3}),
        # What is named wins, and decides what fits it.
        (True, "cpu", {"freeze": "none"}, WHOLE),
        (True, "cuda", {"freeze": "backbone"}, {n: v for n, v in HEAD.items() if n != "freeze"}),
        (True, "cpu", {"horizontal_flip": True}, {n: HEAD[n] for n in HEAD if n[:6] != "random"}),
        (True, "cpu", {"warmup_ratio": 0.3}, {n: HEAD[n] for n in HEAD if n != "warmup_ratio"}),
        (True, "cuda", {"random_resized_crop": False}, {"lr": 2e-4, "warmup_ratio": 0.1}),
        (True, "cuda", {"random_resized_crop": True}, {"lr": 2e-4, "warmup_ratio": 0.1}),
        (True, "cuda", {"min_crop_scale": 0.3}, {n: WHOLE[n] for n in WHOLE if n[:3] != "min"}),
        # Who names the rate, or what is for the whole model, has a recipe.
        (True, "cpu", {"lr": 5e-4}, {"warmup_ratio": 0.1}),
        (True, "cpu", {"layer_decay": 0.7}, {"lr": 2e-4, "warmup_ratio": 0.1}),
        (True, "cpu", {"freeze_layers": 2}, {"lr": 2e-4, "warmup_ratio": 0.1}),
        (True, "cpu", {"lora_rank": 8}, {"lr": 1e-3, "warmup_ratio": 0.1}),
        (True, "cpu", {"order": "transformers"}, {"lr": 2e-4, "warmup_ratio": 0.1}),
    ],
)
def test_what_is_trained_and_how(
    pretrained: bool, device: str, asked: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = chosen(pretrained=pretrained, device=device, **asked)
    assert found == {"global_batch_size": 12, "epochs": found["epochs"], **expected}


def test_what_is_named_is_left_alone() -> None:
    asked = {"global_batch_size": 5, "epochs": 2, "lr": 1e-4, "warmup_ratio": 0.0}
    assert chosen(**asked) == {}
    assert "global_batch_size" not in chosen(batch_size=3)
    assert "epochs" not in chosen(max_steps=7)
    assert explained((), TrainingSet(108, 4, True, "cpu")) == []


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_no_choice_depends_on_plugin_degrees_or_processes(tiny: str, device: Device) -> None:
    names = ("global_batch_size", "epochs", "lr", "warmup_ratio", "freeze", "random_resized_crop")
    layouts: list[tuple[int, dict[str, Any]]] = [
        (1, {}),
        (2, {}),
        (4, {"plugin": "zero2"}),
        (2, {"plugin": "gemini"}),
        (2, {"plugin": "hybrid", "pp": 2}),
        (4, {"plugin": "hybrid", "tp": 2, "pp": 2}),
        (4, {"plugin": "hybrid", "pp": 4, "num_microbatches": 4}),
        (1, {"grad_accumulation": 2}),
    ]
    found = set()
    for world, flags in layouts:
        plan = fitted(108, world=world, device=device, model=tiny, **flags)
        assert plan.batches.global_batch == 12
        found.add(tuple(getattr(plan.config, name) for name in names))
    assert len(found) == 1


def test_each_choice_is_told_with_its_reason_and_kept(tiny: str) -> None:
    plan = fitted(108, model=tiny)
    head, *lines = plan.notes
    assert head.startswith("recipe for 108 images of 4 labels on cpu")
    assert [line.split(":")[0] for line in lines] == [
        *("  --global-batch-size 12", "  --freeze backbone", "  --lr 0.003"),
        *("  --warmup-ratio 0.0", "  --epochs 28", "  --no-random-resized-crop"),
    ]
    assert all(len(line.partition(": ")[2]) > 10 for line in lines)
    # Read back from config.yaml nothing is chosen again, on whatever device and images.
    again = plan.config.replace(device="auto")
    moved = fit_recipe(make_plan(draft(again, CUDA), 1, CUDA), again, 5000, 9)
    assert moved.config.replace(device="cpu") == plan.config and moved.notes == ()


def test_a_layout_that_cannot_cut_the_batch_is_told_what_to_write(tiny: str) -> None:
    fitted(108, world=3, model=tiny)
    with pytest.raises(ConfigError, match=r"--global-batch-size 12 .*: use 10 or 15"):
        fitted(108, world=5, model=tiny)


def test_the_built_in_digits_stay_as_they_were(tiny: str) -> None:
    for model, expected in ((tiny, (16, 3, 2e-4)), ("vit-micro", (64, 20, 1e-3))):
        config = fitted(1437, 10, model=model, dataset="digits").config
        assert (config.global_batch_size, config.epochs, config.lr) == expected
        assert (config.freeze, config.random_resized_crop, config.warmup_ratio) == (
            None,
            False,
            0.1,
        )
        assert config.min_crop_scale == 0.08


def test_a_draft_can_be_cut_by_every_layout(tiny: str) -> None:
    """No problem is made up while the images are not counted."""
    for world, flags in ((3, {}), (5, {"grad_accumulation": 7}), (1, {"mixup": 0.2})):
        config = TrainConfig(dataset="photos", model=tiny, **flags)
        make_plan(draft(config, CPU), world, CPU)
    config = TrainConfig(dataset="photos", model=tiny, plugin="hybrid", pp=3, microbatch_size=5)
    make_plan(draft(config, CPU), 6, CPU)
    named = config.replace(global_batch_size=30)
    assert draft(named, CPU) is named
