"""Defaults that depend on machine and model, and every problem found before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vit_colossal import ConfigError, TrainConfig
from vit_colossal.plan.model_spec import PRESETS
from vit_colossal.plan.plan import (
    Device,
    RunPlan,
    check_data,
    draft,
    fit_recipe,
    make_plan,
    steps_per_epoch,
)

CPU, CUDA, OLD_CUDA = Device("cpu"), Device("cuda"), Device("cuda", bf16=False)


def plan(world: int = 1, device: Device = CPU, **values: object) -> RunPlan:
    return make_plan(TrainConfig(**values), world, device)


def problems(world: int = 1, device: Device = CPU, **values: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        plan(world, device, **values)
    return caught.value.problems


@pytest.fixture
def pretrained(tmp_path: Path) -> str:
    """A directory that looks like a saved ViT; only its config is read here."""
    config = {"model_type": "vit", "num_hidden_layers": 6, "num_attention_heads": 6}
    config |= {"hidden_size": 48, "intermediate_size": 96, "image_size": 32, "patch_size": 8}
    folder = tmp_path / "vit"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").touch()
    return str(folder)


# --- Defaults -------------------------------------------------------------------------------------


def test_without_dataset_and_model_the_cpu_trains_digits_from_scratch() -> None:
    resolved = plan()
    assert (resolved.config.dataset, resolved.config.model) == ("digits", "vit-micro")
    assert len(resolved.notes) == 2
    assert "digits" in resolved.notes[0]
    assert "vit-micro" in resolved.notes[1] and "photos" not in resolved.notes[1]
    assert plan(dataset="digits", model="vit-micro").notes == ()


def test_a_cpu_that_is_faster_in_bf16_stays_with_fp32_and_says_so() -> None:
    fast = Device("cpu", bf16_unit="AMX")
    resolved = plan(1, fast, dataset="digits", model="vit-micro")
    assert resolved.config.precision == "fp32"
    [note] = (note for note in resolved.notes if "AMX: --precision bf16" in note)
    assert "slower with smaller models" in note
    for asked in ({"precision": "fp32"}, {"precision": "bf16"}, {"plugin": "gemini"}):
        notes = plan(1, fast, dataset="digits", model="vit-micro", **asked).notes
        assert not any("AMX" in note for note in notes)


def test_without_dataset_and_model_cuda_trains_vit_base_on_beans(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Read from a folder of that name: an existing local path wins over a hub name."""
    config = {"model_type": "vit", "num_hidden_layers": 12, "num_attention_heads": 12}
    folder = tmp_path / "google" / "vit-base-patch16-224"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    resolved = plan(device=CUDA)
    assert resolved.config.dataset == "beans"
    assert resolved.config.model == "google/vit-base-patch16-224"
    assert resolved.config.precision == "bf16"
    assert any("beans" in note for note in resolved.notes)


@pytest.mark.parametrize(
    ("values", "device", "precision"),
    [
        ({"plugin": "ddp"}, CPU, "fp32"),
        ({"plugin": "zero2"}, CPU, "fp32"),
        ({"plugin": "hybrid"}, CPU, "fp32"),
        ({"plugin": "gemini"}, CPU, "bf16"),
        ({"plugin": "hybrid", "zero": 1}, CPU, "bf16"),
        ({"plugin": "ddp"}, CUDA, "bf16"),
        ({"plugin": "gemini"}, OLD_CUDA, "fp16"),
        ({"plugin": "ddp", "precision": "fp32"}, CUDA, "fp32"),
        ({"plugin": "torch_ddp_fp16"}, CPU, "fp16"),
    ],
)
def test_default_precision(values: dict[str, object], device: Device, precision: str) -> None:
    assert plan(device=device, model="vit-micro", **values).config.precision == precision


def test_default_recipe_from_scratch_and_pretrained(pretrained: str) -> None:
    scratch, tuned = plan(model="vit-micro").config, plan(model=pretrained).config
    assert (scratch.epochs, scratch.lr, scratch.global_batch_size) == (20, 1e-3, 64)
    assert (tuned.epochs, tuned.lr, tuned.global_batch_size) == (3, 2e-4, 16)


