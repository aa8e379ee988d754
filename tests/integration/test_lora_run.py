"""A run with adapters: resumed to the bit without its base, merged for all who use it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from families import TINY
from launching import Finished, run, warm
from vit_colossal.trained.export import export_hf
from vit_colossal.trained.saved import locate

pytestmark = pytest.mark.slow
JOB = ("--device", "cpu", "--nproc", "2", "--plugin", "hybrid", "--pp", "2", "--dataset", "digits")
JOB += ("--max-train-samples", "64", "--max-eval-samples", "32", "--global-batch-size", "16")
JOB += ("--max-steps", "6", "--save-every", "3", "--keep-last", "3", "--no-tensorboard")
JOB += ("--model", "base")


def train(work: Path, *flags: str) -> Finished:
    return run(warm("-m", "vit_colossal", "train", *JOB, *flags), timeout_s=120, cwd=work)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a whole run, and one that goes on from the middle of it."""
    work = tmp_path_factory.mktemp("work")
    TINY["vit"].save(work / "base")
    whole = train(work, "--lora-rank", "4", "--output-dir", "whole")
    assert whole.returncode == 0, whole.output
    assert "adapters of rank 4, scale 1, and the classifier" in whole.output
    shutil.rmtree(work / "base")
    middle = str(work / "whole" / "checkpoints" / "step-000003")
    again = train(work, "--lora-rank", "4", "--output-dir", "again", "--resume", middle)
    assert again.returncode == 0, again.output
    return work


@pytest.mark.parametrize("name", ["model/model", "adapter/adapter_model"])
def test_it_goes_on_to_the_bit(name: str, work: Path) -> None:
    whole, again = (load_file(work / run / f"{name}.safetensors") for run in ("whole", "again"))
    assert whole.keys() == again.keys()
    assert all(torch.equal(tensor, again[key]) for key, tensor in whole.items())


def test_an_exported_checkpoint_is_the_merged_model(work: Path) -> None:
    export_hf(locate(str(work / "whole"), "last"), work / "exported")
    found = load_file(work / "exported" / "model.safetensors")
    model = load_file(work / "whole" / "model" / "model.safetensors")
    assert found.keys() == model.keys()
    assert all(torch.equal(tensor, found[key]) for key, tensor in model.items())


def test_another_rank_is_another_run(work: Path) -> None:
    other = train(work, "--lora-rank", "8", "--output-dir", "whole", "--resume", "auto")
    assert other.returncode == 2, other.output
    assert "lora.rank: 4 in the checkpoint, 8 here" in other.stderr
    none = train(work, "--output-dir", "whole", "--resume", "auto")
    assert none.returncode == 2, none.output
    assert "null here" in none.stderr
