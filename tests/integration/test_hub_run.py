"""The reference run, ViT-base on beans in two stages, from a hub on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_server import BEAN_LABELS, BEANS, VIT, Hub, Repository, beans_files, serving, vit_files
from launching import ROOT, Finished, environment, run, warm

TOKEN = "hf_secretNotToBePrinted"
CONFIG = str(ROOT / "configs" / "beans_vit_base_pp2.yaml")


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    hub = Hub()
    hub.repositories["datasets", BEANS] = Repository(beans_files(), commit="2" * 40)
    hub.repositories["models", VIT] = Repository(vit_files())
    with serving(hub):
        yield hub


def demo(folder: Path, run_dir: Path, *flags: str, **changes: str) -> Finished:
    """What ``run_demo.sh`` runs on two GPUs, on the CPU and for two steps."""
    settings = {"HF_HOME": str(folder / "hf"), "HF_DATASETS_CACHE": str(folder / "hf" / "datasets")}
    settings |= {"VIT_COLOSSAL_CACHE": str(folder / "cache"), "HF_TOKEN": TOKEN}
    settings |= {"NO_PROXY": "127.0.0.1,localhost", "HF_HUB_OFFLINE": "0", **changes}
    arguments = [str(ROOT / "train.py"), "--nproc", "2", "--config", CONFIG, "--device", "cpu"]
    arguments += ["--max-steps", "2", "--output-dir", str(run_dir), *flags]
    command = warm(*arguments, late=True)
    return run(command, timeout_s=240, cwd=folder, env=environment(**settings))


def files_with(text: str, folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and text.encode() in p.read_bytes()]


def losses(run_dir: Path) -> list[float]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [event["loss"] for event in map(json.loads, lines) if event["event"] == "train"]


@pytest.mark.slow
def test_cold_and_then_from_the_cache_alone(hub: Hub, tmp_path: Path) -> None:
    cold = demo(tmp_path, tmp_path / "cold", "--log-every", "1", HF_ENDPOINT=hub.endpoint)
    assert cold.returncode == 0, cold.output
    seen = len(hub.requests)
    assert seen > 0
    offline = demo(
        tmp_path,
        tmp_path / "offline",
        "--log-every",
        "1",
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_HUB_OFFLINE="1",
    )
    assert offline.returncode == 0, offline.output
    assert len(hub.requests) == seen
    assert losses(tmp_path / "cold") == losses(tmp_path / "offline")
    assert len(losses(tmp_path / "cold")) == 2
    for name, finished in (("cold", cold), ("offline", offline)):
        assert not finished.left_over
        assert "(7/7)" in finished.output or "/7)" in finished.output
        environment_file = json.loads((tmp_path / name / "environment.json").read_text())
        assert environment_file["labels"] == list(BEAN_LABELS)
        assert TOKEN not in finished.output
    assert files_with(TOKEN, tmp_path) == []
    assert files_with(str(tmp_path / "hf"), tmp_path / "cold") == []


def test_weights_that_cannot_be_fetched_stop_the_run_before_it_starts(
    hub: Hub, tmp_path: Path
) -> None:
    """In the process that would start the others, with one line."""
    vit = hub.repositories["models", VIT]
    vit.drop_after["model.safetensors"] = 1000
    try:
        finished = demo(tmp_path, tmp_path / "run", HF_ENDPOINT=hub.endpoint)
    finally:
        vit.drop_after.clear()
    assert finished.returncode == 2
    (line,) = finished.stderr.strip().splitlines()
    assert f"--model {VIT}: cannot fetch its model.safetensors" in line
    assert "run it again" in line
    assert TOKEN not in finished.output
    assert not (tmp_path / "run").exists()
    assert not finished.left_over
