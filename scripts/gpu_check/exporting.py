"""Part ``export``: what is done with a trained model, from the run of the first part."""

from __future__ import annotations

import importlib.util
import json
import re
from functools import partial
from pathlib import Path

import numpy as np

from gpu_check.check import Check, Outcome, events, failed, passed, skipped
from gpu_check.running import Argument
from gpu_check.training import SHORT

#: Images that a run and another command may label differently: other batches round otherwise.
ALLOWED = 1


def export(check: Check) -> None:
    """A Hugging Face directory, ONNX, and labels for image files, which have to agree."""
    source = check.folder / "runs" / "train-ddp"
    if not (source / "model" / "model.safetensors").is_file():
        source = check.folder / "runs" / "export-source"
        command: list[Argument] = [
            "train.py",
            *SHORT,
            "--plugin",
            "ddp",
            "--precision",
            "fp32",
            "--epochs",
            "2",
        ]
        command += ["--device", check.device, "--output-dir", source]
        finished = check.runner.run("export-source", command)
        if finished.code != 0:
            problem = failed(f"the run to export: {finished.problem()}")
            check.add("export", "all", problem, finished.seconds)
            return
    jobs = {
        "Hugging Face directory, eval": partial(_directory, check, source),
        "ONNX": partial(_onnx, check, source),
        "predict": partial(_predict, check, source),
    }
    check.runner.together(
        [partial(check.attempt, "export", what, job) for what, job in jobs.items()]
    )


def _directory(check: Check, source: Path) -> Outcome:
    """The directory holds the model: evaluated on the device it counts what the run counted."""
    target = check.folder / "exports" / "hf"
    command: list[Argument] = ["-m", "vit_colossal", "export", source, target, "--overwrite"]
    finished = check.runner.run("export-hf", command)
    if finished.code != 0:
        return failed(finished.problem())
    expected = events(source, "eval")[-1]
    command = ["-m", "vit_colossal", "eval", target, "--dataset", "digits", "--precision", "fp32"]
    command += ["--eval-split", "test", "--max-eval-samples", str(expected["total"])]
    finished = check.runner.run("export-eval", [*command, "--device", check.device])
    found = re.search(r"\((\d+)/(\d+)\)", finished.text())
    if finished.code != 0 or found is None:
        return failed(finished.problem())
    text = f"{found[1]} of {found[2]} right, {expected['correct']} in the run"
    same = int(found[2]) == expected["total"]
    near = abs(int(found[1]) - expected["correct"]) <= ALLOWED
    return passed(text) if same and near else failed(text)


def _onnx(check: Check, source: Path) -> Outcome:
    wanted = ("onnx", "onnxscript", "onnxruntime")
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        return skipped(f"not installed: {', '.join(missing)}")
    target = check.folder / "exports" / "onnx"
    command: list[Argument] = ["-m", "vit_colossal", "export", source, target, "--overwrite"]
    finished = check.runner.run("export-onnx", [*command, "--format", "onnx"])
    found = re.search(r"same top-1 on (\d+) of (\d+) images", finished.text())
    if finished.code != 0 or found is None:
        return failed(finished.problem())
    return passed(f"the same labels as PyTorch on {found[1]} of {found[2]} images")


def _predict(check: Check, source: Path) -> Outcome:
    """Image files of the run's evaluation split, made on the spot."""
    expected = events(source, "eval")[-1]
    pictures = _pictures(check.folder / "pictures", expected["total"])
    output = check.folder / "exports" / "predictions.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    command: list[Argument] = [
        "-m",
        "vit_colossal",
        "predict",
        source,
        pictures,
        "--device",
        check.device,
    ]
    command += ["--output", output, "--format", "json", "--overwrite"]
    finished = check.runner.run("predict", command)
    if finished.code != 0:
        return failed(finished.problem())
    answers = json.loads(output.read_text(encoding="utf-8"))
    right = sum(
        Path(one["file"]).stem.split("-")[1] == one["predictions"][0]["label"] for one in answers
    )
    text = f"{right} of {len(answers)} files right, {expected['correct']} in the run"
    same = len(answers) == expected["total"] and abs(right - expected["correct"]) <= ALLOWED
    return passed(text) if same else failed(text)


def _pictures(folder: Path, count: int) -> Path:
    """The first images of digits' evaluation split as ``NUMBER-LABEL.png``."""
    from PIL import Image
    from sklearn.datasets import load_digits

    from vit_colossal.data.sources.splits import stratified_split

    folder.mkdir(parents=True, exist_ok=True)
    values, targets = load_digits(return_X_y=True)
    pixels = np.round(values.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    _, test = stratified_split(targets.astype(np.int64), held_out=360, seed=0)
    for number, row in enumerate(list(test)[:count]):
        Image.fromarray(pixels[row]).save(folder / f"{number:03d}-{targets[row]}.png")
    return folder
