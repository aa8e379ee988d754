"""Some of the cases of ``bad_input`` as real commands, and what only several processes can do."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bad_input import ALL
from launching import environment, run, warm
from refusals import arguments, check, held, tree

pytestmark = pytest.mark.slow

REAL = [name for name, case in ALL.items() if case.real]
SMALL = "--device cpu --dataset digits --model vit-micro --max-train-samples 64"


def command(*flags: str) -> list[str]:
    return warm("-m", "vit_colossal", *flags)


@pytest.mark.parametrize("name", REAL)
def test_a_bad_input_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = ALL[name]
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    if case.make is not None:
        case.make()
    settings = {"VIT_COLOSSAL_CACHE": str(tmp_path / "cache"), **case.environment}
    started = [sys.executable, "-m", "vit_colossal"] if case.environment else command()
    with held(case.held):
        before = tree(folder)
        finished = run(
            [*started, *arguments(case)], timeout_s=60, cwd=folder, env=environment(**settings)
        )
        assert tree(folder) == before
    check(case, finished.returncode, finished.stdout, finished.stderr)
    assert not finished.left_over


def test_a_port_that_another_program_uses(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        launched = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        launched |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        flags = f"{SMALL} --max-steps 1 --global-batch-size 16 --output-dir run".split()
        finished = run(
            command("train", *flags), timeout_s=120, cwd=tmp_path, env=environment(**launched)
        )
    assert finished.returncode == 2, finished.output
    (line,) = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert f"MASTER_PORT, 127.0.0.1:{port}: in use by another program: choose another" in line
    assert "Traceback" not in finished.output
    assert not (tmp_path / "run").exists()


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    """The second is refused while the first one lives, and continues it once it is dead."""
    flags = f"{SMALL} --global-batch-size 16 --save-every 5 --output-dir run".split()
    first = subprocess.Popen(
        [sys.executable, "-m", "vit_colossal", "train", *flags, "--epochs", "100000"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "checkpoints" / "last").exists():
            assert first.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        for more in ("--overwrite", "--resume=auto"):
            second = run(
                command("train", *flags, more), timeout_s=60, cwd=tmp_path, env=environment()
            )
            assert second.returncode == 2, second.output
            (line,) = [line for line in second.stderr.splitlines() if line.startswith("error: ")]
            assert "--output-dir run: another run is writing to it" in line
            assert f"process {first.pid} on {socket.gethostname()}" in line
            assert first.poll() is None
    finally:
        first.kill()
        first.wait()
    assert (tmp_path / "run" / ".lock").exists()  # it was killed: nobody tidied up
    third = run(
        command("train", *flags, "--resume", "auto", "--epochs", "100000", "--dry-run"),
        timeout_s=60,
        cwd=tmp_path,
        env=environment(),
    )
    assert third.returncode == 0, third.output
