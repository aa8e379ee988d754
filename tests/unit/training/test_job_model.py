"""The model that a run begins or goes on with, before it is boosted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from launching import ROOT
from vit_colossal import TrainConfig
from vit_colossal.data.prepare import RunData
from vit_colossal.plan.checkpoint import Checkpoint
from vit_colossal.plan.plan import Device, make_plan
from vit_colossal.training.job import _build_model

PRETRAINED = str(ROOT / "tests" / "legacy" / "run" / "model")
DATA = cast(RunData, SimpleNamespace(labels=("Äpfel", "dog", "grüner Tee")))


def built(model: str, *, continued: bool) -> Any:
    plan = make_plan(TrainConfig(dataset="digits", model=model), 1, Device("cpu"))
    if continued:
        plan = replace(plan, checkpoint=Checkpoint(Path("x"), 3, {}, {}))
    return _build_model(plan, DATA)


@pytest.mark.parametrize("continued", [False, True])
@pytest.mark.parametrize("model", ["vit-micro", PRETRAINED])
def test_it_is_set_to_train_and_has_the_labels(model: str, continued: bool) -> None:
    """Dropout belongs to the first epoch too, whatever the model was loaded for."""
    found = built(model, continued=continued)
    assert found.training and all(module.training for module in found.modules())
    assert tuple(found.config.id2label.values()) == DATA.labels
    assert found.config.problem_type == "single_label_classification"


def test_a_continued_one_is_shaped_and_named_as_if_it_had_been_loaded() -> None:
    begun, continued = (built(PRETRAINED, continued=value) for value in (False, True))
    shapes = [{n: p.shape for n, p in m.named_parameters()} for m in (begun, continued)]
    assert shapes[0] == shapes[1]
    theirs, ours = (model.config.to_dict() for model in (begun, continued))
    assert {k: v for k, v in theirs.items() if ours.get(k) != v}.keys() <= {
        *("dtype", "architectures", "transformers_version", "_name_or_path")
    }