def test_what_is_given_is_kept(pretrained: str) -> None:
    config = plan(model=pretrained, epochs=7, lr=0.0, global_batch_size=48).config
    assert (config.epochs, config.lr, config.global_batch_size) == (7, 0.0, 48)


@pytest.mark.parametrize(("world", "tp", "pp"), [(1, 1, 1), (2, 1, 2), (4, 2, 1), (4, 2, 2)])
def test_the_learning_rate_is_never_scaled(world: int, tp: int, pp: int) -> None:
    assert plan(world, plugin="hybrid", tp=tp, pp=pp, lr=3e-4).config.lr == 3e-4


def test_the_per_replica_batch_counts_replicas_not_processes() -> None:
    resolved = plan(8, plugin="hybrid", tp=2, pp=2, batch_size=16)
    assert resolved.config.global_batch_size == 32
    assert resolved.config.batch_size is None
    assert resolved.batches.forward_batch == 16


def test_the_resolved_configuration_resolves_to_itself() -> None:
    resolved = plan(4, plugin="hybrid", pp=2)
    again = make_plan(resolved.config, 4, CPU)
    assert again.config == resolved.config
    assert again.batches == resolved.batches


# --- Problems -------------------------------------------------------------------------------------

HYBRID = {"plugin": "hybrid", "model": "vit-micro"}
REFUSED = {
    "heads % tp": (3, {**HYBRID, "tp": 3}, ["4 attention heads", "--tp 3"]),
    "world % (tp x pp)": (6, {**HYBRID, "tp": 2, "pp": 2}, ["6 processes", "--tp 2 x --pp 2 = 4"]),
    "stages > layers": (5, {**HYBRID, "pp": 5}, ["--pp 5", "4 encoder layers", "--pp 4 or less"]),
    "micro-batches < stages": (
        2,
        {**HYBRID, "pp": 2, "num_microbatches": 1},
        ["--num-microbatches 1", "2 pipeline stages"],
    ),
    "batch % replicas": (3, {"plugin": "ddp"}, ["--global-batch-size 64", "use 63 or 66"]),
    "batch % accumulation": (1, {"grad_accumulation": 3}, ["--grad-accumulation 3", "63 or 66"]),
    "batch % micro-batches": (
        2,
        {**HYBRID, "pp": 2, "num_microbatches": 7},
        ["--num-microbatches 7", "64 samples"],
    ),
    "zero 2 in hybrid": (2, {**HYBRID, "zero": 2}, ["--zero 2", "--zero 1", "--plugin zero2"]),
    "fp32 with gemini": (
        1,
        {"plugin": "gemini", "precision": "fp32"},
        ["--precision fp32", "bf16"],
    ),
    "fp32 with zero in hybrid": (
        2,
        {**HYBRID, "zero": 1, "precision": "fp32"},
        ["--zero 1", "--precision fp32", "bf16"],
    ),
    "tp without hybrid": (2, {"plugin": "ddp", "tp": 2}, ["--tp 2", "--plugin ddp", "hybrid"]),
    "pp without hybrid": (2, {"plugin": "zero1", "pp": 2}, ["--pp 2", "--plugin zero1", "hybrid"]),
    "zero without hybrid": (2, {"plugin": "ddp", "zero": 1}, ["--zero 1", "--plugin ddp"]),
    "micro-batches without pp": (1, {"num_microbatches": 2}, ["--num-microbatches", "--pp 2"]),
    "micro-batch size without pp": (1, {"microbatch_size": 2}, ["--microbatch-size", "--pp 2"]),
    "gemini flag without gemini": (
        1,
        {"gemini_min_chunk_m": 1.0},
        ["--gemini-min-chunk-m 1.0", "--plugin ddp"],
    ),
    "offload on the cpu": (
        1,
        {"plugin": "gemini", "gemini_offload_optim_frac": 0.5},
        ["--gemini-offload-optim-frac 0.5", "--device cpu"],
    ),
    "automatic placement on the cpu": (
        1,
        {"plugin": "gemini", "gemini_placement": "auto"},
        ["--gemini-placement auto", "--device cpu"],
    ),
    "two batch sizes": (
        1,
        {"batch_size": 8, "global_batch_size": 8},
        ["--batch-size", "--global-batch-size", "give one"],
    ),
    "two micro-batch flags": (
        2,
        {**HYBRID, "pp": 2, "num_microbatches": 2, "microbatch_size": 2},
        ["--num-microbatches", "--microbatch-size", "give one"],
    ),
    "RandAugment's settings alone": (
        1,
        {"randaugment_magnitude": 5, "auto_augment": "trivialaugment"},
        ["--randaugment-magnitude", "--auto-augment randaugment"],
    ),
    "nothing to mix with": (
        1,
        {"mixup": 0.2, "global_batch_size": 1},
        ["--mixup", "--global-batch-size 2"],
    ),
    "nothing to mix with on each replica": (
        1,
        {"cutmix": 0.2, "batch_size": 1},
        ["--cutmix", "--global-batch-size 2"],
    ),
    "stages of no pipeline": (
        1,
        {"layers_per_stage": "2,2"},
        ["--layers-per-stage 2,2 needs a pipeline", "--pp 2"],
    ),
    "a stage too many": (
        2,
        {"plugin": "hybrid", "pp": 2, "layers_per_stage": "1,1,2"},
        ["--layers-per-stage 1,1,2 names 3 stages", "--pp 2 has 2"],
    ),
    "stages with other layers": (
        2,
        {"plugin": "hybrid", "pp": 2, "layers_per_stage": "5,7"},
        ["--layers-per-stage 5,7", "vit-micro has 4 encoder layers"],
    ),
    "a stage without layers": (
        2,
        {"plugin": "hybrid", "pp": 2, "layers_per_stage": "0,4"},
        ["--layers-per-stage 0,4", "one or more"],
    ),
    "ZeroBubble": (
        2,
        {"plugin": "hybrid", "pp": 2, "pp_style": "zbv"},
        ["--pp-style zbv drops the weight gradients", "use 1f1b"],
    ),
    "ZeroBubble by its usual name": (
        2,
        {"plugin": "hybrid", "pp": 2, "pp_style": "zero-bubble"},
        ["--pp-style zero-bubble drops the weight gradients", "use 1f1b"],
    ),
    "an interleaved pipeline": (
        2,
        {"plugin": "hybrid", "pp": 2, "pp_style": "interleaved"},
        ["--pp-style interleaved", "use 1f1b"],
    ),
    "Trainer's order on nobody knows how many": (
        1,
        {"order": "transformers"},
        ["--order transformers needs --order-processes"],
    ),
    "processes of no Trainer": (
        1,
        {"order_processes": 2},
        ["--order-processes 2 has no effect", "--order transformers"],
    ),
    "a batch that Trainer's processes do not share": (
        1,
        {
            **{"order": "transformers", "order_processes": 3, "grad_accumulation": 2},
            "global_batch_size": 16,
        },
        ["--global-batch-size 16", "--order-processes 3 x --grad-accumulation 2"],
    ),
    "Trainer mixes nothing": (
        1,
        {"order": "transformers", "order_processes": 1, "mixup": 0.2},
        ["--mixup is nothing that Trainer does"],
    ),
    "more frozen layers than there are": (1, {"freeze_layers": 5}, ["--freeze-layers 5", "has 4"]),
    "frozen twice": (
        1,
        {"freeze": "backbone", "freeze_layers": 1},
        ["--freeze backbone", "drop --freeze-layers"],
    ),
    "rates of frozen layers": (
        1,
        {"freeze": "backbone", "layer_decay": 0.5},
        ["--layer-decay", "--freeze backbone"],
    ),
    "adapters of noise": (1, {"lora_rank": 8}, ["--lora-rank 8", "random", "pretrained --model"]),
    "a scale of nothing": (1, {"lora_alpha": 16}, ["--lora-alpha 16", "add it"]),
    "no such model": (1, {"model": "/nowhere/model"}, ["--model /nowhere/model", "vit-base"]),
    "keys for a directory": (
        1,
        {"model": "/nowhere", "model_overrides": {"hidden_size": 8}},
        ["--model-config", "hidden_size"],
    ),
    "two image sizes": (
        1,
        {"image_size": 32, "model_overrides": {"image_size": 8}},
        ["--image-size 32", "image_size=8", "give one"],
    ),
    "part of a patch": (1, {"image_size": 30}, ["image_size 30", "patch_size 4", "nearest is 32"]),
    "patches": (1, {"model_overrides": {"patch_size": 5}}, ["image_size 16", "patch_size 5"]),
    "heads": (1, {"model_overrides": {"num_attention_heads": 5}}, ["hidden_size 64", "5"]),
    "no size": (1, {"model_overrides": {"hidden_size": "big"}}, ["hidden_size", "'big'"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused(name: str) -> None:
    world, values, texts = REFUSED[name]
    found = problems(world, **values)
    assert any(all(text in line for text in texts) for line in found), found
    assert all(len(line.splitlines()) == 1 for line in found)


@pytest.mark.parametrize(
    ("world", "values"),
    [
        (2, {**HYBRID, "tp": 2}),
        (4, {**HYBRID, "pp": 4}),
        (4, {**HYBRID, "tp": 2, "pp": 2, "zero": 0}),
        (4, {**HYBRID, "pp": 2, "zero": 1}),
        (2, {"plugin": "gemini", "precision": "fp16"}),
        (1, {"plugin": "hybrid"}),
        (2, {**HYBRID, "pp": 2, "num_microbatches": 2}),
        (2, {"plugin": "zero2", "precision": "fp32"}),
        (2, {**HYBRID, "pp": 2, "zero": 1, "freeze_layers": 4, "layer_decay": 0.7, "ema": 0.99}),
        (1, {"mixup": 0.0, "global_batch_size": 1, "layer_decay": 1.0, "freeze": "backbone"}),
    ],
)
def test_what_can_be_honoured_is_not(world: int, values: dict[str, object]) -> None:
    assert plan(world, **values).dims.world_size == world


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ({"lora_rank": 49}, ["--lora-rank 49", "48 wide"]),
        ({"freeze": "backbone"}, ["--lora-rank 8", "drop --freeze backbone"]),
        ({"freeze_layers": 0}, ["--lora-rank 8", "drop --freeze-layers"]),
        ({**HYBRID, "tp": 2}, ["--lora-rank 8", "--tp 2", "--pp", "ddp, zero1, zero2, gemini"]),
    ],
)
def test_adapters_that_cannot_be_trained_are_refused(
    values: dict[str, object], texts: list[str], pretrained: str
) -> None:
    (line,) = problems(2, **{"lora_rank": 8, **values, "model": pretrained})
    assert all(text in line for text in texts), line


def test_adapters_have_a_rate_of_their_own(pretrained: str) -> None:
    for values in ({}, {"layer_decay": 0.7}, {**HYBRID, "pp": 2}):
        config = plan(2, **{"lora_rank": 8, **values, "model": pretrained}).config
        assert (config.lr, config.freeze, config.lora_scale) == (1e-3, None, 1.0)


def edit(model: str, tower: str | None, **changes: object) -> None:
    """Set keys of a configuration, or make it one of a model with a tower."""
    file = Path(model) / "config.json"
    values = {**json.loads(file.read_text()), **changes}
    if tower is not None:
        values = {"model_type": "siglip", tower: {**values, "model_type": "siglip_vision_model"}}
    file.write_text(json.dumps(values))


towers = pytest.mark.parametrize("tower", [None, "vision_config"])


@towers
@pytest.mark.parametrize("channels", [5, 13])
def test_images_of_other_channels_are_refused(
    channels: int, tower: str | None, pretrained: str
) -> None:
    edit(pretrained, tower, num_channels=channels)
    (line,) = problems(1, model=pretrained)
    assert f"num_channels is {channels}: images are read in 1 (L), 2 (LA), 3 (RGB), 4" in line


@towers
@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (4, "RGBA")])
def test_images_are_read_in_the_channels_of_the_model(
    channels: int, mode: str, tower: str | None, pretrained: str
) -> None:
    edit(pretrained, tower, num_channels=channels)
    resolved = plan(model=pretrained)
    assert resolved.spec.shape.channels == channels
    assert resolved.spec.identity()["num_channels"] == channels
    assert f"num_channels is {channels}: images are read in Pillow's mode {mode}" in resolved.notes


