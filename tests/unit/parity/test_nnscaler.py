"""nnScaler as a peer: its YAML, what that names, and the messages; it itself is run by hand."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from vit_colossal.cli import main
from vit_colossal.data.batches import train_batches
from vit_colossal.data.loaders import Shard
from vit_colossal.data.prepare import RunData
from vit_colossal.data.transforms import normalize
from vit_colossal.parity.config import ParityConfig
from vit_colossal.parity.nnscaler import SIDE, read_trace, train_there, write_job
from vit_colossal.parity.plain_loop import Grouping, train_plain
from vit_colossal.parity.references import NONE
from vit_colossal.parity.row import Row
from vit_colossal.parity.trace import Trace, compare
from vit_colossal.plan.plan import RunPlan
from vit_colossal.runtime.group import Topology
from vit_colossal.training.run import plan_run

STEPS = 4
PEER = ["--peers", "transformers,nnscaler"]
HERE = ["--nnscaler-python", sys.executable]


@pytest.mark.parametrize(
    ("flags", "lines"),
    [
        (["--peers", "nnscalar"], ["--peers nnscalar: take transformers, nnscaler, or none"]),
        (PEER, ["name the Python that has it by --nnscaler-python: it is on", "--decay-all"]),
        ([*PEER, *HERE], ["nnScaler has one group of parameters: add --decay-all"]),
        (HERE, [f"--nnscaler-python {sys.executable}: add --peers nnscaler, or drop it"]),
        ([*PEER, *HERE, "--decay-all"], ["No module named 'nnscaler': it is on no package index"]),
        (
            [*PEER, "--decay-all", "--nnscaler-python", "no/python"],
            ["--nnscaler-python no/python: No such file or directory: it is on no package index"],
        ),
    ],
)
def test_what_is_missing_is_said_in_a_line(
    flags: list[str], lines: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["parity", "--output-dir", str(tmp_path / "out"), *flags]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "problems:" not in line]
    assert len(said) == len(lines), said
    assert all(line in one for line, one in zip(lines, said, strict=True)), said
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def planned() -> tuple[RunPlan, RunData]:
    config = ParityConfig(decay_all=True, max_steps=STEPS, peers="nnscaler", clip_grad_norm=1.0)
    job = config.job(plugin="ddp", precision="fp32", lr_schedule="constant-cooldown")
    return plan_run(job, Topology(world_size=2))


@pytest.fixture(scope="module")
def place(planned: tuple[RunPlan, RunData], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nnscaler") / "2p"
    write_job(*planned, 2, folder)
    return folder


@pytest.fixture(scope="module")
def job(place: Path) -> dict[str, Any]:
    return yaml.safe_load((place / "job.yaml").read_text())


@pytest.fixture(scope="module")
def adapter() -> ModuleType:
    spec = spec_from_file_location("parity_adapter", SIDE / "parity_adapter.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_yaml_says_the_same_job(planned: tuple[RunPlan, RunData], job: dict[str, Any]) -> None:
    config = planned[0].config
    assert job["optimizer"] == {
        "type": "torch.optim.AdamW",
        "args": {
            "lr": config.lr,
            "betas": [config.adam_beta1, config.adam_beta2],
            "eps": config.adam_eps,
            "weight_decay": config.weight_decay,
        },
        "clip_gnorm": 1.0,
    }
    plan = {"plan_ngpus": 1, "runtime_ngpus": 2, "constant_folding": False}
    assert job["compute_config"].items() >= {**plan, "use_zero": True, "use_end2end": True}.items()
    assert (job["micro_batch_size"], job["global_batch_size"]) == (8, 16)
    assert (job["max_train_steps"], job["seed"]) == (STEPS, config.seed)
    rate = {"name": "warmup_stable_decay", "warmup": 1, "steps": STEPS}
    shape = {"num_decay_steps": 1, "decay_type": "linear"}
    assert job["lr_scheduler"]["args"] == {**rate, "shape": shape}


def test_all_that_the_yaml_names_is_there(job: dict[str, Any], adapter: ModuleType) -> None:
    named = [part["type"] for part in job.values() if isinstance(part, dict) and "type" in part]
    named += job["hook"].values()
    ours = [name.removeprefix("parity_adapter.") for name in named if "parity_adapter" in name]
    assert len(ours) == 7
    assert all(callable(getattr(adapter, name)) for name in ours)


def test_replicas_see_the_same_inputs_as_ours(
    planned: tuple[RunPlan, RunData], job: dict[str, Any], adapter: ModuleType
) -> None:
    plan, data = planned
    samples = adapter.Samples(**job["dataset"]["train_args"])
    for rank in range(2):
        order = adapter.Order(samples, 2, rank, **job["dataset_sampler"]["train_args"])
        assert len(order) == STEPS * 8
        theirs = [samples[index] for index in order]
        ours = [step[0] for step in train_batches(plan, data, Shard(rank, 2)).batches(0)][:STEPS]
        pixels = torch.cat([normalize(batch.images, data.preprocessing) for batch in ours])
        assert torch.equal(torch.stack([each["pixel_values"] for each in theirs]), pixels)
        labels = torch.stack([each["labels"] for each in theirs])
        assert torch.equal(labels, torch.cat([batch.labels for batch in ours]))


def test_the_model_has_the_first_loss(
    planned: tuple[RunPlan, RunData], job: dict[str, Any], adapter: ModuleType
) -> None:
    plan, data = planned
    samples = adapter.Samples(**job["dataset"]["train_args"])
    order = list(adapter.Order(samples, 1, 0, **job["dataset_sampler"]["train_args"]))[:16]
    batch = torch.utils.data.default_collate([samples[index] for index in order])
    model = adapter.WithLoss(**job["model"]["args"]).train()
    assert model(batch).item() == train_plain(plan, data, 1, Grouping()).losses[0]


def test_a_run_that_has_to_be_its_reference_may_differ_in_no_bit() -> None:
    weights = {"head.weight": torch.ones(2)}
    reference = Trace([2.0, 1.0], [], [1e-3, 1e-3], 3, 4, weights)
    for losses, problems in (
        ([2.0, 1.0], []),
        ([2.0, 1.0 + 2**-23], ["loss differs from step 2: 1.00000012 against 1"]),
    ):
        row = Row("nnScaler", "fp32", 0.0, 1)
        row.judge(replace(reference, losses=losses), reference, NONE)
        assert row.problems == problems


@pytest.mark.slow
def test_trainer_beside_it_is_the_plain_loop(planned: tuple[RunPlan, RunData], place: Path) -> None:
    plan, data = planned
    assert train_there(Path(sys.executable), "transformers", place, 2) == 0, (
        place / "transformers.log"
    ).read_text()
    trace = read_trace(place / "transformers", plan, data)
    difference = compare(trace, train_plain(plan, data, STEPS, Grouping.of(plan)))
    assert difference.identical_steps == STEPS
    assert (difference.lr, difference.weights) == (0.0, 0.0)
