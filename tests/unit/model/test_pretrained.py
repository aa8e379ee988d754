"""What is made of other people's model folders: heads, image sizes, forms of outputs, weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models import LABELS, edit, rewrite, save_model
from safetensors.torch import load_file
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from vit_colossal.errors import ModelError
from vit_colossal.model.build import build_model
from vit_colossal.model.directory import ModelNotWritten, save_directory
from vit_colossal.model.head import match_head
from vit_colossal.model.weights_fit import check_weights
from vit_colossal.plan.model_spec import read_labels, read_spec
from vit_colossal.trained.saved import load_model, locate

SEED = 7
FOUR = ("Aal", "Zander", "blue whale", "eel_pout")


def built(folder: Path, labels: tuple[str, ...], **overrides: int) -> ViTForImageClassification:
    spec = read_spec(str(folder), overrides)
    check_weights(spec)
    return build_model(spec, labels, SEED).eval()


def head_of(model: ViTForImageClassification) -> dict[str, torch.Tensor]:
    """Each label's row."""
    weights = torch.cat([model.classifier.weight, model.classifier.bias[:, None]], dim=1)
    return {name: weights[i].detach() for i, name in model.config.id2label.items()}


def same(first: ViTForImageClassification, second: ViTForImageClassification) -> bool:
    theirs = second.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in first.state_dict().items())


# --- Heads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "how"),
    [
        (FOUR, "as the model has the data's labels"),
        (FOUR[::-1], "and put in their order"),
        (("blue whale", "Aal", "eel_pout", "Zander"), "and put in their order"),
        (("aal", "ZANDER", "blue_whale", "eel pout"), "whatever their case"),
        (("Eel-Pout", "Blue Whale", "zander", "AAL"), "whatever their case"),
    ],
)
def test_rows_go_with_the_names(labels: tuple[str, ...], how: str, tmp_path: Path) -> None:
    base = head_of(save_model(tmp_path, FOUR))
    loose = {name.casefold().replace("_", " ").replace("-", " "): row for name, row in base.items()}
    for name, row in head_of(built(tmp_path, labels)).items():
        wanted = name.casefold().replace("_", " ").replace("-", " ")
        assert torch.equal(row, loose[wanted]), name
    note = match_head(read_spec(str(tmp_path), {}), labels).note
    assert note.startswith("classifier: kept") and how in note


@pytest.mark.parametrize(
    ("old", "labels", "why"),
    [
        (FOUR, ("rust", "mould", "scab", "ok"), "are not the data's 4 ('rust', 'mould', 'scab'"),
        (FOUR, FOUR[:2], "the model's 4 labels"),
        (FOUR, (*FOUR, "fifth"), "the data's 5"),
        (("LABEL_0", "LABEL_1"), ("cat", "dog"), "does not name its 2 labels"),
        # Which of the two would "ab" be?
        (("a b", "a_b"), ("ab", "a-b"), "are not the data's"),
        # A name twice says nothing of which row is whose.
        (("crane", "crane"), ("crane", "heron"), "are not the data's"),
        (("0", "1"), ("1", "2"), "are not the data's"),
    ],
)
def test_other_names_get_a_new_head(
    old: tuple[str, ...], labels: tuple[str, ...], why: str, tmp_path: Path
) -> None:
    save_model(tmp_path, ("x", *old[1:]))
    edit(tmp_path / "config.json", id2label=dict(enumerate(old)))
    model, again = built(tmp_path, labels), built(tmp_path, labels)
    assert same(model, again)
    assert model.classifier.weight.shape[0] == len(labels)
    assert not model.classifier.bias.any()
    note = match_head(read_spec(str(tmp_path), {}), labels).note
    assert note.startswith("classifier: new") and why in note
    other_seed = build_model(read_spec(str(tmp_path), {}), labels, SEED + 1)
    assert not torch.equal(model.classifier.weight, other_seed.classifier.weight)
    stored = load_file(tmp_path / "model.safetensors")["classifier.weight"]
    assert not any(torch.equal(a, b) for a in model.classifier.weight for b in stored)


def test_a_new_head_is_the_same_whatever_was_there(tmp_path: Path) -> None:
    """With as many outputs, with more, or with none: a function of the seed alone."""
    heads = []
    for number, labels in enumerate((("x", "y"), FOUR)):
        save_model(tmp_path / str(number), labels)
        heads.append(built(tmp_path / str(number), LABELS).classifier.weight)
    save_model(tmp_path / "none")
    rewrite(
        tmp_path / "none", lambda weights: {k: v for k, v in weights.items() if "class" not in k}
    )
    heads.append(built(tmp_path / "none", LABELS).classifier.weight)
    assert torch.equal(heads[0], heads[1])
    assert torch.equal(heads[0], heads[2])
    assert "brings none" in match_head(read_spec(str(tmp_path / "none"), {}), LABELS).note