def test_rgb_is_no_part_of_a_checkpoints_identity() -> None:
    assert "num_channels" not in plan(model="vit-micro").spec.identity()


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
def test_policies_change_the_colours_of_rgb_and_what_they_can_of_grey(policy: str) -> None:
    grey, clear = ({"model": "vit-micro", "model_overrides": {"num_channels": n}} for n in (1, 4))
    (note,) = [n for n in plan(**grey, auto_augment=policy).notes if "num_channels" in n]
    assert f"--auto-augment {policy} cannot change the saturation of grey images" in note
    (line,) = problems(1, **clear, auto_augment=policy)
    assert f"--auto-augment {policy}: its colours are of 1 or 3 channels" in line


@towers
@pytest.mark.parametrize(
    ("name", "nearest"),
    [("selu", "silu, relu, gelu"), ("GELU", "gelu"), ("prelu", "relu"), (None, "gelu, gelu_10")],
)
def test_a_function_that_no_model_is_built_with(
    name: str | None, nearest: str, tower: str | None, pretrained: str
) -> None:
    edit(pretrained, tower, hidden_act=name)
    (line,) = problems(1, model=pretrained)
    assert f"hidden_act is {name}" in line and nearest in line


def test_cuda_takes_offload_and_automatic_placement() -> None:
    assert plan(device=CUDA, model="vit-micro", plugin="gemini", gemini_placement="auto")
    assert plan(device=CUDA, model="vit-micro", plugin="gemini", gemini_offload_optim_frac=0.5)


