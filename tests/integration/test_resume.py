"""Signals, lost launchers, dead ranks, spoiled losses and foreign checkpoints, with real runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
from faulty_train import Fault
from kill_chain import SCRIPT
from safetensors.torch import load_file

from launching import MARK, ROOT, Finished, environment, kill_marked, marked, run, torchrun, warm
from vit_colossal.checkpoints.files import listed, newest_valid
from vit_colossal.cli import main

STEPS = 90
#: All within one epoch of 89 steps and the first step of the next.
DIGITS = ("--dataset", "digits", "--model", "vit-micro", "--device", "cpu", "--no-tensorboard")
JOB = (*DIGITS, "--global-batch-size", "16", "--max-eval-samples", "32", "--log-every", "1")
JOB += ("--max-steps", str(STEPS), "--save-every", "24")
TRAIN = str(ROOT / "train.py")
TWO = ("--nproc", "2")


class Running:
    """A started command that has to be told to end."""

    def __init__(self, command: Sequence[str], **variables: str) -> None:
        self.mark = uuid.uuid4().hex
        env = environment(VIT_COLOSSAL_CACHE=os.environ["VIT_COLOSSAL_CACHE"], **variables)
        self.process = subprocess.Popen(
            list(command),
            env={**env, MARK: self.mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def wait_for_step(self, run_dir: Path, step: int, timeout_s: float = 120) -> None:
        """Wait until the run has logged ``step``."""
        deadline = time.monotonic() + timeout_s
        while last_step(run_dir) < step:
            if self.process.poll() is not None or time.monotonic() > deadline:
                kill_marked(self.mark)
                raise AssertionError(f"step {step} was not reached:\n{self.end().output}")
            time.sleep(0.02)

    def end(self, timeout_s: float = 120) -> Finished:
        """Wait for the command and, for a while, for all of its processes."""
        try:
            stdout, _ = self.process.communicate(timeout=timeout_s)
            deadline = time.monotonic() + 60
            while marked(self.mark) and time.monotonic() < deadline:
                time.sleep(0.1)
            left_over = [str(process.pid) for process in marked(self.mark)]
        finally:
            kill_marked(self.mark)
        return Finished(self.process.returncode, stdout, "", left_over)


def last_step(run_dir: Path) -> int:
    """The last step in the run's events, 0 without any."""
    file = run_dir / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


def train(run_dir: Path, *flags: str) -> list[str]:
    return warm(TRAIN, *JOB, "--output-dir", str(run_dir), *flags)


def finish(command: list[str]) -> Finished:
    env = environment(VIT_COLOSSAL_CACHE=os.environ["VIT_COLOSSAL_CACHE"])
    return run(command, timeout_s=180, env=env)


def uninterrupted(tmp_path_factory: pytest.TempPathFactory, *flags: str) -> Path:
    run_dir = tmp_path_factory.mktemp("reference") / "run"
    finished = finish(train(run_dir, *flags))
    assert finished.returncode == 0, finished.output
    return run_dir


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of one process."""
    return uninterrupted(tmp_path_factory)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of two processes."""
    return uninterrupted(tmp_path_factory, *TWO)


def assert_same_end(run_dir: Path, reference: Path) -> None:
    for name in ("weights.safetensors", "moments.safetensors", "state.json"):
        mine, other = (path / "checkpoints" / "last" / name for path in (run_dir, reference))
        assert mine.read_bytes() == other.read_bytes(), name
    mine_model, other_model = (path / "model/model.safetensors" for path in (run_dir, reference))
    assert mine_model.read_bytes() == other_model.read_bytes()


EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 143}


def interrupt(run_dir: Path, signals: Sequence[signal.Signals], *flags: str) -> None:
    """Each signal saves on the way and has its exit code; the end resumes what they left."""
    command = train(run_dir, *flags, "--resume", "auto")
    for number in signals:
        exit_code = EXIT_CODES[number]
        before = last_step(run_dir)
        running = Running(command)
        running.wait_for_step(run_dir, before + 5)
        running.process.send_signal(number)
        finished = running.end()
        assert finished.returncode == exit_code, finished.output
        assert finished.left_over == []
        assert f"stopped by signal {int(number)}" in finished.stdout
        assert "Traceback" not in finished.stdout
        newest, skipped = newest_valid(run_dir / "checkpoints")
        assert newest is not None
        assert (newest.step, skipped) == (last_step(run_dir), [])
        assert before < newest.step < STEPS
    finished = finish(command)
    assert finished.returncode == 0, finished.output
    assert "same layout, so bit-exact" in finished.stdout


@pytest.mark.slow
def test_signals_to_a_single_process(tmp_path: Path, alone: Path) -> None:
    interrupt(tmp_path / "run", [signal.SIGTERM, signal.SIGINT])
    assert_same_end(tmp_path / "run", alone)