def test_a_hundred_and_twenty_labels_in_another_order(tmp_path: Path) -> None:
    labels = tuple(f"Größe {number}" for number in range(120))
    base = head_of(save_model(tmp_path, labels))
    mixed = tuple(sorted(labels))
    assert mixed != labels
    assert all(torch.equal(base[n], row) for n, row in head_of(built(tmp_path, mixed)).items())


def test_a_configuration_that_does_not_count_its_outputs(tmp_path: Path) -> None:
    save_model(tmp_path, FOUR)
    edit(tmp_path / "config.json", id2label={"0": "Aal", "1": "Zander"}, num_labels=7)
    note = match_head(read_spec(str(tmp_path), {}), ("Aal", "Zander")).note
    assert "it has 4 outputs, config.json names 2" in note
    assert built(tmp_path, ("Aal", "Zander")).config.num_labels == 2
    with pytest.raises(ModelError, match="has 4 rows"):
        load_model(locate(str(tmp_path)))


def test_num_labels_beside_id2label_changes_nothing(tmp_path: Path) -> None:
    model = save_model(tmp_path, FOUR)
    edit(tmp_path / "config.json", num_labels=9)
    assert same(load_model(locate(str(tmp_path))), model)
    assert same(built(tmp_path, FOUR), model)


# --- Settings of outputs --------------------------------------------------------------------------

FORMS: dict[str, dict[str, Any]] = {
    "tuples": {"return_dict": False},
    "for tracing": {"torchscript": True},
    "attention maps": {"output_attentions": True},
    "hidden states": {"output_hidden_states": True},
    "all of them": {"return_dict": False, "output_attentions": True, "torchscript": True},
}


@pytest.mark.parametrize("name", FORMS)
def test_the_form_of_outputs_is_not_taken_over(name: str, tmp_path: Path) -> None:
    model = save_model(tmp_path)
    edit(tmp_path / "config.json", **FORMS[name])
    for found in (load_model(locate(str(tmp_path))), built(tmp_path, LABELS)):
        assert same(found, model)
        result = found(pixel_values=torch.zeros(1, 3, 16, 16))
        assert list(result) == ["logits"]
        save_directory(tmp_path / "saved", found, ViTImageProcessorPil())
        written = json.loads((tmp_path / "saved" / "config.json").read_text())
        for key in FORMS[name]:
            assert written.get(key) in (None, key == "return_dict")
        assert written["problem_type"] == "single_label_classification"


@pytest.mark.parametrize("kind", ["multi_label_classification", "regression"])
def test_a_model_of_another_problem_is_trained_but_not_read(kind: str, tmp_path: Path) -> None:
    save_model(tmp_path)
    edit(tmp_path / "config.json", problem_type=kind)
    assert built(tmp_path, ("a", "b")).config.problem_type == "single_label_classification"
    with pytest.raises(ModelError, match=kind):
        read_labels(str(tmp_path))


def test_a_model_of_one_output_is_trained(tmp_path: Path) -> None:
    save_model(tmp_path, ("age",))
    edit(tmp_path / "config.json", problem_type="regression")
    assert built(tmp_path, LABELS).config.num_labels == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [("pruned_heads", {"0": [1]}), ("per_layer_config", {"0": {"intermediate_size": 8}})],
)
def test_layers_of_other_shapes_are_refused(key: str, value: object, tmp_path: Path) -> None:
    save_model(tmp_path)
    edit(tmp_path / "config.json", **{key: value})
    with pytest.raises(ModelError, match=key):
        read_spec(str(tmp_path), {})


def test_no_pruned_heads_are_none(tmp_path: Path) -> None:
    model = save_model(tmp_path)
    edit(tmp_path / "config.json", pruned_heads={})
    assert same(built(tmp_path, LABELS), model)


# --- Image sizes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 20, 32, 64])
def test_another_image_size_interpolates_as_transformers_does(size: int, tmp_path: Path) -> None:
    base = save_model(tmp_path)
    model = built(tmp_path, LABELS, image_size=size)
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = base(pixel_values=images, interpolate_pos_encoding=True).logits
        torch.testing.assert_close(model(pixel_values=images).logits, expected, atol=1e-5, rtol=0)
    save_directory(tmp_path / "saved", model, ViTImageProcessorPil())
    assert read_spec(str(tmp_path / "saved"), {}).image_size == size
    assert same(load_model(locate(str(tmp_path / "saved"))), model)