def test_automatic_placement_takes_no_fractions() -> None:
    values = {"plugin": "gemini", "gemini_placement": "auto", "gemini_offload_param_frac": 0.5}
    (line,) = problems(device=CUDA, model="vit-micro", **values)
    assert "--gemini-offload-param-frac 0.5" in line


def test_a_model_that_is_not_there_hides_no_other_problem() -> None:
    found = problems(1, model="/nowhere/model", randaugment_magnitude=3, tp=2)
    assert [any(text in line for line in found) for text in ("/nowhere", "randaug", "--tp 2")] == [
        True
    ] * 3


def test_all_problems_are_shown_at_once() -> None:
    values = {"plugin": "hybrid", "tp": 3, "pp": 5, "zero": 2, "precision": "fp32"}
    found = problems(7, model="vit-micro", gemini_hidden_dim=3, **values)
    for text in (
        "--tp 3",
        "--pp 5 stages",
        "--zero 2",
        "fp32",
        "--gemini-hidden-dim",
        "7 processes",
    ):
        assert any(text in line for line in found), text


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_runs_under_two_stages(preset: str) -> None:
    assert plan(2, plugin="hybrid", pp=2, model=preset).spec.name == preset


def test_a_model_key_that_vit_does_not_have() -> None:
    (line,) = problems(model_overrides={"hiden_size": 32})
    assert "hiden_size" in line


