"""A DINOv2 from the hub, as people name it: trained in two stages, resumed elsewhere, used."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForImageClassification

from families import SIDE, TINY
from hub_server import Hub, Repository, serving
from launching import Finished, environment, run
from vit_colossal import predict
from vit_colossal.trained.export import export_hf
from vit_colossal.trained.saved import locate

NAME = "facebook/dinov2-small"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos, in which the commands run."""
    folder, random = tmp_path_factory.mktemp("work"), np.random.RandomState(0)
    for label in ("mould", "rust"):
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(12):
            pixels = random.randint(0, 256, (40 + number, 60, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / label / f"{number}.png")
    return folder


def published(folder: Path) -> dict[str, bytes]:
    """The files of a base model: without a classifier, and without what its class puts in front."""
    TINY["dinov2"].save(folder)
    file = folder / "model.safetensors"
    weights = {k: v for k, v in load_file(file).items() if not k.startswith("classifier.")}
    bare = {key.removeprefix("dinov2."): tensor for key, tensor in weights.items()}
    save_file(bare, file, metadata={"format": "pt"})
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def command(work: Path, hub: Hub, *flags: str) -> Finished:
    settings = {"HF_HOME": str(work / "hf"), "HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0"}
    settings |= {"VIT_COLOSSAL_CACHE": str(work / "cache"), "NO_PROXY": "127.0.0.1,localhost"}
    train = [sys.executable, "-m", "vit_colossal", "train", "--device", "cpu", "--nproc", "2"]
    train += ["--output-dir", "run", "--dataset", "photos", "--model", NAME]
    train += ["--global-batch-size", "8", "--lr", "1e-3", "--drop-path", "0.2"]
    finished = run([*train, *flags], timeout_s=300, cwd=work, env=environment(**settings))
    assert finished.returncode == 0, finished.output
    return finished


@pytest.fixture(scope="module")
def trained(work: Path) -> Finished:
    hub = Hub()
    hub.repositories["models", NAME] = Repository(published(work / "published"))
    with serving(hub):
        first = command(work, hub, "--plugin", "hybrid", "--pp", "2", "--max-steps", "2")
        command(work, hub, "--plugin", "zero2", "--max-steps", "4", "--resume", "auto")
    return first


@pytest.mark.slow
def test_the_plan_says_how_it_is_trained(trained: Finished) -> None:
    assert f"image size {SIDE}, the weights' is 48: the model interpolates" in trained.output
    assert f"center of {SIDE} x {SIDE} px" in trained.output
    assert "classifier: new, as the model brings none" in trained.output
    assert "drop path 0.2" in trained.output


@pytest.mark.slow
def test_transformers_gets_the_scores_that_predict_gives(trained: Finished, work: Path) -> None:
    folder = work / "run" / "model"
    export_hf(locate(str(work / "run"), "last"), work / "exported")
    for place in (folder, work / "exported"):
        processor = AutoImageProcessor.from_pretrained(place, backend="pil")
        model = AutoModelForImageClassification.from_pretrained(place).eval()
        files = sorted(str(file) for file in (work / "photos").rglob("*.png"))
        inputs = processor([Image.open(file) for file in files], return_tensors="pt")
        with torch.inference_mode():
            expected = model(**inputs).logits.softmax(-1)
        found = predict(folder, files, device="cpu").predictions
        for prediction, row in zip(found, expected, strict=True):
            for label, score in prediction.top:
                assert score == pytest.approx(float(row[model.config.label2id[label]]), abs=1e-5)


@pytest.mark.slow
def test_what_gets_no_gradient_stays_and_the_rest_moves(trained: Finished, work: Path) -> None:
    before = load_file(work / "published" / "model.safetensors")
    after = load_file(work / "run" / "model" / "model.safetensors")
    moved = {k for k, tensor in before.items() if not torch.equal(after[f"dinov2.{k}"], tensor)}
    assert before.keys() - moved == {"embeddings.mask_token"}
