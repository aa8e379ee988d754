"""Published names are those that transformers itself writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from vit_colossal.families.names import family_of, named_weights, plain_names
from vit_colossal.model.directory import ModelNotWritten, save_directory

SIZES = {"hidden_size": 8, "num_hidden_layers": 12, "num_attention_heads": 2, "image_size": 8}
SIZES |= {"intermediate_size": 16, "patch_size": 4, "num_labels": 3}


@pytest.fixture
def model() -> ViTForImageClassification:
    torch.manual_seed(0)
    return ViTForImageClassification(ViTConfig(**SIZES))


def test_every_name_is_the_one_that_transformers_writes(
    model: ViTForImageClassification, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    weights = dict(named_weights(model))
    assert weights.keys() == written.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in written.items())


def test_published_names_stay(model: ViTForImageClassification) -> None:
    for name, _ in named_weights(model):
        assert family_of(model).published(name) == name


@pytest.mark.parametrize(
    ("names", "plain"),
    [
        (["module.vit.a", "module.classifier.b"], ["vit.a", "classifier.b"]),
        (["module._orig_mod.vit.a", "module._orig_mod.b"], ["vit.a", "b"]),
        (["_orig_mod.module.model.vit.a", "_orig_mod.module.model.b"], ["vit.a", "b"]),
        (["vit.layers.0._orig_mod.a", "vit.layers.1.a"], ["vit.layers.0.a", "vit.layers.1.a"]),
        (["_fsdp_wrapped_module.vit.layers.0._checkpoint_wrapped_module.a"], ["vit.layers.0.a"]),
        # On every name, or none: a module of the person's own is not a wrapper.
        (["model.vit.a", "classifier.b"], ["model.vit.a", "classifier.b"]),
        ([], []),
    ],
)
def test_what_wrappers_add_is_taken_off(names: list[str], plain: list[str]) -> None:
    assert plain_names(names) == dict(zip(names, plain, strict=True))


def test_two_models_in_one_file_are_not_mixed() -> None:
    with pytest.raises(ValueError, match="are both vit"):
        plain_names(["vit.a", "_orig_mod.vit.a"])


def test_a_saved_directory_holds_every_tensor(
    model: ViTForImageClassification, tmp_path: Path
) -> None:
    save_directory(tmp_path, model, ViTImageProcessor())
    loaded = ViTForImageClassification.from_pretrained(tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


@pytest.mark.parametrize("fault", ["nothing", "a tensor less", "another value", "no config"])
def test_a_directory_without_the_model_is_an_error(
    fault: str,
    model: ViTForImageClassification,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A library that writes less than it was given must not end a run with exit code 0."""
    import huggingface_hub
    from huggingface_hub import save_torch_state_dict

    def write(weights: dict[str, torch.Tensor], folder: Path, **options: object) -> None:
        weights = dict(weights)
        if fault == "nothing":
            return
        if fault == "a tensor less":
            weights.popitem()
        if fault == "another value":
            weights["classifier.bias"] = weights["classifier.bias"] + 1
        if fault == "no config":
            (folder / "config.json").unlink()
        save_torch_state_dict(weights, folder, **options)

    monkeypatch.setattr(huggingface_hub, "save_torch_state_dict", write)
    with pytest.raises(ModelNotWritten):
        save_directory(tmp_path, model, ViTImageProcessor())
