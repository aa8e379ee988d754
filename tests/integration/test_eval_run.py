"""`vit-colossal eval` of runs, on their own and on other data; and the Python interface."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import datasets
import pytest
import torch

from launching import ROOT, run, warm
from vit_colossal.cli import main
from vit_colossal.trained.saved import load_model, locate

pytestmark = pytest.mark.slow

SCRIPT = """
import json, sys
from vit_colossal import TrainConfig, evaluate

for values in json.load(open(sys.argv[1])):
    found = evaluate(TrainConfig(device="cpu", **values))
    print(json.dumps([found.correct, found.total, found.loss, found.labels, found.confusion]))
"""


def last_evaluation(run_dir: Path) -> dict[str, float]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == "eval"][-1]


@pytest.fixture(scope="module")
def reordered(eleven: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images with the label names in reverse, so that every number means another name."""
    folder = tmp_path_factory.mktemp("reordered")
    for split in ("train", "validation"):
        rows = datasets.load_dataset("parquet", data_files=str(eleven / f"{split}.parquet"))
        names = rows["train"].features["label"].names
        features = datasets.Features(
            image=datasets.Image(), label=datasets.ClassLabel(names=names[::-1])
        )
        turned = {
            "image": rows["train"]["image"],
            "label": [10 - x for x in rows["train"]["label"]],
        }
        datasets.Dataset.from_dict(turned, features=features).to_parquet(
            folder / f"{split}.parquet"
        )
    return folder


@pytest.fixture(scope="module")
def folders(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The evaluation images in a folder per label, without splits."""
    root = tmp_path_factory.mktemp("folders")
    names = [*(f"digit {digit}" for digit in range(10)), "inverted"]
    for file in pictures.rglob("*.png"):
        place = root / names[int(file.stem.partition("-")[2])]
        place.mkdir(exist_ok=True)
        shutil.copy(file, place / file.name)
    return root


def test_a_run_on_its_own_and_on_other_data(
    trained: Path, eleven: Path, reordered: Path, folders: Path, tmp_path: Path
) -> None:
    """Five evaluations in one process, one after another."""
    model = str(trained / "model")
    cases = [
        {"model": str(trained)},
        {"model": str(trained), "dataset": str(reordered)},
        {"model": model, "dataset": str(folders)},
        {"model": str(trained), "eval_split": "train"},
        {"model": str(trained / "checkpoints" / "last"), "max_eval_samples": 5},
    ]
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    (tmp_path / "script.py").write_text(SCRIPT)
    command = warm(str(tmp_path / "script.py"), str(tmp_path / "cases.json"))
    finished = run(command, timeout_s=300, cwd=tmp_path)
    assert finished.returncode == 0, finished.output
    own, turned, classes, train, few = map(json.loads, finished.stdout.splitlines())
    last = last_evaluation(trained)
    assert own[:2] == [last["correct"], 133]
    assert own[2] == pytest.approx(last["loss"], rel=1e-5)
    # Matched by name: the same counts, in the model's order of labels.
    assert turned == own
    # Without an evaluation split, all of another data set; the order of the images sums otherwise.
    assert classes[:2] + classes[3:] == own[:2] + own[3:]
    # A named split is taken whole, be it the training split.
    assert train[1] == 200
    assert few[1] == 5


def test_the_command_takes_a_run_and_a_checkpoint(trained: Path, tmp_path: Path) -> None:
    flags = [str(trained), "--checkpoint", "best", "--device", "cpu"]
    command = warm("-m", "vit_colossal", "eval", *flags)
    finished = run(command, timeout_s=120, cwd=tmp_path)
    assert finished.returncode == 0, finished.output
    lines = finished.stdout.splitlines()
    assert "split validation: 133 images" in lines[-2]
    assert re.fullmatch(r"loss \d\.\d{4}  accuracy 0\.\d{4} \(\d+/133\)", lines[-1])
    assert finished.left_over == []
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_evaluated(
    trained: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moved").mkdir()
    shutil.copytree(trained / "model", tmp_path / "moved" / "alone")
    rows = {
        (): "no model: name a run",
        ("vit-micro", "--dataset", "digits"): "a preset without weights",
        (str(trained), "--model", "x"): "exclude each other",
        (str(trained), "--dataset", "digits"): "numbers do not say which of these they mean",
        ("moved/alone",): "--dataset: name the data set",
        (str(trained), "--eval-split", "nope"): "--eval-split nope: no such split",
        (str(trained), "--val-split", "0.5"): "--val-split 0.5: a run is evaluated on the images",
        (str(trained), "--check-reference", "x"): "judges a training run",
        (str(trained), "--tp", "2", "--checkpoint", "nope"): "no checkpoint at",
        (str(trained), "--plugin", "gemini", "--precision", "fp32"): "refuses --precision fp32",
        (str(trained), "--nproc", "2", "--pp", "2"): "--pp 2 has no effect with --plugin ddp",
    }
    for flags, problem in rows.items():
        assert main(["eval", *flags, "--device", "cpu"]) == 2, flags
        output = capsys.readouterr()
        assert problem in output.err, flags
        assert "Traceback" not in output.err


def test_the_example_of_the_documents(pictures: Path, tmp_path: Path) -> None:
    """docs/python.md: train, evaluate and predict in one process, without a launcher."""
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code is not None
    twice = "\nfirst = result\n" + code[1] + "\nprint(first.run_dir != result.run_dir)\n"
    (tmp_path / "example.py").write_text(code[1] + twice)
    shutil.copy(next(pictures.rglob("001-*.png")), tmp_path / "seven.png")
    finished = run(warm("example.py"), timeout_s=300, cwd=tmp_path)
    assert finished.returncode == 0, finished.output
    printed = [line for line in finished.stdout.splitlines() if line]
    assert re.fullmatch(r"accuracy 0\.\d{4} \(\d+/360\)", printed[0])
    correct = printed[0].partition("(")[2].partition("/")[0]
    assert printed[2].startswith(f"{correct} 360 ")
    assert printed[3].startswith("seven.png ")
    assert printed[-1] == "True"  # the second run did not replace the first
    assert len(list((tmp_path / "runs").iterdir())) == 2
    for run_dir in (tmp_path / "runs").iterdir():
        # No average is kept here: the checkpoint's own weights are those of the model.
        last = load_model(locate(str(run_dir), "last")).state_dict()
        final = load_model(locate(str(run_dir))).state_dict()
        assert all(torch.equal(last[name], final[name]) for name in final)
    card = next((tmp_path / "runs").glob("*/model/README.md")).read_text()
    assert f"({correct}/360)" in card
