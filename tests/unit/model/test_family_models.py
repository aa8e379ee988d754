"""Each row of the table of families says what transformers does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import pictures
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoImageProcessor, AutoModelForImageClassification

from families import LABELS, SIDE, TINY, Tiny, edit_config
from vit_colossal.config.reading import TrainConfig
from vit_colossal.data.decoding import decode
from vit_colossal.data.transforms import normalize
from vit_colossal.errors import ConfigError, ModelError
from vit_colossal.families.names import in_files, named_weights
from vit_colossal.families.refused import REFUSED
from vit_colossal.families.table import FAMILIES
from vit_colossal.model.build import blocks, build_model, flops_per_image
from vit_colossal.model.configuration import classifier_of
from vit_colossal.model.directory import save_directory
from vit_colossal.model.head import match_head
from vit_colossal.model.optim import freeze, parameter_groups
from vit_colossal.model.processor import build_processor, preprocessing_of
from vit_colossal.model.weights_fit import check_weights
from vit_colossal.plan.layouts import fitting_layouts
from vit_colossal.plan.model_spec import ModelSpec, read_spec
from vit_colossal.plan.plan import Device, make_plan
from vit_colossal.trained.predict import Predictor
from vit_colossal.trained.saved import load_model, locate

each = pytest.mark.parametrize("name", TINY)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    for name, tiny in TINY.items():
        tiny.save(root / name)
    return {name: root / name for name in TINY}


def spec_of(folder: Path, **overrides: Any) -> ModelSpec:
    return read_spec(str(folder), overrides)


def logits(model: torch.nn.Module, side: int = SIDE) -> torch.Tensor:
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found: torch.Tensor = model.eval()(pixel_values=pixels).logits
    return found


def test_every_family_has_a_small_model() -> None:
    assert {tiny.model_type for tiny in TINY.values()} == FAMILIES.keys()


@each
def test_names_are_those_that_transformers_writes(name: str, folders: dict[str, Path]) -> None:
    tiny = TINY[name]
    row, model = FAMILIES[tiny.model_type], tiny.build()
    written = load_file(folders[name] / "model.safetensors")
    weights = in_files(row, dict(named_weights(model)))
    assert weights.keys() == written.keys()
    assert all(torch.equal(weights[key], tensor) for key, tensor in written.items())
    assert all(row.published(key) == key for key in weights)


@each
def test_a_folder_is_trained_on_and_saved_as_transformers_reads_it(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    spec = spec_of(folders[name])
    check_weights(spec)
    expected = logits(AutoModelForImageClassification.from_pretrained(folders[name]))
    model = build_model(spec, LABELS, 0)
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=0)
    save_directory(tmp_path, model, build_processor(spec))
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(again), expected, rtol=0, atol=0)
    torch.testing.assert_close(logits(load_model(locate(str(tmp_path)))), expected, rtol=0, atol=0)


@each
def test_base_models_and_other_labels_get_a_new_head(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """A file without the classifier, and without the prefix that its class puts in front."""
    tiny = TINY[name]
    tiny.save(tmp_path)
    row, file = FAMILIES[tiny.model_type], tmp_path / "model.safetensors"
    prefix = "" if row.nested else f"{row.backbone}."
    kept = {k: v for k, v in load_file(file).items() if not row.is_head(k)}
    bare = {key.removeprefix(prefix): tensor.half() for key, tensor in kept.items()}
    bare["some.position_ids"] = torch.arange(3)[None]
    save_file(bare, file, metadata={"format": "pt"})
    spec = spec_of(tmp_path)
    check_weights(spec)
    assert "brings none" in match_head(spec, LABELS).note
    model = build_model(spec, ("a", "b", "c", "d"), 0)
    assert logits(model).shape == (2, 4)
    whole = tiny.build()
    for (key, ours), (_, theirs) in zip(named_weights(model), named_weights(whole), strict=True):
        if not row.is_head(key):
            assert torch.equal(ours, theirs.half().float()), key


@each
def test_what_gets_no_gradient_is_frozen_and_nothing_else(
    name: str, folders: dict[str, Path]
) -> None:
    spec = spec_of(folders[name])
    model = build_model(spec, LABELS, 0).train()
    model(pixel_values=torch.randn(4, 3, SIDE, SIDE)).logits.square().sum().backward()
    idle = {key for key, parameter in named_weights(model) if parameter.grad is None}
    freeze(model, spec, TrainConfig())
    assert {key for key, p in named_weights(model) if not p.requires_grad} == idle
    without = {key for key, p in named_weights(model) if p.grad is not None and not p.grad.any()}
    assert without == set()


@each
def test_depths_rise_from_the_embeddings_to_the_head(name: str, folders: dict[str, Path]) -> None:
    spec = spec_of(folders[name])
    row, model = spec.family, build_model(spec, LABELS, 0)
    depths = [row.depth_of(key, spec.shape.depths) for key, _ in named_weights(model)]
    top = spec.shape.num_layers + 1
    assert set(depths) == set(range(top + 1))
    assert len(blocks(model, spec)) == spec.shape.num_layers
    inside = {id(p): i for i, block in enumerate(blocks(model, spec)) for p in block.parameters()}
    for (key, parameter), depth in zip(named_weights(model), depths, strict=True):
        if id(parameter) in inside:
            assert depth == inside[id(parameter)] + 1, key
        elif row.is_head(key):
            assert depth == top
    config = TrainConfig(lr=1.0, layer_decay=0.5)
    rates = {group["lr"] for group in parameter_groups(model, spec, config)}
    assert rates == {0.5**n for n in range(top + 1)}


@each
def test_defaults_are_those_of_transformers(name: str) -> None:
    row = FAMILIES[TINY[name].model_type]
    config = classifier_of(row).config_class()
    own = getattr(config, row.nested) if row.nested else config
    for key, value in row.defaults.items():
        found = getattr(own, key)
        assert (tuple(found) if isinstance(found, list) else found) == value, key
    if row.drop_path is not None:
        assert own.drop_path_rate == row.drop_path
    assert (row.drop_path is None) != hasattr(own, "drop_path_rate")


@each
def test_flops_are_those_that_a_counter_sees(name: str, tmp_path: Path) -> None:
    """With eager attention: the counter does not know PyTorch's own kernel on a CPU."""
    tiny = TINY[name]
    encoder = dict(tiny.encoder)
    if "num_hidden_layers" in encoder:
        encoder |= {"num_hidden_layers": 6, "hidden_size": 64, "intermediate_size": 128}
    model = Tiny(tiny.model_type, encoder, tiny.processor).save(tmp_path)
    spec = spec_of(tmp_path)
    model.set_attn_implementation("eager")
    if hasattr(getattr(model, "vision_model", None), "use_head"):
        model.vision_model.use_head = False  # SigLIP's, of which the classifier reads nothing
    images = 64  # which share what Swin v2 computes once: its position biases
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(pixel_values=torch.randn(images, 3, SIDE, SIDE))
    counted = counter.get_total_flops() / images
    assert flops_per_image(spec, len(LABELS)) / 3 == pytest.approx(counted, rel=0.02)


