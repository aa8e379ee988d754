"""Part ``resume``: a run that was killed and went on has the bits of one that was not."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from gpu_check.check import Check, Outcome, events, failed, passed, slug
from gpu_check.running import Argument, Finished
from gpu_check.training import CHUNKS, SHORT

OFFLOAD = ["--gemini-offload-optim-frac", "1", "--gemini-offload-param-frac", "1"]


def _cases(check: Check) -> dict[str, list[str]]:
    """Every plugin once, and between them every precision, clipping and loss scale."""
    gemini = ["--plugin", "gemini", "--precision", "bf16", *CHUNKS]
    clipped = ["--clip-grad-norm", "1"]
    cases = {
        "ddp fp16": ["--plugin", "ddp", "--precision", "fp16"],
        "zero1 bf16, clipped": ["--plugin", "zero1", "--precision", "bf16", *clipped],
        "zero2 fp32": ["--plugin", "zero2", "--precision", "fp32"],
        "gemini bf16": gemini,
        "hybrid fp16": ["--plugin", "hybrid", "--precision", "fp16"],
    }
    if check.device == "cuda":
        cases["gemini offload, clipped"] = [*gemini, *OFFLOAD, *clipped]
    if check.processes > 1:
        cases["hybrid pp2 bf16"] = ["--plugin", "hybrid", "--pp", "2", "--precision", "bf16"]
        cases["hybrid tp2 bf16"] = ["--plugin", "hybrid", "--tp", "2", "--precision", "bf16"]
    return {"zero1 bf16, clipped": cases["zero1 bf16, clipped"]} if check.tiny else cases


def resume(check: Check) -> None:
    """All cases: the runs that are left alone first, then those that are killed."""
    cases = [Interrupted(check, name, flags) for name, flags in _cases(check).items()]
    alone, broken = [one.leave_alone for one in cases], [one.kill_and_resume for one in cases]
    check.runner.together([*alone, *broken])
    for one in cases:
        check.add("resume", one.name, one.outcome(), one.seconds)


@dataclass
class Interrupted:
    """One case: a run that is left alone, and the same run killed halfway and continued."""

    check: Check
    name: str
    flags: list[str]
    problems: list[str] = field(default_factory=list)
    text: str = ""
    seconds: float = 0.0

    @property
    def steps(self) -> tuple[int, int, int]:
        """All of them, those between checkpoints, and where it is killed: within an epoch of 16."""
        return (60, 8, 40) if self.check.tiny else (240, 24, 120)

    def leave_alone(self) -> None:
        finished = self._start("whole")
        if finished.code != 0:
            self.problems.append(f"the run that was left alone: {finished.problem()}")

    def kill_and_resume(self) -> None:
        began = time.monotonic()
        try:
            self._kill_and_resume()
        except Exception as error:  # one case's fault, whatever it is, leaves the others alone
            self.problems.append(f"{type(error).__name__}: {error}")
        self.seconds = time.monotonic() - began

    def outcome(self) -> Outcome:
        if self.problems:
            return failed("; ".join(self.problems))
        differing = _differing_bytes(*map(self._model, ("whole", "killed")))
        if differing:
            return failed(f"{self.text}: {differing}")
        return passed(f"{self.text}: the same bits")

    def _kill_and_resume(self) -> None:
        run_dir, (steps, _, halfway) = self._folder("killed"), self.steps
        finished = self._start("killed", kill_at=halfway)
        if finished.code != -9:
            early = "it ended before it could be killed"
            self.problems.append(early if finished.code == 0 else finished.problem())
            return
        reached = events(run_dir, "train")[-1]["step"]
        finished = self._start("killed", "--resume", "auto")
        found = re.search(r"resumed from \S*step-0*(\d+): (.+)", finished.text())
        if finished.code != 0:
            self.problems.append(finished.problem())
        elif found is None or found[2] != "same layout, so bit-exact":
            self.problems.append("it did not continue where it was: see its log")
        else:
            self.text = f"killed after step {reached} of {steps}, resumed from {found[1]}"

    def _start(self, kind: str, *more: str, kill_at: int | None = None) -> Finished:
        steps, every, _ = self.steps
        run_dir, check = self._folder(kind), self.check
        command: list[Argument] = ["train.py", *SHORT, *self.flags, "--device", check.device]
        command += [*check.nproc(), "--max-steps", str(steps), "--save-every", str(every)]
        command += ["--no-keep-best", "--output-dir", run_dir, *more]
        log = f"resume-{slug(self.name)}-{'resumed' if more else kind}"
        past = None if kill_at is None else partial(_is_past, run_dir, kill_at)
        return check.runner.run(log, command, kill_when=past)

    def _folder(self, kind: str) -> Path:
        return self.check.folder / "runs" / f"{kind}-{slug(self.name)}"

    def _model(self, kind: str) -> Path:
        return self._folder(kind) / "model" / "model.safetensors"


def _is_past(run_dir: Path, step: int) -> bool:
    """Whether it has saved at ``step`` and taken some more steps, which the killed run loses."""
    saved = [path.name.removeprefix("step-") for path in (run_dir / "checkpoints").glob("step-*")]
    if not any(int(number) >= step for number in saved):
        return False
    taken = re.findall(r'"step": (\d+)', (run_dir / "metrics.jsonl").read_text(encoding="utf-8"))
    return int(taken[-1]) >= step + 3


def _differing_bytes(path: Path, other: Path) -> str:
    """How much two files differ; empty where they do not."""
    left, right = (np.frombuffer(file.read_bytes(), np.uint8) for file in (path, other))
    if len(left) != len(right):
        return f"models of {len(left)} and {len(right)} bytes"
    count = int((left != right).sum())
    return f"{count:,} of the model's {len(left):,} bytes differ" if count else ""
