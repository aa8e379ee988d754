"""Model folders that other programs wrote: spellings of labels, heads, weights without a place."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models import LABELS, edit, rewrite, save_model
from safetensors.torch import load_file, save_file

from vit_colossal.errors import ModelError
from vit_colossal.model.build import build_model
from vit_colossal.model.head import match_head
from vit_colossal.model.weights_fit import check_weights
from vit_colossal.plan.model_spec import read_spec
from vit_colossal.trained.saved import load_model, locate

Weights = dict[str, torch.Tensor]
THREE = ("Äpfel", "bee", "grüner Tee")


def note(folder: Path, labels: tuple[str, ...] = LABELS) -> str:
    return match_head(read_spec(str(folder), {}), labels).note


@pytest.mark.parametrize(
    "spelled",
    [
        lambda label: unicodedata.normalize("NFD", label),
        lambda label: f"\ufeff{label}",
        lambda label: f"{label}\u200b ",
        lambda label: unicodedata.normalize("NFD", label).upper(),
        lambda label: label.replace(" ", "\u00a0"),
    ],
    ids=["decomposed", "byte order mark", "zero width", "decomposed capitals", "fixed blank"],
)
def test_labels_that_look_the_same_are_the_same(
    spelled: Callable[[str], str], tmp_path: Path
) -> None:
    base = save_model(tmp_path, tuple(map(spelled, THREE[::-1])))
    assert note(tmp_path, THREE).startswith("classifier: kept, matched by the names of its labels")
    model = build_model(read_spec(str(tmp_path), {}), THREE, 7)
    assert torch.equal(model.classifier.weight, base.classifier.weight.flip(0))


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        ("weight", (2, 8), "classifier.weight is [2, 8], the model gives 16 features"),
        ("weight", (2, 16, 1), "classifier.weight is [2, 16, 1]"),
        ("weight", (32,), "classifier.weight is [32]"),
        ("weight", (2, 32), "classifier.weight is [2, 32]"),
        ("bias", (5,), "classifier.bias is [5], classifier.weight has 2 rows"),
        ("bias", (2, 1), "classifier.bias is [2, 1]"),
    ],
)
def test_a_classifier_that_does_not_fit_is_new(
    name: str, shape: tuple[int, ...], reason: str, tmp_path: Path
) -> None:
    save_model(tmp_path)
    rewrite(tmp_path, lambda weights: {**weights, f"classifier.{name}": torch.ones(shape)})
    assert note(tmp_path).startswith(f"classifier: new: {reason}")
    model = build_model(read_spec(str(tmp_path), {}), LABELS, 7)
    assert not (model.classifier.weight == 1).any()
    with pytest.raises(ModelError) as refused:
        load_model(locate(str(tmp_path)))
    assert reason in str(refused.value)


@pytest.mark.parametrize("name", ["fc", "head", "classifier.0", "heads.head", "cls_classifier"])
def test_a_classifier_of_another_name_is_named(name: str, tmp_path: Path) -> None:
    save_model(tmp_path)
    rewrite(
        tmp_path,
        lambda weights: {k.replace("classifier.", f"{name}."): weights[k] for k in weights},
    )
    text = note(tmp_path)
    assert text.startswith("classifier: new, as the model brings none of that name: ")
    assert f"{name}.weight" in text and text.endswith("not used")


def test_a_backbone_alone_has_nothing_to_name(tmp_path: Path) -> None:
    save_model(tmp_path)
    rewrite(
        tmp_path,
        lambda weights: {
            name.removeprefix("vit."): value
            for name, value in weights.items()
            if "class" not in name
        },
    )
    assert note(tmp_path) == "classifier: new, as the model brings none"


_LAYER = "vit.encoder.layer.0"


@pytest.mark.parametrize(
    "name",
    [
        f"{_LAYER}.layer_scale1.lambda1",
        f"{_LAYER}.attention.attention.query.lora_A.weight",
        f"{_LAYER}.attention.attention.q_norm.weight",
        f"{_LAYER}.attention.attention.relative_position_bias.relative_position_bias_table",
        "vit.embeddings.register_tokens",
        "vit.embeddings.distillation_token",
    ],
)
def test_weights_without_a_place_are_refused(name: str, tmp_path: Path) -> None:
    """Whoever trained them computed something else with the rest."""
    save_model(tmp_path)
    rewrite(tmp_path, lambda weights: {**weights, name: torch.ones(4, 16)})
    with pytest.raises(ModelError, match=r"which a ViT of this config.json has not") as refused:
        check_weights(read_spec(str(tmp_path), {}))
    assert name.removeprefix("vit.") in str(refused.value)


def test_biases_that_the_configuration_denies_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path)
    edit(tmp_path / "config.json", qkv_bias=False)
    with pytest.raises(ModelError, match=r"attention\.(query|key|value)\.bias, which a ViT"):
        check_weights(read_spec(str(tmp_path), {}))


@pytest.mark.parametrize(
    "name",
    [
        "vit.pooler.dense.weight",
        "vit.embeddings.mask_token",
        "decoder.0.weight",
        "text_model.encoder.layers.0.mlp.fc1.weight",
        "logit_scale",
    ],
)
def test_weights_of_other_heads_and_towers_do_no_harm(name: str, tmp_path: Path) -> None:
    model = save_model(tmp_path)
    rewrite(tmp_path, lambda weights: {**weights, name: torch.ones(4, 16)})
    check_weights(read_spec(str(tmp_path), {}))
    found = build_model(read_spec(str(tmp_path), {}), LABELS, 7).state_dict()
    assert all(torch.equal(value, found[key]) for key, value in model.state_dict().items())


def test_a_weight_of_two_files_is_refused(tmp_path: Path) -> None:
    model = save_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path, max_shard_size="5KB")
    first, second = sorted(tmp_path.glob("model-0*"))[:2]
    name, value = next(iter(load_file(first).items()))
    save_file({**load_file(second), name: value + 5}, second)
    with pytest.raises(ModelError, match=f"{name} is in {first.name} and in {second.name}"):
        check_weights(read_spec(str(tmp_path), {}))


def test_a_pointer_of_git_lfs_is_called_so(tmp_path: Path) -> None:
    save_model(tmp_path)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n"
    (tmp_path / "model.safetensors").write_text(pointer)
    with pytest.raises(ModelError, match="a pointer of git LFS: run git lfs pull"):
        check_weights(read_spec(str(tmp_path), {}))


def test_weights_of_two_modules_are_shown_by_one_of_a_block(tmp_path: Path) -> None:
    """Not by the classifier, whose name is right."""
    save_model(tmp_path)
    rewrite(
        tmp_path,
        lambda weights: {
            name if "class" in name else f"model.{name}": value for name, value in weights.items()
        },
    )
    with pytest.raises(ModelError, match=r"they are named like 'model.vit.encoder.layer"):
        check_weights(read_spec(str(tmp_path), {}))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"hidden_act": "gegelu"}, "gegelu"),
        ({"layer_norm_eps": "1e-6"}, "layer_norm_eps"),
        ({"hidden_dropout_prob": 2}, "ropout"),
        ({"dtype": "float3"}, "float3"),
        ({"attention_probs_dropout_prob": "none"}, "attention_probs_dropout_prob"),
    ],
)
def test_what_transformers_says_of_a_configuration_is_said(
    settings: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    save_model(tmp_path)
    edit(tmp_path / "config.json", **settings)
    with pytest.raises(ModelError, match=reason):
        check_weights(read_spec(str(tmp_path), {}))


@pytest.mark.parametrize(
    "settings",
    [
        {"_attn_implementation": "flash_attention_2"},
        {"attn_implementation": "flash_attention_3"},
        {"_attn_implementation": "some/kernels"},
        {"use_return_dict": False},
        {"use_return_dict": False, "return_dict": False},
    ],
)
def test_another_program_s_kernels_are_not_taken_over(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    model = save_model(tmp_path)
    edit(tmp_path / "config.json", **settings)
    spec = read_spec(str(tmp_path), {})
    check_weights(spec)
    found = build_model(spec, LABELS, 7)
    assert torch.equal(found.classifier.weight, model.classifier.weight)
    assert not settings.keys() & found.config.to_dict().keys() - {"return_dict"}
