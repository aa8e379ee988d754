"""Start real processes for the tests: bounded, and with nothing left behind."""

from __future__ import annotations

import atexit
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import torch
from filelock import FileLock
from safetensors.torch import load_file

#: Every process of one launch inherits this variable; elastic gives workers sessions of their own,
#: so that neither a process group nor the parent's id would find them all.
from warm import MARK, NAME_LENGTH, PYTHON

HERE = Path(__file__).parent
ROOT = HERE.parent
WORKER = HERE / "distributed" / "worker.py"


@dataclass(frozen=True)
class Finished:
    """A command that ended by itself."""

    returncode: int
    stdout: str
    stderr: str
    left_over: list[str]

    @property
    def output(self) -> str:
        return f"exit code {self.returncode}\n{self.stdout}\n{self.stderr}"


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without a launcher's variables, and with one thread a process."""
    launcher = (
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
    )
    kept = {name: value for name, value in os.environ.items() if name not in launcher}
    sources = [str(ROOT / "src"), *filter(None, kept.get("PYTHONPATH", "").split(os.pathsep))]
    binaries = [str(Path(sys.executable).parent), kept.get("PATH", "")]
    return kept | {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(sources)),
        "PATH": os.pathsep.join(binaries),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        **changes,
    }


def run(
    command: Sequence[str],
    *,
    timeout_s: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Finished:
    """Run a command to its end.

    Args:
        command: the program and its arguments.
        timeout_s: seconds after which it and all of its processes are killed.
        cwd: working directory.
        env: environment; `environment()` when not given.

    Returns:
        Exit code, output, and what still ran two seconds after the command had ended (killed too).

    Raises:
        AssertionError: it did not end in time; the text holds its output.
    """
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        list(command),
        cwd=cwd,
        env={**(environment() if env is None else env), MARK: mark},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        kill_marked(mark)
        stdout, stderr = process.communicate(timeout=30)
        raise AssertionError(
            f"not done after {timeout_s} s: {' '.join(command)}\n{stdout}\n{stderr}"
        ) from None
    finally:
        left_over = _left_over(mark)
        kill_marked(mark)
    return Finished(process.returncode, stdout, stderr, left_over)


def marked(mark: str) -> list[psutil.Process]:
    """The living processes of one launch."""
    found = []
    for process in psutil.process_iter():
        try:
            # A fork shows the environment of the one that was started: it has the mark as its name.
            told = process.name() == mark[:NAME_LENGTH] or process.environ().get(MARK) == mark
            if told and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def kill_marked(mark: str) -> None:
    """Kill what is left of one launch."""
    for process in marked(mark):
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue


def _left_over(mark: str) -> list[str]:
    deadline = time.monotonic() + 2
    while (processes := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return [" ".join(process.cmdline()) for process in processes if process.is_running()]


def torchrun(processes: int, *arguments: str) -> list[str]:
    """The command that starts ``processes`` ranks on this machine, on a port the system picks."""
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nproc_per_node", str(processes), "--master_addr", "127.0.0.1"),
        *("--rdzv_backend", "c10d", "--rdzv_endpoint", "127.0.0.1:0", "--max_restarts", "0"),
        *arguments,
    ]


def warm(*arguments: str, late: bool = False) -> list[str]:
    """The command of ``python ARGUMENTS...``, a script's path or ``-m`` and a module, without the
    time of its imports: a fork of one Python that has imported all (see ``warm``).

    Neither for what an import reads from the environment nor for tests of the start itself.

    Args:
        arguments: what follows ``python`` on its command line.
        late: the environment says where the hub or this package is, which is read when they are
            imported: the fork imports them, ColossalAI and transformers itself.
    """
    return [*_warm_python("what knows no hub" if late else "all"), *arguments]


@cache
def warm_programs() -> Path:
    """A folder with the programs ``python`` and ``vit-colossal``, which are forks as above."""
    folder = Path(tempfile.mkdtemp(prefix="warm-programs-"))
    atexit.register(shutil.rmtree, folder)
    for name, arguments in (("python", ()), ("vit-colossal", ("-m", "vit_colossal"))):
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec {shlex.join(warm(*arguments))} "$@"\n')
        program.chmod(0o755)
    return folder


def with_warm_children(python: Path | str = "") -> dict[str, str]:
    """The environment in which what a fork starts by `sys.executable` is a fork, too.

    Args:
        python: what to start instead of ``warm_programs() / "python"``.
    """
    return environment(**{PYTHON: str(python or warm_programs() / "python")})


@cache
def _warm_python(imports: str) -> list[str]:
    """Start one; the beginning of the commands that it runs."""
    folder = tempfile.mkdtemp(prefix="warm-")
    path = Path(folder) / "socket"
    process = subprocess.Popen(
        [sys.executable, str(HERE / "warm.py"), "serve", str(path), imports],
        env=environment(),
        stdin=subprocess.PIPE,
        # Python asks once whether one may seek in its streams: not so in those of its forks.
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    atexit.register(shutil.rmtree, folder)
    atexit.register(process.communicate)  # it ends with its input, also if this process is killed
    while not path.exists():
        assert process.poll() is None, "it did not start"
        time.sleep(0.01)
    return [sys.executable, "-I", "-S", str(HERE / "warm.py"), "ask", str(path)]


def forked(processes: int, *arguments: str) -> list[str]:
    """The command that runs a script in ``processes`` ranks as ``--nproc`` does."""
    return warm(str(HERE / "forked.py"), str(processes), *arguments)


@dataclass(frozen=True)
class Case:
    """One training run inside a launch.

    Attributes:
        name: unique within the launch.
        flags: the command line of ``train.py``.
        evaluate: images of the evaluation split to evaluate on, by the number of steps done before.
        after: the same after the last step, one evaluation each.
        export: save the model directory.
    """

    name: str
    flags: list[str]
    evaluate: dict[int, int] = field(default_factory=dict)
    after: list[int] = field(default_factory=list)
    export: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a case did, as its lead rank saw it.

    Attributes:
        losses: mean loss over the global batch, per step.
        grad_norms: gradient norm before clipping, per step; None where nothing clips.
        evaluations: ``loss``, ``correct``, ``total`` by the number of steps done before.
        after: the same for the evaluations after the last step.
        layer_calls: forward calls of encoder layers on the lead rank in the first step.
        wrong_modes: layer calls of training steps in evaluation mode, or the other way round.
        chunks, sharded_chunks: Gemini's chunks, and those that no rank holds whole.
        labels: the label names in the model's configuration.
        weights: the gathered weights by parameter name.
        export: the saved model directory.
    """

    losses: list[float]
    grad_norms: list[float | None]
    evaluations: dict[str, dict[str, Any]]
    after: list[dict[str, Any]]
    layer_calls: int
    wrong_modes: int
    chunks: int
    sharded_chunks: int
    labels: list[str]
    weights: dict[str, torch.Tensor]
    export: Path


class Launch:
    """Cases that ran one after another in the same processes."""

    def __init__(self, directory: Path, processes: int, cases: Sequence[Case]) -> None:
        """Run all cases, unless another of pytest's processes has done so in this directory.

        A case that fails is left out of a second launch of those after it.
        """
        self.directory, self.processes = directory, processes
        directory.mkdir(parents=True, exist_ok=True)
        log = directory / "log.txt"
        with FileLock(directory / "lock"):
            if not log.exists():
                log.write_text(self._run_all(cases))
        self.log = log.read_text()

    def _run_all(self, cases: Sequence[Case]) -> str:
        log, todo = "", list(cases)
        for attempt in range(6):
            log = self._run(attempt, todo)
            done = {case.name for case in todo if self._is_over(case)}
            if not done:
                break
            todo = [case for case in todo if case.name not in done]
            if not todo:
                break
        return log

    def outcome(self, name: str) -> Outcome:
        """What a case did.

        Raises:
            AssertionError: it failed or was never reached; the text says why.
        """
        directory = self.directory / name
        errors = [path.read_text() for path in sorted(directory.glob("error-*.txt"))]
        if errors or not (directory / "result.json").is_file():
            raise AssertionError(f"case {name} did not end:\n{chr(10).join(errors) or self.log}")
        values = json.loads((directory / "result.json").read_text())
        weights = load_file(directory / "weights.safetensors")
        return Outcome(weights=weights, export=directory / "model", **values)

    def _is_over(self, case: Case) -> bool:
        directory = self.directory / case.name
        return (directory / "result.json").is_file() or any(directory.glob("error-*.txt"))

    def _run(self, attempt: int, cases: Sequence[Case]) -> str:
        path = self.directory / f"cases-{attempt}.json"
        path.write_text(json.dumps([asdict(case) for case in cases]))
        arguments = [str(WORKER), str(path), str(self.directory)]
        command = warm(*arguments)
        if self.processes > 1:
            command = forked(self.processes, *arguments)
        finished = run(command, timeout_s=120 + 10 * len(cases))
        return finished.output[-6000:]
