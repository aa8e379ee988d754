"""Files written by commit a9eef99 with torch 2.5.1 and transformers 4.51.3: they go on here.

``tests/legacy/run`` is a run of zero1 on two processes, of 8 steps, with the checkpoint of step 4
and the final model.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ViTForImageClassification

from launching import ROOT, environment, run, warm
from vit_colossal.errors import ModelError
from vit_colossal.model.weights_fit import check_weights
from vit_colossal.plan.model_spec import read_spec
from vit_colossal.trained.saved import load_model, locate

LEGACY = ROOT / "tests" / "legacy" / "run"


def _events(run_dir: Path, kind: str) -> list[dict[str, float]]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


@pytest.mark.slow
@pytest.mark.parametrize("plugin", ["zero1", "hybrid"])
def test_an_old_checkpoint_goes_on(plugin: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    (run_dir / "checkpoints").mkdir(parents=True)
    shutil.copy(LEGACY / "config.yaml", run_dir)
    shutil.copytree(LEGACY / "checkpoints/step-000004", run_dir / "checkpoints/step-000004")
    command = warm(str(ROOT / "train.py"), "--nproc", "2", "--resume", "auto")
    command += ["--config", str(run_dir / "config.yaml"), "--output-dir", str(run_dir)]
    command += ["--plugin", plugin, *(["--pp", "2"] if plugin == "hybrid" else [])]
    finished = run(command, timeout_s=300, env=environment(), cwd=tmp_path)
    assert finished.returncode == 0, finished.output
    old = {event["step"]: event["loss"] for event in _events(LEGACY, "train")}
    losses = {event["step"]: event["loss"] for event in _events(run_dir, "train")}
    assert sorted(losses) == [5, 6, 7, 8]
    # Equal bit for bit where it was tried; another processor's kernels may round otherwise.
    assert losses == pytest.approx({step: old[step] for step in losses}, rel=1e-6)
    (evaluation,), (before,) = _events(run_dir, "eval"), _events(LEGACY, "eval")
    assert evaluation["correct"] == before["correct"]
    weights = load_file(run_dir / "model/model.safetensors")
    assert weights.keys() == load_file(LEGACY / "model/model.safetensors").keys()


def test_an_old_model_directory_loads() -> None:
    model = load_model(locate(str(LEGACY)))
    theirs = ViTForImageClassification.from_pretrained(LEGACY / "model")
    assert model.state_dict().keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_an_old_checkpoint_loads_as_a_model(tmp_path: Path) -> None:
    shutil.copytree(LEGACY, tmp_path / "run")
    model = load_model(locate(str(tmp_path / "run"), "last"))
    stored = load_file(LEGACY / "checkpoints/step-000004/weights.safetensors")
    query = stored["vit.encoder.layer.1.attention.attention.query.weight"]
    assert torch.equal(model.vit.layers[1].attention.q_proj.weight, query)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_what_training_wrappers_add_to_names_is_taken_off(prefix: str, tmp_path: Path) -> None:
    folder = _renamed(tmp_path, lambda name: prefix + name)
    model = load_model(locate(str(folder)))
    expected = load_model(locate(str(LEGACY / "model")))
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_other_names_are_named(tmp_path: Path) -> None:
    folder = _renamed(tmp_path, lambda name: f"backbone.{name}")
    with pytest.raises(ModelError) as refused:
        check_weights(read_spec(str(folder), {}))
    (problem,) = refused.value.problems
    assert "'backbone.vit.encoder.layer." in problem and "vit.encoder.layer.0" in problem


def _renamed(tmp_path: Path, rename: object) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(LEGACY / "model", folder)
    stored = load_file(folder / "model.safetensors")
    assert callable(rename)
    save_file(
        {rename(name): tensor for name, tensor in stored.items()}, folder / "model.safetensors"
    )
    return folder