@pytest.mark.slow
def test_signals_to_the_parent_of_two(tmp_path: Path, together: Path) -> None:
    """Saved in the background too: another moment, the same bits."""
    interrupt(tmp_path / "run", [signal.SIGUSR1], *TWO, "--async-save")
    assert_same_end(tmp_path / "run", together)


def test_a_second_signal_aborts_at_once(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    # Steps of seconds; a single signal would end after the next one, with a checkpoint.
    slow_steps = ("--global-batch-size", "1400", "--log-every", "1", "--max-eval-samples", "8")
    flags = (*DIGITS, *slow_steps, "--max-steps", "50", "--save-every", "1000", "--no-keep-best")
    running = Running(warm(TRAIN, *flags, "--output-dir", str(run_dir)))
    running.wait_for_step(run_dir, 1)
    running.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    running.process.send_signal(signal.SIGTERM)
    finished = running.end()
    assert finished.returncode == 143, finished.output
    assert finished.left_over == []
    assert "stopped by signal" not in finished.stdout
    assert listed(run_dir / "checkpoints") == []


@pytest.mark.slow
def test_workers_of_a_killed_torchrun_save_and_end(tmp_path: Path, together: Path) -> None:
    run_dir = tmp_path / "run"
    flags = [*JOB, "--output-dir", str(run_dir), "--resume", "auto"]
    # A pipe whose reader is gone would be a second fault: this one is read to the end.
    running = Running(torchrun(2, TRAIN, *flags))
    running.wait_for_step(run_dir, 5)
    running.process.kill()
    finished = running.end()
    assert finished.left_over == [], finished.output
    newest, _ = newest_valid(run_dir / "checkpoints")
    assert newest is not None
    assert newest.step == last_step(run_dir) < STEPS
    finished = finish(warm(TRAIN, *flags, *TWO))
    assert finished.returncode == 0, finished.output
    assert_same_end(run_dir, together)


@pytest.mark.slow
def test_the_demo_killed_in_mid_epoch_ends_the_same(tmp_path: Path) -> None:
    """Three epochs of run_demo.sh; all of its processes are killed in the second."""

    def demo(name: str) -> list[str]:
        flags = ["--epochs", "3", "--log-every", "10", "--output-dir", str(tmp_path / name)]
        return ["bash", str(ROOT / "scripts" / "run_demo.sh"), *flags, "--resume", "auto"]

    outputs = []
    for name, killed_at in (("whole", 0), ("killed", 60)):
        if killed_at:
            running = Running(demo(name), VIT_COLOSSAL_VENV=sys.prefix)
            running.wait_for_step(tmp_path / name, killed_at)
            kill_marked(running.mark)
            assert running.end().left_over == []
            newest, _ = newest_valid(tmp_path / name / "checkpoints")
            assert newest is not None
            assert newest.step == 44
        finished = Running(demo(name), VIT_COLOSSAL_VENV=sys.prefix).end(300)
        assert finished.returncode == 0, finished.output
        outputs.append(finished.stdout)
    assert "resumed from" in outputs[1]
    lines = [
        next(x for x in text.splitlines()[::-1] if x.startswith("accuracy")) for text in outputs
    ]
    assert lines[0] == lines[1]
    whole, killed = (tmp_path / name / "model/model.safetensors" for name in ("whole", "killed"))
    assert whole.read_bytes() == killed.read_bytes()


def planted(fault: Fault) -> str:
    return json.dumps(asdict(fault))


@pytest.mark.slow
def test_torchrun_restarts_resume_by_themselves(tmp_path: Path, together: Path) -> None:
    run_dir, mark = tmp_path / "run", tmp_path / "struck"
    flags = [*JOB, "--output-dir", str(run_dir)]
    command = torchrun(2, str(SCRIPT), "2", *flags)
    command[command.index("--max_restarts") + 1] = "1"
    running = Running(command, FAULT=planted(Fault(1, 36, "backward", "SIGKILL", str(mark))))
    finished = running.end()
    assert finished.returncode == 0, finished.output
    assert finished.left_over == []
    assert mark.read_text() == "36"
    assert "resumed from" in finished.stdout
    assert "step-000024" in finished.stdout
    assert_same_end(run_dir, together)


def test_a_killed_rank_is_named(tmp_path: Path) -> None:
    command = warm(str(SCRIPT), "2", *JOB, "--output-dir", str(tmp_path / "run"))
    mark = str(tmp_path / "struck")
    running = Running(command, FAULT=planted(Fault(1, 3, "forward", "SIGKILL", mark)))
    finished = running.end()
    assert finished.returncode == 1, finished.output
    assert finished.left_over == []
    lines = [line for line in finished.stdout.splitlines() if line.startswith("error: rank 1 (pid")]
    assert len(lines) == 1, finished.output
    assert lines[0].endswith("was killed by SIGKILL")


def assert_finite(root: Path) -> None:
    for path in listed(root):
        for name, tensor in load_file(path / "weights.safetensors").items():
            assert tensor.isfinite().all(), (path, name)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    """Weights are spoiled in step 12, at whose end a checkpoint is due; its loss is still fine."""
    run_dir = tmp_path / "run"
    mark = str(tmp_path / "struck")
    command = warm(str(SCRIPT), "1", *JOB, "--output-dir", str(run_dir))
    flags = ["--save-every", "6", "--max-bad-steps", "4"]
    running = Running([*command, *flags], FAULT=planted(Fault(0, 12, "optimizer", "nan", mark)))
    finished = running.end()
    assert finished.returncode == 1, finished.output
    assert "the loss is not finite since step 13: stopped after 4 such steps" in finished.stdout
    assert "the last good checkpoint is" in finished.stdout
    assert finished.stdout.rstrip().count("Traceback") == 0
    newest, skipped = newest_valid(run_dir / "checkpoints")
    assert newest is not None
    assert (newest.step, skipped) == (6, [])
    assert str(newest.path) in finished.stdout
    assert_finite(run_dir / "checkpoints")


@pytest.mark.parametrize(
    ("step", "what"), [(20, "the loss of the evaluation"), (19, "the loss of the last step")]
)
def test_a_run_that_ends_with_a_loss_that_is_not_finite_saves_no_model(
    step: int, what: str, tmp_path: Path
) -> None:
    """Too late for --max-bad-steps: weights are spoiled in the last step, or in the one before."""
    run_dir = tmp_path / "run"
    command = warm(str(SCRIPT), "1", *DIGITS, "--global-batch-size", "16")
    command += ["--max-steps", "20", "--max-eval-samples", "32", "--save-every", "10"]
    planned = planted(Fault(0, step, "optimizer", "nan", str(tmp_path / "struck")))
    finished = Running([*command, "--output-dir", str(run_dir)], FAULT=planned).end()
    assert finished.returncode == 1, finished.output
    assert f"error: {what} is not finite, so no model is saved" in finished.stdout
    assert "model saved" not in finished.stdout
    assert "Traceback" not in finished.stdout
    assert not (run_dir / "model").exists()
    newest, _ = newest_valid(run_dir / "checkpoints")
    assert newest is not None
    assert newest.step == 10
    assert str(newest.path) in finished.stdout
    assert_finite(run_dir / "checkpoints")


CHANGES = {
    "model.num_layers": ("--model-config", "num_hidden_layers=3"),
    "data": ("--max-train-samples", "1000"),
    "parameter groups": ("--decay-all",),
    "global batch size": ("--global-batch-size", "32"),
    "seed": ("--seed", "7"),
}
#: The same sizes, and other numbers.
OTHER_MODELS = {
    "hidden_act: gelu in the run, relu here": "hidden_act=relu",
    "layer_norm_eps: 1e-12 in the run, 0.001 here": "layer_norm_eps=0.001",
    "hidden_dropout_prob: 0.0 in the run, 0.5 here": "hidden_dropout_prob=0.5",
    "attention_probs_dropout_prob: 0.0 in the run, 0.1 here": "attention_probs_dropout_prob=0.1",
    "qkv_bias: True in the run, False here": "qkv_bias=false",
}


@pytest.mark.parametrize("what", CHANGES)
def test_another_run_s_checkpoint_is_refused(
    what: str, alone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """These end before a process group exists, so this process may ask."""
    flags = [*JOB, "--output-dir", str(alone), "--resume", "auto", *CHANGES[what]]
    assert main(["train", *flags]) == 2
    error = capsys.readouterr().err
    assert "belongs to another run" in error
    assert f"{what}: " in error
    assert "in the checkpoint" in error


@pytest.mark.parametrize("what", OTHER_MODELS)
def test_another_model_of_the_same_sizes_is_refused(
    what: str, alone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*JOB, "--output-dir", str(alone), "--resume", "auto"]
    assert main(["train", *flags, "--model-config", OTHER_MODELS[what]]) == 2
    error = capsys.readouterr().err
    assert "its configuration is not the run's: " in error
    assert what in error


def test_another_label_set_is_refused(
    alone: Path, eleven: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*JOB, "--output-dir", str(alone), "--resume", "last", "--dataset", str(eleven)]
    assert main(["train", *flags]) == 2
    error = capsys.readouterr().err
    assert "labels from entry 1: " in error
    assert "digit 0" in error


def test_a_run_is_neither_continued_nor_replaced_unasked(
    alone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (alone / "metrics.jsonl").read_bytes()
    assert main(["train", *JOB, "--output-dir", str(alone)]) == 2
    assert "holds a run: add --resume auto or --overwrite" in capsys.readouterr().err
    assert (alone / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("which", ["last", "best", "nowhere/step-000001"])
def test_nothing_to_resume_from(
    which: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *JOB, "--output-dir", str(tmp_path), "--resume", which]) == 2
    assert f"--resume {which}" in capsys.readouterr().err
