"""A model of somebody else's, with settings of its own, trained in two stages, then used."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    DeiTImageProcessorPil,
    ViTConfig,
    ViTForImageClassification,
)

from launching import ROOT, Finished, run, warm
from vit_colossal import predict

#: In the model's order; the folders are listed in the other.
OLD = ("zebra", "grüne Äpfel")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Oblong pictures: what is cut off matters."""
    folder, random = tmp_path_factory.mktemp("photos"), np.random.RandomState(0)
    for label in OLD:
        (folder / label).mkdir()
        for number in range(12):
            pixels = random.randint(0, 256, (20 + number, 40, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "image_size": 16, "patch_size": 4}
    names = dict(enumerate(OLD))
    config = ViTConfig(
        **sizes, initializer_range=0.2, id2label=names, label2id={n: i for i, n in names.items()}
    )
    ViTForImageClassification(config).save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text())
    values |= {"output_attentions": True, "return_dict": False}
    (folder / "config.json").write_text(json.dumps(values))
    DeiTImageProcessorPil(
        size={"height": 20, "width": 20},
        crop_size={"height": 16, "width": 16},
        rescale_factor=1 / 127.5,
        do_normalize=False,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(base: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    command = warm("train.py", "--nproc", "2", "--plugin", "hybrid", "--pp", "2")
    command += ["--model", str(base), "--dataset", str(photos), "--device", "cpu"]
    command += ["--image-size", "24", "--global-batch-size", "8", "--max-steps", "2", "--lr", "0"]
    finished = run([*command, "--output-dir", str(run_dir)], timeout_s=300, cwd=ROOT)
    assert finished.returncode == 0, finished.output
    return finished


def folder_of(finished: Finished) -> Path:
    line = next(x for x in finished.output.splitlines() if "model saved to " in x)
    return Path(line.partition("model saved to ")[2].strip())


def test_the_plan_says_what_was_made_of_the_model(trained: Finished) -> None:
    assert "interpolated from 4 x 4 to 6 x 6 patches" in trained.output
    assert "classifier: kept, matched by the names of its labels, and put in their order" in (
        trained.output
    )


def test_the_saved_model_is_the_base_with_nothing_but_its_size_changed(
    trained: Finished, base: Path
) -> None:
    """At a learning rate of 0: transformers' own interpolation, and rows under their names."""
    before = ViTForImageClassification.from_pretrained(base, return_dict=True).eval()
    after = ViTForImageClassification.from_pretrained(folder_of(trained)).eval()
    assert after.config.image_size == 24
    assert after.config.return_dict and not after.config.output_attentions
    images = torch.randn(4, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = before(pixel_values=images, interpolate_pos_encoding=True).logits
        found = after(pixel_values=images).logits
    order = [after.config.label2id[label] for label in OLD]
    torch.testing.assert_close(found[:, order], expected, atol=1e-5, rtol=0)


def test_transformers_gets_the_scores_that_predict_gives(trained: Finished, photos: Path) -> None:
    folder = folder_of(trained)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    assert dict(processor.size) == {"height": 30, "width": 30}
    model = ViTForImageClassification.from_pretrained(folder).eval()
    files = sorted(str(file) for file in photos.rglob("*.png"))
    inputs = processor([Image.open(file) for file in files], return_tensors="pt")
    with torch.inference_mode():
        expected = model(**inputs).logits.softmax(-1)
    for prediction, row in zip(
        predict(folder, files, device="cpu").predictions, expected, strict=True
    ):
        for label, score in prediction.top:
            assert score == pytest.approx(float(row[model.config.label2id[label]]), abs=1e-5)


def test_the_run_goes_on_from_its_own_model(trained: Finished, photos: Path) -> None:
    """Same labels, same order, same size: the plan has nothing to change."""
    folder = folder_of(trained)
    command = warm("train.py", "--dry-run", "--model", str(folder), "--device", "cpu")
    command += ["--dataset", str(photos), "--global-batch-size", "8"]
    finished = run(command, timeout_s=120, cwd=ROOT)
    assert finished.returncode == 0, finished.output
    assert "classifier: kept, as the model has the data's labels" in finished.output
    assert "image processor" not in finished.output
    assert "interpolated" not in finished.output