@pytest.mark.parametrize(
    "overrides",
    [
        {"hidden_dropout_prob": 2},
        {"hidden_act": "selu"},
        {"hidden_act": 1},
        {"num_channels": 5},
        {"num_channels": True},
    ],
    ids=str,
)
def test_model_keys_with_values_that_no_model_can_have(overrides: dict[str, object]) -> None:
    (line,) = problems(model_overrides=overrides)
    assert next(iter(overrides)) in line


# --- Data -----------------------------------------------------------------------------------------


def test_a_split_smaller_than_a_batch() -> None:
    resolved = plan(global_batch_size=64)
    check_data(resolved, num_train=64, num_eval=1)
    with pytest.raises(ConfigError) as caught:
        check_data(resolved, num_train=63, num_eval=1)
    (line,) = caught.value.problems
    assert "63 images" in line
    assert "64" in line
    assert "--global-batch-size" in line
    with pytest.raises(ConfigError, match="evaluation split is empty"):
        check_data(resolved, num_train=64, num_eval=0)


def test_the_last_batch_trains_but_for_the_digits_whose_results_are_recorded() -> None:
    assert plan(dataset="digits").config.last_batch == "drop"
    assert plan(dataset="photos", model="vit-micro").config.last_batch == "train"
    assert plan(dataset="digits", last_batch="train").config.last_batch == "train"
    few = plan(dataset="photos", model="vit-micro", global_batch_size=64)
    check_data(few, num_train=1, num_eval=1)
    assert [steps_per_epoch(few.config, count) for count in (1, 64, 65, 128)] == [1, 1, 2, 2]
    with pytest.raises(ConfigError, match="training split is empty"):
        check_data(few, num_train=0, num_eval=1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"class_weights": "balanced", "sampler": "balanced"}, "choose one"),
        ({"order": "transformers", "order_processes": 1, "sampler": "balanced"}, "--sampler"),
        (
            {"order": "transformers", "order_processes": 1, "class_weights": "balanced"},
            "--class-weights",
        ),
        ({"order": "transformers", "order_processes": 1, "last_batch": "drop"}, "--last-batch"),
    ],
)
def test_what_does_not_go_together(values: dict[str, object], expected: str) -> None:
    (line,) = problems(dataset="digits", **values)
    assert expected in line


