"""DINOv3: this project's classifier is what transformers alone computes of the saved folder."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import torch
from models import pictures
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    AutoModel,
    DINOv3ViTConfig,
    DINOv3ViTImageProcessor,
    Trainer,
    TrainingArguments,
)

from families import LABELS, SIDE, TINY, edit_config
from vit_colossal.config.reading import TrainConfig
from vit_colossal.data.decoding import decode
from vit_colossal.errors import ModelError
from vit_colossal.model.build import build_model
from vit_colossal.model.dinov3 import DINOv3ViTForImageClassification
from vit_colossal.model.directory import save_directory
from vit_colossal.model.processor import build_processor, preprocessing_of
from vit_colossal.model.weights_fit import check_weights
from vit_colossal.plan.model_spec import read_spec
from vit_colossal.plan.plan import Device, make_plan
from vit_colossal.trained.card import model_card
from vit_colossal.trained.predict import predict
from vit_colossal.trained.saved import locate

PAGE = Path(__file__).parents[3] / "docs" / "models.md"
SNIPPET = re.compile(r"```python\n( *# [^\n]*\n *import torch\n.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the models are published, with a classifier beside."""
    folder = tmp_path_factory.mktemp("dinov3")
    TINY["dinov3_vit"].save(folder)
    edit_config(folder, architectures=["DINOv3ViTModel"], pos_embed_shift=0.1)
    DINOv3ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


@pytest.fixture
def saved(folder: Path, tmp_path: Path) -> Path:
    spec = read_spec(str(folder), {})
    save_directory(tmp_path / "saved", build_model(spec, LABELS, 0), build_processor(spec))
    return tmp_path / "saved"


def test_the_recipe_of_the_card_and_the_page_labels_as_predict_does(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures()[1].save("photo.png")
    card = model_card(locate(str(saved)))
    [recipe], [shown] = SNIPPET.findall(card), SNIPPET.findall(PAGE.read_text(encoding="utf-8"))
    shown = dedent(shown.replace("runs/NAME/model", "path/to/this/directory"))
    assert shown.rstrip() == recipe.rstrip()
    code = recipe.replace("path/to/this/directory", str(saved)).replace("photo.jpg", "photo.png")
    found: dict[str, torch.Tensor] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, found)
    [prediction] = predict(saved, ["photo.png"], device="cpu").predictions
    assert printed.getvalue().strip() == prediction.label
    scores = dict(zip(LABELS, found["logits"].softmax(-1)[0].tolist(), strict=True))
    for label, score in prediction.top:
        assert score == pytest.approx(scores[label], abs=1e-5)


def test_the_saved_backbone_is_that_of_the_published_folder(saved: Path, folder: Path) -> None:
    before, after = load_file(folder / "model.safetensors"), load_file(saved / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    backbone, report = AutoModel.from_pretrained(saved, output_loading_info=True)
    assert type(backbone).__name__ == "DINOv3ViTModel"
    assert not report["missing_keys"]
    assert set(report["unexpected_keys"]) == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_by_the_names_of_modules_are_read_too(
    prefix: str, folder: Path, tmp_path: Path
) -> None:
    """As ``torch`` saves this project's class, in a wrapper or not."""
    model = TINY["dinov3_vit"].save(tmp_path)
    named = {f"{prefix}{key}": tensor for key, tensor in model.state_dict().items()}
    save_file(named, tmp_path / "model.safetensors", metadata={"format": "pt"})
    spec = read_spec(str(tmp_path), {})
    check_weights(spec)
    found = build_model(spec, LABELS, 0).state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in model.state_dict().items())


def test_without_registers_it_is_refused(tmp_path: Path) -> None:
    TINY["dinov3_vit"].save(tmp_path)
    edit_config(tmp_path, num_register_tokens=0)
    with pytest.raises(ModelError, match="num_register_tokens must be a positive integer, got 0"):
        read_spec(str(tmp_path), {})


def test_random_positions_are_switched_off_and_the_plan_says_so(folder: Path) -> None:
    config = TrainConfig(model=str(folder), dataset="digits")
    plan = make_plan(config, 1, Device("cpu"))
    note = "pos_embed_shift 0.1 and pos_embed_rescale 2.0 of the model left out"
    assert any(line.startswith(note) for line in plan.notes)
    model = build_model(plan.spec, LABELS, 0).train()
    pixels = torch.randn(2, 3, SIDE, SIDE)
    trained = [model(pixels).logits for _ in range(2)]
    assert torch.equal(*trained)
    torch.testing.assert_close(model.eval()(pixels).logits, trained[0], rtol=0, atol=0)
    own = DINOv3ViTConfig()
    row = plan.spec.family
    drawn = {key for key in vars(own) if key.startswith("pos_embed_")}
    assert drawn == set(row.switched_off)


def test_its_processor_s_pixels_are_within_one_level_and_what_is_saved_is_exact(
    folder: Path, saved: Path
) -> None:
    spec = read_spec(str(folder), {})
    how = preprocessing_of(spec)
    [note] = how.notes
    assert "a DINOv3ViTImageProcessor, read and saved as a ViTImageProcessor" in note
    ours = np.stack([decode(picture, how) for picture in pictures()])
    mean, std = (np.array(values)[:, None, None] for values in (how.mean, how.std))
    own = AutoImageProcessor.from_pretrained(folder)
    assert isinstance(own, DINOv3ViTImageProcessor)
    theirs = np.concatenate([own(x, return_tensors="np")["pixel_values"] for x in pictures()])
    assert np.abs((theirs * std + mean) * 255 - ours).max() <= 1 + 1e-4  # and rounding in fp32
    again = AutoImageProcessor.from_pretrained(saved, backend="pil")
    pixels = [again(x, do_rescale=False, do_normalize=False)["pixel_values"][0] for x in pictures()]
    assert np.array_equal(np.stack(pixels), ours)
    assert (tuple(again.image_mean), tuple(again.image_std)) == (how.mean, how.std)
    assert preprocessing_of(read_spec(str(saved), {})).notes == ()


def test_transformers_trainer_trains_it(saved: Path, tmp_path: Path) -> None:
    """With labels it gives a loss, and what Trainer saves is read again."""
    model = DINOv3ViTForImageClassification.from_pretrained(saved)
    rows = [{"pixel_values": torch.randn(3, SIDE, SIDE), "labels": n % 3} for n in range(8)]
    settings = {"max_steps": 2, "report_to": "none", "use_cpu": True, "disable_tqdm": True}
    arguments = TrainingArguments(str(tmp_path / "out"), save_strategy="no", **settings)
    trainer = Trainer(model, arguments, train_dataset=rows)
    trainer.train()
    trainer.save_model(str(tmp_path / "again"))
    spec = read_spec(str(tmp_path / "again"), {})
    check_weights(spec)
    found = build_model(spec, LABELS, 0).state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in model.state_dict().items())
