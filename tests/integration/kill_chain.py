"""Runs that are interrupted again and again, and what they end with.

A chain is one run directory: the same command is started once for each fault and once more without
one. Each start resumes what the previous one left, so a chain tests each of its faults, and its end
has to be that of a run which nothing interrupted, bit for bit.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from faulty_train import DECODE, KINDS, PHASES, Fault

from launching import Finished, environment, run, warm

SCRIPT = Path(__file__).with_name("faulty_train.py")
SAVE_EVERY = 3

#: A tiny run: four steps an epoch; saved twice within epochs and where they end, by turns.
TINY = ("--model", "vit-micro", "--device", "cpu", "--lr", "1e-3")
TINY += ("--max-train-samples", "64", "--max-eval-samples", "32", "--global-batch-size", "16")
TINY += ("--save-every", str(SAVE_EVERY), "--log-every", "1", "--no-tensorboard")

_SHARDED = ("--gemini-min-chunk-m", "0.03", "--gemini-search-range-m", "0.05")
_SHARDED += ("--gemini-hidden-dim", "64")

_DROPOUT = ("--model-config", "hidden_dropout_prob=0.1,attention_probs_dropout_prob=0.1")
_EMA = ("--ema", "0.9")

#: Layouts; those that end in "x 4" run on four processes, the others on two.
LAYOUTS: dict[str, tuple[str, ...]] = {
    "ddp streaming fp32": ("--plugin", "ddp", "--precision", "fp32", "--streaming"),
    "hybrid pp2 dp2 ema dropout bf16 x 4": (
        *("--plugin", "hybrid", "--pp", "2", "--precision", "bf16", *_EMA, *_DROPOUT),
    ),
    "zero1 ema dropout bf16": ("--plugin", "zero1", "--precision", "bf16", *_EMA, *_DROPOUT),
    "gemini streaming ema bf16": (
        *("--plugin", "gemini", "--precision", "bf16", *_SHARDED, *_EMA, "--streaming"),
    ),
    "hybrid tp2 dropout fp32": (
        "--plugin",
        "hybrid",
        "--tp",
        "2",
        "--precision",
        "fp32",
        *_DROPOUT,
    ),
    "ddp fp32": ("--plugin", "ddp", "--precision", "fp32"),
    "zero1 bf16": ("--plugin", "zero1", "--precision", "bf16", "--clip-grad-norm", "1"),
    "zero2 fp32": ("--plugin", "zero2", "--precision", "fp32"),
    "gemini bf16": ("--plugin", "gemini", "--precision", "bf16", *_SHARDED),
    "hybrid pp2 fp16": ("--plugin", "hybrid", "--pp", "2", "--precision", "fp16"),
    "hybrid tp2 bf16": ("--plugin", "hybrid", "--tp", "2", "--precision", "bf16"),
    "hybrid zero1 bf16": ("--plugin", "hybrid", "--zero", "1", "--precision", "bf16"),
    "ddp fp32 x 4": ("--plugin", "ddp", "--precision", "fp32"),
    "hybrid pp2 dp2 bf16 x 4": ("--plugin", "hybrid", "--pp", "2", "--precision", "bf16"),
}

#: How a start ends under our launcher, by the kind of its fault.
EXIT_CODES = {"SIGKILL": 1, "SIGTERM": 143, "SIGSTOP": 1, "exception": 1}


def processes(layout: str) -> int:
    """How many processes a layout of LAYOUTS runs on."""
    return 4 if layout.endswith("x 4") else 2


def phases(layout: str) -> tuple[str, ...]:
    """Where a layout's runs may be struck: a stream is decoded anew wherever that is struck."""
    return (DECODE, *PHASES) if "--streaming" in LAYOUTS[layout] else PHASES


@dataclass(frozen=True)
class Start:
    """One interrupted start.

    Attributes:
        fault: what was planted.
        struck: the step in which it struck.
        exit_code: of the launcher.
        seconds: of the whole start.
        ended_after: seconds from the fault to the end of the launcher and all its processes.
        problems: what was not as it should be.
    """

    fault: Fault
    struck: int | None
    exit_code: int
    seconds: float
    ended_after: float
    problems: list[str]


@dataclass(frozen=True)
class Chain:
    """A chain's starts, and how its last checkpoint differs from the uninterrupted run's."""

    layout: str
    steps: int
    starts: list[Start]
    problems: list[str]

    @property
    def passed(self) -> bool:
        return not self.problems and not any(start.problems for start in self.starts)

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict) -> Chain:  # type: ignore[type-arg]
        starts = [
            Start(**{**start, "fault": Fault(**start["fault"])}) for start in values["starts"]
        ]
        return cls(**{**values, "starts": starts})


