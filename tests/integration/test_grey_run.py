"""A model of grey images, from photos of every mode to ONNX."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from families import GREY, SIDE
from launching import run, warm
from vit_colossal import predict
from vit_colossal.cli import main

LABELS = ("mould", "rust")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos, half of them in colours, and a run on them."""
    work, random = tmp_path_factory.mktemp("grey"), np.random.RandomState(0)
    for label in LABELS:
        (work / "photos" / label).mkdir(parents=True)
        for number in range(12):
            pixels = random.randint(0, 256, (40 + number, 60, 3)).astype(np.uint8)
            picture = Image.fromarray(pixels).convert("L" if number % 2 else "RGB")
            picture.save(work / "photos" / label / f"{number}.png")
    GREY.save(work / "base")
    command = warm("-m", "vit_colossal", "train", "--device", "cpu", "--dataset", "photos")
    command += ["--model", "base", "--output-dir", "run", "--freeze", "none"]
    command += ["--global-batch-size", "8", "--max-steps", "3", "--mixup", "0.2"]
    command += ["--auto-augment", "randaugment", "--random-erasing", "0.5"]
    finished = run(command, timeout_s=120, cwd=work)
    assert finished.returncode == 0, finished.output
    assert "num_channels is 1: images are read in Pillow's mode L" in finished.output
    return work


def test_the_saved_model_is_one_of_grey_images(work: Path) -> None:
    folder = work / "run" / "model"
    assert json.loads((folder / "config.json").read_text())["num_channels"] == 1
    assert json.loads((folder / "preprocessor_config.json").read_text())["image_mean"] == [0.4]


def test_the_card_says_how_to_use_it(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = work / "photos" / "rust" / "0.png"
    (expected,) = predict(work / "run", photo, device="cpu").predictions
    (code,) = re.findall(r"```python\n(.*?)```", (work / "run/model/README.md").read_text(), re.S)
    monkeypatch.chdir(work / "run" / "model")
    exec(code.replace("path/to/this/directory", ".").replace("photo.jpg", str(photo)), {})
    assert capsys.readouterr().out.split() == [expected.label]


def test_it_is_evaluated_and_shown(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    assert main(["eval", "run", "--device", "cpu"]) == 0
    assert re.search(r"accuracy \S+ \(\d+/\d+\)", capsys.readouterr().out)
    assert main(["report", "run"]) == 0
    assert 'src="data:image/jpeg;base64,' in (work / "run" / "report.html").read_text()


def test_onnx_takes_one_channel(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.chdir(work)
    assert main(["export", "run", "onnx", "--format", "onnx"]) == 0
    session = onnxruntime.InferenceSession("onnx/model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 1, SIDE, SIDE]
