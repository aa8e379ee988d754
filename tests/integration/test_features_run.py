"""Runs whose frozen part is computed once: announced, continued to the bit, damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launching import Finished, run, warm

pytestmark = pytest.mark.slow


class Runs:
    """Runs below one folder, with one cache."""

    def __init__(self, folder: Path, dataset: Path) -> None:
        self.folder, self.dataset = folder, dataset

    def train(self, name: str, *flags: str) -> Finished:
        command = warm("-m", "vit_colossal", "train", "--dataset", str(self.dataset), "--device")
        command += ["cpu", "--model", "vit-micro", "--freeze", "backbone", "--no-tensorboard"]
        command += ["--max-train-samples", "60", "--max-eval-samples", "37", "--lr-schedule"]
        command += ["constant", "--lr", "1e-2", "--global-batch-size", "16", "--save-best-model"]
        command += ["--output-dir", str(self.folder / name), *flags]
        finished = run([*command, "--cache-dir", str(self.folder / "cache")], timeout_s=200)
        assert finished.returncode == 0, finished.output
        return finished

    def result(self, name: str) -> tuple[bytes, dict[str, object]]:
        """The saved weights, and what was told of the last evaluation."""
        place = self.folder / name
        lines = (place / "metrics.jsonl").read_text().splitlines()
        [*_, last] = [e for e in map(json.loads, lines) if e["event"] == "eval"]
        return (place / "model" / "model.safetensors").read_bytes(), {**last, "elapsed": 0}

    @property
    def entries(self) -> list[Path]:
        return sorted((self.folder / "cache" / "features").iterdir())


@pytest.fixture(scope="module")
def runs(eleven: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("features"), eleven)


def test_a_continued_run_has_the_bits_of_one_that_was_not(runs: Runs) -> None:
    """With an entry that was damaged in between, and returns to weights of an earlier step."""
    whole = runs.train("whole", "--epochs", "3", "--no-feature-cache")
    assert "frozen: all but the head, computed in each epoch: as --no-feature-cache" in whole.output
    first = runs.train("continued", "--epochs", "2").output
    assert "frozen: all but the head, computed once for each image and kept: up to 0.3 KB" in first
    assert "computing features of 60 images" in first and "computing features of 37" in first
    assert "of the best evaluation, after step 4" in first
    before = [(entry / "images.npy").read_bytes() for entry in runs.entries]
    assert len(before) == 2
    file = runs.entries[0] / "images.npy"
    file.write_bytes(before[0][:-1] + bytes([before[0][-1] ^ 1]))
    second = runs.train("continued", "--epochs", "3", "--resume", "auto").output
    assert "are damaged" in second and "taken from" in second
    assert second.count("computing features") == 1
    assert [(entry / "images.npy").read_bytes() for entry in runs.entries] == before
    assert "settings changed" not in second
    assert runs.result("continued") == runs.result("whole")


def test_other_weights_have_other_features(runs: Runs) -> None:
    count = len(runs.entries)
    rehearsed = runs.train("other", "--epochs", "2", "--seed", "7", "--dry-run").output
    assert "computed once for each image and kept" in rehearsed and len(runs.entries) == count
    runs.train("other", "--epochs", "2", "--seed", "7")
    assert len(runs.entries) == count + 2
    again = runs.train("again", "--epochs", "2", "--seed", "7").output
    assert again.count("taken from") == 2 and len(runs.entries) == count + 2
    assert runs.result("again") == runs.result("other")
    # Training images are mirrored; those of the evaluation are known.
    flipped = runs.train("flipped", "--epochs", "2", "--seed", "7", "--horizontal-flip").output
    assert "computed once for each evaluation image and kept" in flipped
    assert "features of 37 images: taken from" in flipped and "computing features" not in flipped


def test_where_nothing_can_be_kept_the_run_goes_on(runs: Runs) -> None:
    place = runs.folder / "cache" / "features"
    place.rename(place.with_name("aside"))
    place.touch()
    said = runs.train("unkept", "--epochs", "2", "--seed", "7").output
    assert "features are not kept, and computed in each epoch: " in said
    assert runs.result("unkept") == runs.result("other")
