"""`vit-colossal export`: plain directories and ONNX from the checkpoints of two pipeline stages."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import ViTForImageClassification, ViTImageProcessor

from vit_colossal import predict
from vit_colossal.cli import main
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.families.names import named_weights
from vit_colossal.trained.export import ExportError, export_onnx, new_directory
from vit_colossal.trained.saved import locate
from vit_colossal.trained.split import open_split


def counts(run_dir: Path) -> dict[int, int]:
    """Right answers of each evaluation, by step."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    events = [event for event in map(json.loads, lines) if event["event"] == "eval"]
    return {event["step"]: event["correct"] for event in events}


def test_best_as_a_hugging_face_directory(trained: Path, pictures: Path, tmp_path: Path) -> None:
    output = tmp_path / "exports" / "best"
    assert main(["export", str(trained), str(output), "--checkpoint", "best"]) == 0
    assert {path.name for path in output.iterdir()} == {
        *("config.json", "model.safetensors", "preprocessor_config.json", "README.md")
    }
    modes = {path.stat().st_mode & 0o777 for path in output.iterdir()}
    assert modes == {0o666 & ~_umask()}
    model = ViTForImageClassification.from_pretrained(output)
    ViTImageProcessor.from_pretrained(output)
    assert model.config.id2label[10] == "inverted"
    assert model.config.problem_type == "single_label_classification"
    best = (trained / "checkpoints" / "best").resolve()
    loaded = dict(named_weights(model))
    for name, tensor in load_file(best / "ema.safetensors").items():
        assert torch.equal(loaded[name], tensor), name
    step = int(best.name.removeprefix("step-"))
    labels = [*(f"digit {digit}" for digit in range(10)), "inverted"]
    right = sum(
        labels[int(Path(found.file).stem.partition("-")[2])] == found.label
        for found in predict(output, pictures, device="cpu").predictions
    )
    assert right == counts(trained)[step]
    assert f"({right}/133)" in (output / "README.md").read_text()


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current


def test_a_run_that_never_ended_can_be_exported(trained: Path, tmp_path: Path) -> None:
    """Killed runs have checkpoints and no model; the shape is what was configured."""
    run_dir = tmp_path / "killed"
    run_dir.mkdir()
    for name in ("config.yaml", "environment.json", "checkpoints"):
        (run_dir / name).symlink_to(trained / name)
    lines = (trained / "metrics.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["event"] != "end"]
    (run_dir / "metrics.jsonl").write_text("\n".join(kept) + "\n")
    assert main(["export", str(run_dir), str(tmp_path / "out")]) == 2
    assert main(["export", str(run_dir), str(tmp_path / "out"), "--checkpoint", "last"]) == 0
    ours, whole = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "out", trained / "model")
    )
    assert ours.keys() == whole.keys()
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


def test_nothing_is_overwritten_unasked(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    assert main(["export", str(trained), str(output)]) == 0  # an empty folder is no loss
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    assert main(["export", str(trained), str(output)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    (output / "mine.txt").write_text("mine")
    assert main(["export", str(trained), str(output), "--overwrite"]) == 0
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "me.jpg").touch()
    assert main(["export", str(trained), str(photos), "--overwrite"]) == 2
    assert "no model directory" in capsys.readouterr().err
    assert (photos / "me.jpg").exists()


def test_a_failed_export_leaves_what_was_there(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "config.json").write_text("{}")

    with pytest.raises(KeyboardInterrupt), new_directory(output, overwrite=True) as folder:
        (folder / "config.json").write_text("new")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (output / "config.json").read_text() == "{}"


def test_damaged_weights_are_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = (trained / "checkpoints" / "last").resolve()
    copied = tmp_path / "run" / "checkpoints" / checkpoint.name
    copied.mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_bytes((trained / "config.yaml").read_bytes())
    for file in checkpoint.iterdir():
        content = bytearray(file.read_bytes())
        if file.name == "weights.safetensors":
            content[-1] ^= 1
        (copied / file.name).write_bytes(content)
    assert main(["export", str(copied), str(tmp_path / "out")]) == 2
    assert "SHA-256 differs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_onnx_computes_the_same(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    output = tmp_path / "onnx"
    assert main(["export", str(trained), str(output), "--format", "onnx"]) == 0
    printed = capsys.readouterr().out
    right = list(counts(trained).values())[-1]
    assert "same top-1 on 133 of 133 images" in printed
    assert f"({right}/133)" in printed
    assert float(printed.partition("difference of logits ")[2].partition(";")[0]) < 1e-4
    assert json.loads((output / "config.json").read_text())["id2label"]["10"] == "inverted"
    session = onnxruntime.InferenceSession(
        str(output / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    for batch in (1, 3):  # the batch is no constant of the graph
        pixels = torch.zeros(batch, 3, 16, 16).numpy()
        (logits,) = session.run(["logits"], {"pixel_values": pixels})
        assert logits.shape == (batch, 11)


def test_onnx_that_computes_something_else_is_not_kept(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tracer that got the weights wrong: caught on the split, and nothing is left."""
    pytest.importorskip("onnxruntime")
    from vit_colossal.trained import export

    traced = export._trace

    def wrong(model: Any, file: Path, size: int) -> None:
        kept = model.classifier.bias.data.clone()
        model.classifier.bias.data[3] += 100
        traced(model, file, size)
        model.classifier.bias.data.copy_(kept)

    monkeypatch.setattr(export, "_trace", wrong)
    saved = locate(str(trained))
    with pytest.raises(ExportError, match="another top-1"):
        export_onnx(saved, tmp_path / "onnx", open_split(TrainConfig(), saved))
    assert list(tmp_path.iterdir()) == []


def test_onnx_without_its_packages_names_the_command(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from vit_colossal.trained import export

    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    assert main(["export", str(trained), str(tmp_path / "x"), "--format", "onnx"]) == 2
    assert "pip install 'vit_colossal[onnx]'" in capsys.readouterr().err


def test_other_labels_are_refused_with_the_difference(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--format", "onnx", "--dataset", "digits"]
    assert main(["export", str(trained), str(tmp_path / "x"), *flags]) == 2
    error = capsys.readouterr().err
    assert "the model does not know 10 of its 10 labels: '0', '1'" in error
    assert "it knows 'digit 0', 'digit 1'" in error


def test_the_weights_of_another_shape_are_refused(trained: Path, tmp_path: Path) -> None:
    """The run was configured anew after the checkpoint was written."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "checkpoints").symlink_to(trained / "checkpoints")
    values = yaml.safe_load((trained / "config.yaml").read_text())
    values["model_config"] = {"hidden_size": 32}
    (run_dir / "config.yaml").write_text(yaml.safe_dump(values))
    assert main(["export", str(run_dir), str(tmp_path / "x"), "--checkpoint", "last"]) == 2


def test_a_directory_that_lost_a_weight_is_refused(trained: Path, tmp_path: Path) -> None:
    assert main(["export", str(trained), str(tmp_path / "out")]) == 0
    weights = load_file(tmp_path / "out" / "model.safetensors")
    del weights["vit.layernorm.weight"]
    save_file(weights, tmp_path / "out" / "model.safetensors", metadata={"format": "pt"})
    assert main(["export", str(tmp_path / "out"), str(tmp_path / "again")]) == 2
