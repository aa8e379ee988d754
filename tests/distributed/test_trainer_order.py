"""``--order transformers`` trains on the batches of an unmodified Trainer script.

The script (trainer_script.py) knows nothing of this project; it runs alone and under torchrun.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from trainer_script import IMAGES, SEED

from launching import Case, Launch, environment, run, torchrun
from vit_colossal.families.table import FAMILIES

SCRIPT = Path(__file__).with_name("trainer_script.py")
EPOCHS = 2


@dataclass(frozen=True)
class TrainerRun:
    """A run of the script."""

    processes: int
    batch: int
    accumulation: int

    @property
    def name(self) -> str:
        return f"{self.processes}x{self.batch}x{self.accumulation}"

    @property
    def flags(self) -> list[str]:
        """What asks for the same."""
        batch = self.processes * self.batch * self.accumulation
        return [
            *("--order", "transformers", "--order-processes", str(self.processes)),
            *("--global-batch-size", str(batch), "--grad-accumulation", str(self.accumulation)),
        ]


#: 53 images: of the batches of 8 on one process the last has 5; of those of 14 the last has 11, and
#: shares its update with a whole one. On two processes the last slice is filled up.
ALONE, ALONE_ACCUMULATED = TrainerRun(1, 8, 1), TrainerRun(1, 14, 2)
#: Three slices an update, so that a division by 3 may round; the last update has two.
PAIR, PAIR_ACCUMULATED = TrainerRun(2, 4, 1), TrainerRun(2, 2, 3)
RUNS = {1: (ALONE, ALONE_ACCUMULATED), 2: (PAIR, PAIR_ACCUMULATED)}

ON_ONE = {
    "ddp": "--plugin ddp",
    "zero1": "--plugin zero1",
    "zero2": "--plugin zero2",
}
ON_TWO = {
    **ON_ONE,
    "dp2": "--plugin hybrid",
    "pp2": "--plugin hybrid --pp 2",
    "tp2": "--plugin hybrid --tp 2",
    "gemini": "--plugin gemini --precision bf16",
}

#: Bit for bit: as many processes as the script had. With accumulation zero2 adds up over the
#: processes after each slice, Trainer once; and is among the others.
SAME = [
    *((1, name, ALONE_ACCUMULATED) for name in ON_ONE),
    (1, "ddp", ALONE),
    *((2, name, PAIR) for name in ON_ONE),
    *((2, name, PAIR_ACCUMULATED) for name in ("ddp", "zero1")),
]
CLOSE = [
    (2, "zero2", PAIR_ACCUMULATED),
    *((2, name, PAIR_ACCUMULATED) for name in ("dp2", "pp2", "tp2")),
    *((2, name, ALONE_ACCUMULATED) for name in ("dp2", "pp2", "tp2")),
    *((2, name, ALONE_ACCUMULATED) for name in ("ddp", "zero1")),
    (2, "ddp", ALONE),
    (1, "ddp", PAIR),
    (1, "zero1", PAIR_ACCUMULATED),
]
BF16 = [(2, "gemini", PAIR_ACCUMULATED), (2, "gemini", ALONE_ACCUMULATED)]


def flags(eleven: Path, base: Path, trainer: TrainerRun) -> list[str]:
    """The script's settings."""
    return [
        *("--dataset", str(eleven), "--model", str(base), "--device", "cpu", "--seed", str(SEED)),
        *("--max-train-samples", str(IMAGES), "--max-eval-samples", "8", "--epochs", str(EPOCHS)),
        *("--lr", "1e-3", "--lr-schedule", "constant", "--warmup-ratio", "0"),
        *("--weight-decay", "0.01", "--log-every", "1"),
        *trainer.flags,
    ]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained model for other labels: its head is replaced."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    folder = tmp_path_factory.mktemp("base")
    sizes = {"image_size": 16, "patch_size": 4, "hidden_size": 36, "intermediate_size": 76}
    torch.manual_seed(0)
    config = ViTConfig(**sizes, num_hidden_layers=2, num_attention_heads=4, num_labels=3)
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trainer(eleven: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Trainer did: a folder for each run."""
    folder = tmp_path_factory.mktemp("trainer")
    for processes, runs in RUNS.items():
        path = folder / f"runs-{processes}.json"
        shapes = [{"batch": r.batch, "accumulation": r.accumulation, "name": r.name} for r in runs]
        path.write_text(json.dumps([{**shape, "epochs": EPOCHS} for shape in shapes]))
        arguments = [str(SCRIPT), str(eleven), str(base), str(folder), str(path)]
        start = torchrun(processes, *arguments) if processes > 1 else [sys.executable, *arguments]
        finished = run(start, timeout_s=300)
        assert finished.returncode == 0, finished.output
    return folder


@pytest.fixture(scope="module")
def ours(eleven: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Launch]:
    launches = {}
    for processes, layouts in ((1, ON_ONE), (2, ON_TWO)):
        wanted = [each for each in (*SAME, *CLOSE, *BF16) if each[0] == processes]
        chosen = [
            Case(f"{name}-{r.name}", [*layouts[name].split(), *flags(eleven, base, r)])
            for _, name, r in wanted
        ]
        launches[processes] = Launch(tmp_path_factory.mktemp("ours"), processes, chosen)
    return launches


def losses_of(trainer: Path, r: TrainerRun) -> list[float]:
    """What Trainer logged, unrounded."""
    return json.loads((trainer / r.name / "losses.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "name", "r"), SAME)
def test_losses_and_weights_are_those_of_the_script(
    processes: int, name: str, r: TrainerRun, ours: dict[int, Launch], trainer: Path
) -> None:
    found, expected = ours[processes].outcome(f"{name}-{r.name}"), losses_of(trainer, r)
    assert len(expected) == EPOCHS * {ALONE: 7, ALONE_ACCUMULATED: 2, PAIR: 7}.get(r, 5)
    # Trainer takes the mean of the processes in fp32.
    assert [float(np.float32(loss)) for loss in found.losses] == expected
    for key, tensor in load_file(trainer / r.name / "model/model.safetensors").items():
        assert torch.equal(found.weights[FAMILIES["vit"].published(key)], tensor), key


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "name", "r"), CLOSE)
def test_other_layouts_differ_by_rounding(
    processes: int, name: str, r: TrainerRun, ours: dict[int, Launch], trainer: Path
) -> None:
    found = ours[processes].outcome(f"{name}-{r.name}").losses
    assert found == pytest.approx(losses_of(trainer, r), rel=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "name", "r"), BF16)
def test_gemini_differs_by_the_rounding_of_its_weights(
    processes: int, name: str, r: TrainerRun, ours: dict[int, Launch], trainer: Path
) -> None:
    found = ours[processes].outcome(f"{name}-{r.name}").losses
    assert found == pytest.approx(losses_of(trainer, r), rel=2e-2)


@pytest.mark.slow
def test_a_run_that_is_continued_within_an_epoch_logs_what_trainer_logs(
    eleven: Path, base: Path, trainer: Path, tmp_path: Path
) -> None:
    start = [sys.executable, "-m", "vit_colossal", "train", "--nproc", "2", "--plugin", "zero1"]
    command = [*start, *flags(eleven, base, PAIR_ACCUMULATED)]
    command += ["--output-dir", str(tmp_path / "run")]
    for more in (["--max-steps", "3", "--save-every", "3"], ["--resume", "last"]):
        finished = run([*command, *more], timeout_s=200, env=environment())
        assert finished.returncode == 0, finished.output
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    events = [event for event in map(json.loads, lines) if event["event"] == "train"]
    assert [event["loss"] for event in events] == losses_of(trainer, PAIR_ACCUMULATED)
    assert "this is no longer the same run" not in finished.output