@each
def test_pixels_are_those_of_its_own_processor(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    spec = spec_of(folders[name])
    how = preprocessing_of(spec)
    assert how.notes == ()
    build_processor(spec).save_pretrained(tmp_path)
    stacked = np.stack([decode(picture, how) for picture in pictures()])
    ours = normalize(torch.from_numpy(stacked), how)
    for folder in (folders[name], tmp_path):
        theirs = AutoImageProcessor.from_pretrained(folder, backend="pil")
        expected = [theirs(picture, return_tensors="pt")["pixel_values"] for picture in pictures()]
        torch.testing.assert_close(ours, torch.cat(expected).float(), rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("name", [n for n, t in TINY.items() if t.model_type != "beit"])
@pytest.mark.parametrize("side", [48, 64])
def test_another_image_size_is_what_transformers_makes_of_it(
    name: str, side: int, folders: dict[str, Path], tmp_path: Path
) -> None:
    spec = spec_of(folders[name], image_size=side)
    assert preprocessing_of(spec).size == (side, side)
    model = build_model(spec, LABELS, 0)
    plain = AutoModelForImageClassification.from_pretrained(folders[name])
    if spec.family.sizes == "interpolated":
        pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = plain(pixel_values=pixels, interpolate_pos_encoding=True).logits
        torch.testing.assert_close(logits(model, side), expected, rtol=1e-5, atol=1e-6)
    elif spec.family.sizes == "interpolates" or not spec.shape.window:
        torch.testing.assert_close(logits(model, side), logits(plain, side), rtol=0, atol=0)
    save_directory(tmp_path, model, build_processor(spec))
    again = spec_of(tmp_path)
    assert again.image_size == side and again.identity() == spec.identity()
    reloaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(reloaded, side), logits(model, side), rtol=0, atol=0)


def test_a_clip_that_says_all_twice(tmp_path: Path) -> None:
    """As the first ones do: what stands in the older spelling counts, and is not saved again."""
    tiny = TINY["clip"]
    tiny.save(tmp_path)
    forms = {"output_attentions": True, "return_dict": False}
    edit_config(
        tmp_path,
        vision_config={"hidden_size": 7, **forms},
        vision_config_dict={**tiny.encoder, **forms},
        text_config_dict={"hidden_size": 64},
    )
    spec = spec_of(tmp_path, image_size=48)
    check_weights(spec)
    model = build_model(spec, LABELS, 0)
    assert model.config.vision_config.image_size == 48
    assert not model.config.vision_config.output_attentions
    assert logits(model, 48).shape == (2, 3)
    save_directory(tmp_path / "saved", model, build_processor(spec))
    assert spec_of(tmp_path / "saved").identity() == spec.identity()


@pytest.mark.parametrize("name", ["siglip", "clip"])
def test_the_text_tower_is_left_alone(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    TINY[name].save(tmp_path)
    file = tmp_path / "model.safetensors"
    text = {
        "text_model.embeddings.position_embedding.weight": torch.zeros(64, 32),
        "text_model.encoder.layers.7.layer_norm1.weight": torch.ones(32),
        "logit_scale": torch.tensor(1.0),
    }
    save_file({**text, **load_file(file)}, file, metadata={"format": "pt"})
    spec, alone = spec_of(tmp_path, image_size=48), spec_of(folders[name], image_size=48)
    check_weights(spec)
    whole, plain = build_model(spec, LABELS, 0), build_model(alone, LABELS, 0)
    torch.testing.assert_close(logits(whole, 48), logits(plain, 48), rtol=0, atol=0)


def test_a_dinov2_is_trained_at_the_size_of_its_processor(folders: dict[str, Path]) -> None:
    spec = spec_of(folders["dinov2"])
    assert (spec.image_size, spec.weights_image_size) == (SIDE, 48)
    assert build_model(spec, LABELS, 0).config.image_size == 48


@pytest.mark.parametrize(
    ("name", "size", "why"),
    [
        ("beit", 64, "a BEiT is trained at its own size alone, here 32"),
        ("swin", 16, "too small for its 2 stages: --image-size 32 or more"),
        ("dinov3_vit", 33, "not divisible by patch_size 8: the nearest is 32"),
        ("dinov2", 33, "not divisible by patch_size 8: the nearest is 32"),
    ],
)
def test_sizes_that_a_family_cannot_have(
    name: str, size: int, why: str, folders: dict[str, Path]
) -> None:
    with pytest.raises(ModelError, match=why):
        spec_of(folders[name], image_size=size)


@pytest.mark.parametrize("model_type", [*REFUSED, "resnet"])
def test_other_types_are_refused_by_name(
    model_type: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    TINY["vit"].save(tmp_path)
    edit_config(tmp_path, model_type=model_type)
    with pytest.raises(ModelError) as caught:
        spec_of(tmp_path)
    [line] = caught.value.problems
    assert f"is of type {model_type!r}: {REFUSED.get(model_type, 'one of these')}" in line


def test_a_deit_with_a_teacher_is_refused(tmp_path: Path) -> None:
    TINY["deit"].save(tmp_path)
    edit_config(tmp_path, architectures=["DeiTForImageClassificationWithTeacher"])
    with pytest.raises(ModelError, match="two classifiers and no loss: a plain one, such as face"):
        spec_of(tmp_path)


@pytest.mark.parametrize("name", [n for n, t in TINY.items() if not FAMILIES[t.model_type].encoder])
def test_what_cannot_be_cut_is_refused_before_launch(name: str, folders: dict[str, Path]) -> None:
    config = TrainConfig(model=str(folders[name]), dataset="digits", plugin="hybrid", tp=2, pp=2)
    with pytest.raises(ConfigError) as caught:
        make_plan(config, 4, Device("cpu"))
    reason = FAMILIES[TINY[name].model_type].why_whole
    assert [line.split(":")[0] for line in caught.value.problems] == ["--tp 2", "--pp 2"]
    assert all(reason in line and "one of ddp, zero1" in line for line in caught.value.problems)


@pytest.mark.parametrize(("asked", "rate"), [(None, 0.1), (0.0, 0.0), (0.3, 0.3)])
def test_drop_path_is_what_was_asked_for_or_the_model_s(
    asked: float | None, rate: float, folders: dict[str, Path]
) -> None:
    config = TrainConfig(model=str(folders["swin"]), dataset="digits", drop_path=asked)
    plan = make_plan(config, 1, Device("cpu"))
    assert plan.config.drop_path == plan.spec.drop_path == rate
    assert build_model(plan.spec, LABELS, 0).config.drop_path_rate == rate


def test_drop_path_where_there_is_none(folders: dict[str, Path]) -> None:
    config = TrainConfig(model=str(folders["siglip"]), dataset="digits", drop_path=0.1)
    with pytest.raises(ConfigError, match="transformers' SigLIP drops no paths"):
        make_plan(config, 1, Device("cpu"))
    config = TrainConfig(
        model=str(folders["dinov2"]), dataset="digits", drop_path=0.1, compile=True
    )
    with pytest.raises(ConfigError, match="--compile fails with --drop-path"):
        make_plan(config, 1, Device("cpu"))


@pytest.mark.parametrize("name", ["convnext", "convnextv2"])
def test_gemini_crashes_on_convolutions_and_is_refused(name: str, folders: dict[str, Path]) -> None:
    config = TrainConfig(model=str(folders[name]), dataset="digits", plugin="gemini")
    with pytest.raises(ConfigError, match="--plugin gemini: crashes in the backward pass"):
        make_plan(config, 1, Device("cpu"))
    assert {layout.name for layout in fitting_layouts(2, spec_of(folders[name]))} == {
        *("ddp", "zero1", "zero2", "hybrid dp2", "hybrid dp2+zero1")
    }


def test_activations_of_convolutions_are_not_computed_again(folders: dict[str, Path]) -> None:
    config = TrainConfig(model=str(folders["convnextv2"]), dataset="digits", grad_checkpoint=True)
    with pytest.raises(ConfigError, match="--grad-checkpoint: transformers cannot compute"):
        make_plan(config, 1, Device("cpu"))


def test_labelling_leaves_nothing_that_training_cannot_read(tmp_path: Path) -> None:
    """transformers keeps BEiT's table of positions, by its size, for all models of a process."""
    side = 40  # of no other test
    values = {**TINY["beit"].encoder, "image_size": side}
    Tiny("beit", values, ("ViTImageProcessorPil", {"size": {"height": side, "width": side}})).save(
        tmp_path
    )
    saved = locate(str(tmp_path))
    Predictor(saved, "cpu").logits(np.zeros((1, 3, side, side), np.uint8))
    model = build_model(saved.spec, saved.labels, 0)
    model(pixel_values=torch.zeros(1, 3, side, side)).logits.sum().backward()