def test_a_default_batch_is_made_to_fit_few_images() -> None:
    asked = TrainConfig(dataset="digits", model="vit-micro")
    assert draft(asked, CPU) is asked
    resolved = make_plan(asked, 2, CPU)
    assert resolved.batches.global_batch == 64
    assert fit_recipe(resolved, asked, 64, 10) is resolved
    smaller = fit_recipe(resolved, asked, 27, 10)
    assert (smaller.batches.global_batch, smaller.config.global_batch_size) == (16, 16)
    assert "no --global-batch-size given: 16, as there are 27 training images" in smaller.notes
    # One image for two replicas, and a batch that somebody named, are left to `check_data`.
    assert fit_recipe(resolved, asked, 1, 10) is resolved
    named = asked.replace(global_batch_size=64)
    assert fit_recipe(make_plan(named, 1, CPU), named, 27, 10).batches.global_batch == 64


# --- Optimizers and schedules ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "sgd"}, "--optimizer sgd needs --lr: the default rate is AdamW's"),
        (
            {"optimizer": "sgd", "lr": 0.1, "plugin": "gemini", "precision": "bf16"},
            "--optimizer sgd: --plugin gemini has AdamW alone: use another plugin",
        ),
        (
            {"optimizer": "sgd", "lr": 0.1, "order": "transformers", "order_processes": 1},
            "--optimizer sgd: --order transformers updates with Trainer's AdamW: drop one",
        ),
        (
            {"optimizer": "sgd", "lr": 0.1, "adam_beta2": 0.95},
            "--adam-beta2 0.95 has no effect with --optimizer sgd: drop it",
        ),
        ({"momentum": 0.5}, "--momentum 0.5 has no effect with --optimizer adamw: drop it"),
        ({"lr_cycles": 2}, "--lr-cycles 2 has no effect with --lr-schedule cosine: drop it"),
        (
            {"cooldown_ratio": 0.5, "lr_schedule": "constant"},
            "--cooldown-ratio 0.5 has no effect with --lr-schedule constant: drop it",
        ),
        (
            {"lr_schedule": "constant-cooldown", "cooldown_ratio": 0.8, "warmup_ratio": 0.3},
            "--warmup-ratio 0.3 and --cooldown-ratio 0.8 are more than all steps: lower one",
        ),
    ],
)
def test_what_the_optimizer_or_the_schedule_does_not_read_is_refused(
    settings: dict[str, object], message: str
) -> None:
    [problem] = problems(dataset="digits", model="vit-micro", **settings)
    assert problem.startswith(message)
