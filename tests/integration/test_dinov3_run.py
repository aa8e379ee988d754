"""A DINOv3 as it is published: trained in two stages, resumed elsewhere, taken by every command."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DINOv3ViTImageProcessor

from families import SIDE, TINY
from launching import Finished, run, warm
from vit_colossal.cli import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the backbone alone, and a run on it."""
    work = tmp_path_factory.mktemp("work")
    TINY["dinov3_vit"].save(work / "base")
    DINOv3ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(work / "base")
    file = work / "base" / "model.safetensors"
    kept = {k: v for k, v in load_file(file).items() if not k.startswith("classifier.")}
    save_file(kept, file, metadata={"format": "pt"})
    return work


@pytest.fixture(scope="module")
def trained(work: Path, eleven: Path) -> Finished:
    def train(*flags: str) -> Finished:
        command = warm("-m", "vit_colossal", "train", "--device", "cpu", "--nproc", "2")
        command += ["--model", "base", "--dataset", str(eleven), "--output-dir", "run"]
        command += ["--global-batch-size", "16", "--lr", "1e-3", "--drop-path", "0.2", *flags]
        finished = run(command, timeout_s=120, cwd=work)
        assert finished.returncode == 0, finished.output
        return finished

    first = train("--plugin", "hybrid", "--pp", "2", "--max-steps", "2")
    train("--plugin", "zero2", "--max-steps", "4", "--resume", "auto")
    return first


def test_the_plan_says_how_it_is_trained(trained: Finished) -> None:
    assert "pos_embed_rescale 2.0 of the model left out" in trained.output
    assert "a DINOv3ViTImageProcessor, read and saved as a ViTImageProcessor" in trained.output
    assert "classifier: new, as the model brings none" in trained.output


def test_what_gets_no_gradient_stays_and_the_rest_moves(trained: Finished, work: Path) -> None:
    before = load_file(work / "base" / "model.safetensors")
    after = load_file(work / "run" / "model" / "model.safetensors")
    assert after.keys() - before.keys() == {"classifier.weight", "classifier.bias"}
    moved = {key for key, tensor in before.items() if not torch.equal(after[key], tensor)}
    assert before.keys() - moved == {"embeddings.mask_token"}


@pytest.mark.parametrize(
    ("command", "printed"),
    [
        ("eval run --device cpu", "accuracy"),
        ("eval exported --device cpu --dataset ELEVEN", "accuracy"),
        ("export run onnx --format onnx", "same top-1 on 133 of 133 images"),
        ("report run", "report.html"),
        ("push run somebody/photos --dry-run", "backbone = AutoModel.from_pretrained(name)"),
    ],
)
def test_every_command_takes_it(
    command: str,
    printed: str,
    trained: Finished,
    work: Path,
    eleven: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "onnx" in command:
        pytest.importorskip("onnxruntime")
    monkeypatch.chdir(work)
    assert main(["export", "run", "exported", "--checkpoint", "last", "--overwrite"]) == 0
    exported, final = (load_file(f"{name}/model.safetensors") for name in ("exported", "run/model"))
    assert all(torch.equal(exported[key], tensor) for key, tensor in final.items())
    assert main(command.replace("ELEVEN", str(eleven)).split()) == 0
    assert printed in capsys.readouterr().out
