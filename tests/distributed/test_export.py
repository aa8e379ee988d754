"""What every layout saves is a plain Hugging Face directory with the accuracy that was counted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from layouts import LAYOUTS, Layout, table
from safetensors.torch import load_file

from launching import Outcome, run

pytestmark = pytest.mark.slow

Outcomes = Callable[[Layout, str], Outcome]
NAMES = [*(f"digit {digit}" for digit in range(10)), "inverted"]


@pytest.fixture(scope="session")
def reloaded(outcome: Outcomes, eleven: Path) -> Callable[[Layout], int]:
    """Images that a saved model classifies right, counted by a process without ColossalAI."""

    @cache
    def evaluate() -> dict[str, int]:
        folders = [str(outcome(layout, "plain").export) for layout in LAYOUTS]
        script = Path(__file__).with_name("reload.py")
        command = [sys.executable, str(script), str(eleven / "validation.parquet"), *folders]
        finished = run(command, timeout_s=120)
        assert finished.returncode == 0, finished.output
        correct: dict[str, int] = json.loads(finished.stdout.splitlines()[-1])
        return correct

    return lambda layout: evaluate()[str(outcome(layout, "plain").export)]


@pytest.mark.parametrize("layout", table())
def test_a_process_without_colossalai_finds_the_same_accuracy(
    layout: Layout, outcome: Outcomes, reloaded: Callable[[Layout], int]
) -> None:
    whole = outcome(layout, "plain").after[-1]
    assert whole["total"] == 133
    assert reloaded(layout) == whole["correct"]


@pytest.mark.parametrize("layout", table())
def test_the_directory_holds_the_weights_and_the_real_labels(
    layout: Layout, outcome: Outcomes
) -> None:
    run = outcome(layout, "plain")
    names = {path.name for path in run.export.iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    config = json.loads((run.export / "config.json").read_text())
    assert config["id2label"] == {str(index): name for index, name in enumerate(NAMES)}
    assert config["label2id"] == {name: index for index, name in enumerate(NAMES)}
    assert config["problem_type"] == "single_label_classification"
    saved = load_file(run.export / "model.safetensors")
    assert saved.keys() == run.weights.keys()
    assert all(torch.equal(saved[name], weight) for name, weight in run.weights.items())
    dtype = str(next(iter(saved.values())).dtype).removeprefix("torch.")
    assert config["dtype"] == dtype