def test_the_model_s_own_image_size_changes_nothing(tmp_path: Path) -> None:
    model = save_model(tmp_path)
    assert same(built(tmp_path, LABELS, image_size=16), model)
    assert read_spec(str(tmp_path), {"image_size": 16}) == read_spec(str(tmp_path), {})


@pytest.mark.parametrize(
    ("size", "reason"),
    [(18, "image_size 18 is not divisible by patch_size 4: the nearest is 16"), (0, "positive")],
)
def test_an_image_size_that_cannot_be(size: int, reason: str, tmp_path: Path) -> None:
    save_model(tmp_path)
    with pytest.raises(ModelError, match=reason):
        read_spec(str(tmp_path), {"image_size": size})


# --- Weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "name", ["classifier.bias", "vit.embeddings.cls_token", "vit.layernorm.weight"]
)
def test_weights_that_are_not_finite_are_named(value: str, name: str, tmp_path: Path) -> None:
    save_model(tmp_path)

    def spoil(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights[name].view(-1)[1] = float(value)
        return weights

    rewrite(tmp_path, spoil)
    with pytest.raises(ModelError, match=f"{name} has 1 of .* not finite"):
        check_weights(read_spec(str(tmp_path), {}))


def test_a_model_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    model = save_model(tmp_path / "base")
    with torch.no_grad():
        model.classifier.weight[0, 0] = float("nan")
    with pytest.raises(ModelNotWritten, match="weight is not finite"):
        save_directory(tmp_path / "saved", model, ViTImageProcessorPil())
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_become_fp32(dtype: torch.dtype, tmp_path: Path) -> None:
    save_model(tmp_path)
    rewrite(tmp_path, lambda weights: {name: t.to(dtype) for name, t in weights.items()})
    edit(tmp_path / "config.json", dtype=str(dtype).removeprefix("torch."))
    model = built(tmp_path, LABELS)
    stored = load_file(tmp_path / "model.safetensors")
    assert model.classifier.weight.dtype == torch.float32
    assert torch.equal(model.classifier.weight, stored["classifier.weight"].float())


def test_weights_in_several_files(tmp_path: Path) -> None:
    model = save_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path, max_shard_size="5KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert same(built(tmp_path, LABELS), model)


def _averaged(model: torch.nn.Module) -> torch.nn.Module:
    averaged = torch.optim.swa_utils.AveragedModel(model)
    del averaged._buffers["n_averaged"]
    return averaged


def _compiled_layers(model: torch.nn.Module) -> torch.nn.Module:
    for number, layer in enumerate(model.vit.layers):
        model.vit.layers[number] = torch.compile(layer)
    return model


def _lightning(model: torch.nn.Module) -> torch.nn.Module:
    outer = torch.nn.Module()
    outer.model = model
    return outer


@pytest.mark.parametrize(
    "wrap",
    [
        torch.compile,
        torch.nn.DataParallel,
        lambda model: torch.nn.DataParallel(torch.compile(model)),
        lambda model: _lightning(torch.compile(model)),
        _lightning,
        _compiled_layers,
        _averaged,
    ],
    ids=["compiled", "module", "both", "model, compiled", "model", "layers", "averaged"],
)
def test_names_that_wrappers_made(
    wrap: Callable[[torch.nn.Module], torch.nn.Module], tmp_path: Path
) -> None:
    """The state dicts themselves, as people save them: in the modules' names of this release."""
    model = save_model(tmp_path)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    rewrite(tmp_path, lambda _: {k: v.clone() for k, v in wrap(model).state_dict().items()})
    found = built(tmp_path, LABELS).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert same(load_model(locate(str(tmp_path))), built(tmp_path, LABELS))


@pytest.mark.parametrize("prefix", ["backbone.", "student.vit_model.", "net.module."])
def test_names_of_an_unknown_module_are_shown(prefix: str, tmp_path: Path) -> None:
    save_model(tmp_path)
    rewrite(tmp_path, lambda weights: {prefix + name: value for name, value in weights.items()})
    with pytest.raises(ModelError, match=f"they are named like '{prefix}"):
        check_weights(read_spec(str(tmp_path), {}))


def test_a_preset_is_what_it_was() -> None:
    """The configuration, and by it the weights of a seed, are ViTConfig's own."""
    spec = read_spec("vit-micro", {"hidden_dropout_prob": 0.1})
    names = {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}
    torch.manual_seed(3)
    expected = ViTForImageClassification(ViTConfig(**spec.overrides, **names))
    model = build_model(spec, ("a", "b"), 3)
    assert same(model, expected)
    expected.config.problem_type = "single_label_classification"
    assert model.config.to_dict() == expected.config.to_dict()
