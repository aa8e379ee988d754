"""What is frozen is computed once: losses and weights as when it is computed in each step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launching import ROOT, forked, run
from vit_colossal import TrainConfig
from vit_colossal.parity.case import Case
from vit_colossal.parity.trace import Trace

pytestmark = pytest.mark.slow

WORKER = ROOT / "src" / "vit_colossal" / "parity" / "worker.py"
#: Of two processes; what each adds to the settings that all have.
HEAD, LAYERS = {"freeze": "backbone"}, {"freeze_layers": 2}
CASES: dict[str, dict[str, object]] = {
    "ddp head": {"plugin": "ddp", **HEAD},
    "ddp layers, accumulated": {"plugin": "ddp", "grad_accumulation": 2, **LAYERS},
    "zero1, averaged": {"plugin": "zero1", "ema": 0.9, **HEAD},
    "zero2, all layers": {"plugin": "zero2", "freeze_layers": 4},
    "zero1 bf16": {"plugin": "zero1", "precision": "bf16", **LAYERS},
    "gemini": {"plugin": "gemini", "precision": "bf16", **HEAD},
    "tp 2": {"plugin": "hybrid", "tp": 2, **LAYERS},
    # What is frozen is computed once for the evaluation alone.
    "ddp, augmented": {"plugin": "ddp", "horizontal_flip": True, **LAYERS},
    "zero1, mixed": {"plugin": "zero1", "mixup": 0.8, **HEAD},
    "gemini, mixed": {"plugin": "gemini", "precision": "bf16", "mixup": 0.8, **HEAD},
}
VARIED = ("ddp, augmented", "zero1, mixed", "gemini, mixed")


@pytest.fixture(scope="module")
def folder(eleven: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace of each case with features kept and without, all of one launch."""
    folder = tmp_path_factory.mktemp("features")
    common = {"dataset": str(eleven), "model": "vit-micro", "device": "cpu", "epochs": 2}
    common |= {"global_batch_size": 16, "max_train_samples": 60, "max_eval_samples": 37, "lr": 1e-2}
    cases = []
    for name, settings in CASES.items():
        for kept in (False, True):
            values = {**common, **settings, "feature_cache": kept, "cache_dir": folder / "cache"}
            config = TrainConfig.model_validate(values)
            place = folder / ("kept" if kept else "each time") / name
            cases.append(Case(name, None, 2, config, place))
    path = folder / "cases.json"
    path.write_text(json.dumps([case.to_json() for case in cases], default=str))
    finished = run(forked(2, str(WORKER), str(path)), timeout_s=300)
    assert finished.returncode == 0, finished.output
    return folder


@pytest.mark.parametrize("name", CASES)
def test_losses_and_weights_are_those_without(folder: Path, name: str) -> None:
    each, kept = (Trace.load(folder / how / name) for how in ("each time", "kept"))
    assert len(kept.losses) == 8 and kept.lrs == each.lrs
    assert (kept.correct, kept.total) == (each.correct, each.total)
    assert kept.losses == pytest.approx(each.losses, rel=2e-6)
    assert kept.weights.keys() == each.weights.keys()
    moved = each.weights["classifier.weight"].norm()
    for key, weight in kept.weights.items():
        assert (weight - each.weights[key]).norm() <= 1e-5 * max(moved, weight.norm()), key


def test_one_entry_for_each_split_and_way_of_computing(folder: Path) -> None:
    entries = list((folder / "cache" / "features").iterdir())
    # Those that vary find the evaluation's of a case that does not.
    assert len(entries) == 2 * (len(CASES) - len(VARIED))