def draw(
    generator: random.Random,
    steps: int,
    count: int,
    kinds: Sequence[str] = KINDS,
    ranks: int = 2,
    phases: Sequence[str] = PHASES,
) -> list[Fault]:
    """Faults in order of their steps, each late enough to be reached after the one before.

    A phase that not every step has waits for the next step that has it: three steps for a save,
    four for an evaluation. SIGTERM lets two more steps pass. Before the first step nobody gives up
    on a frozen rank within a test's patience, so that nothing is frozen there.
    """
    faults: list[Fault] = []
    done = 0
    while len(faults) < count:
        kind, phase = generator.choice(list(kinds)), generator.choice(phases)
        if phase == DECODE:
            if kind != "SIGSTOP":
                faults.append(Fault(0, done, phase, kind))
            continue
        earliest = done + 1
        step = earliest + generator.randrange(2)
        every = {"e": 4, "s": SAVE_EVERY}.get(phase[0], 1)
        step = -(-step // every) * every
        done = step + 2 * (kind == "SIGTERM")
        if done > steps - 1:
            break
        faults.append(Fault(generator.randrange(ranks), step, phase, kind))
    return faults


def start(directory: Path, layout: str, steps: int, fault: Fault | None = None) -> Finished:
    """Start the run of ``directory``, or start it again."""
    cache = Path(os.environ["VIT_COLOSSAL_CACHE"])
    flags = [*TINY, *LAYOUTS[layout], "--max-steps", str(steps), "--output-dir", str(directory)]
    if "--streaming" in flags:
        flags += ["--dataset", str(_digits_in_a_table(cache))]
        cache = directory.with_name(f"{directory.name} cache")
        if fault is not None and fault.phase == DECODE:
            shutil.rmtree(cache, ignore_errors=True)
    else:
        flags += ["--dataset", "digits"]
    planted = {}
    if fault is not None:
        planted = {"FAULT": json.dumps(asdict(fault))}
        # Peers of a frozen rank have to give up, within the test's patience.
        flags += ["--timeout", "10"] if fault.kind == "SIGSTOP" else []
    env = environment(VIT_COLOSSAL_CACHE=str(cache), **planted)
    command = warm(str(SCRIPT), str(processes(layout)), *flags, "--resume", "auto")
    return run(command, timeout_s=240, env=env)


def _digits_in_a_table(folder: Path) -> Path:
    """A Parquet file of 200 digits, as a stream is read from one."""
    file = folder / "digits.parquet"
    if not file.exists():
        import pyarrow
        import pyarrow.parquet
        from PIL import Image
        from sklearn.datasets import load_digits

        digits = load_digits()
        cells = []
        for pixels in digits.images[:200]:
            encoded = io.BytesIO()
            Image.fromarray((pixels * 15).astype("uint8")).save(encoded, "PNG")
            cells.append({"bytes": encoded.getvalue(), "path": None})
        rows = {"image": cells, "label": [f"digit {place}" for place in digits.target[:200]]}
        folder.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.table(rows), file)
    return file


def run_chain(
    directory: Path, reference: Path, layout: str, steps: int, faults: list[Fault]
) -> Chain:
    """Interrupt a run with each fault in turn, let it end, and compare it with the reference.

    Args:
        directory: of the run; made here.
        reference: the run that was not interrupted.
        layout: one of LAYOUTS.
        steps: length of the run.
        faults: as ``draw`` gives them.
    """
    directory.mkdir(parents=True)
    starts = [_interrupted(directory, layout, steps, fault) for fault in faults]
    last = start(directory, layout, steps)
    problems = _state(last, 0)
    return Chain(layout, steps, starts, problems or differing(directory, reference, steps))


def _interrupted(directory: Path, layout: str, steps: int, fault: Fault) -> Start:
    mark = directory / "struck"
    mark.unlink(missing_ok=True)
    since = time.monotonic()
    finished = start(directory, layout, steps, replace(fault, mark=str(mark)))
    now, seconds = time.time(), time.monotonic() - since
    struck = int(mark.read_text()) if mark.exists() else None
    ended_after = now - mark.stat().st_mtime if mark.exists() else 0.0
    problems = _state(finished, EXIT_CODES[fault.kind])
    if struck is None:
        problems.append(f"the fault was not reached:\n{finished.output[-3000:]}")
    return Start(
        fault, struck, finished.returncode, round(seconds, 1), round(ended_after, 2), problems
    )


def _state(finished: Finished, exit_code: int) -> list[str]:
    problems = []
    if finished.returncode != exit_code:
        problems.append(f"not exit code {exit_code}: {finished.output[-3000:]}")
    if finished.left_over:
        problems.append(f"still running: {finished.left_over}")
    return problems


def differing(directory: Path, reference: Path, steps: int) -> list[str]:
    """The files of two runs' last checkpoints that are not the same, bit for bit."""
    name = f"step-{steps:06d}"
    problems = []
    for other in sorted((reference / "checkpoints" / name).iterdir()):
        mine = directory / "checkpoints" / name / other.name
        if mine.name != "MANIFEST.json" and (
            not mine.is_file() or mine.read_bytes() != other.read_bytes()
        ):
            problems.append(f"{mine.name} of {name} is not that of the uninterrupted run")
    hidden = [path.name for path in (directory / "checkpoints").iterdir() if path.name[0] == "."]
    return problems + [f"left over: {name}" for name in hidden]
