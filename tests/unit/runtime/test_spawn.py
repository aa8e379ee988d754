"""Processes that are forked or started anew: signals, ends, and who is to blame."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist

from launching import ROOT, environment, run
from vit_colossal.runtime import spawn
from vit_colossal.runtime.spawn import Program, launch

WAIT_S = 60


@pytest.fixture(autouse=True)
def same_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `launch` sets for its processes is not kept for the next test."""
    for name in ("PYTHONPATH", "GLOO_SOCKET_IFNAME"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def _rank() -> int:
    return int(os.environ["RANK"])


def _add(folder: Path) -> int:
    dist.init_process_group("gloo")
    total = torch.ones(1)
    dist.all_reduce(total)
    dist.destroy_process_group()
    session = os.getsid(0) == os.getpid()
    (folder / str(_rank())).write_text(f"{int(total)} {session} {torch.get_num_threads()}")
    return 0


def _answer(code: int) -> int:
    return code if _rank() == 1 else 0


def _fail() -> int:
    if _rank() == 1:
        raise ValueError("planted")
    time.sleep(WAIT_S)
    return 0


def _kill_rank_1() -> int:
    dist.init_process_group("gloo")
    if _rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()
    return 0


def _save_when_asked(folder: Path) -> int:
    """As a run does: finish, save, and end with the code of the signal."""
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: received.append(number))
    (folder / f"up-{_rank()}").touch()
    deadline = time.monotonic() + WAIT_S
    while not received and time.monotonic() < deadline:
        time.sleep(0.02)
    (folder / f"saved-{_rank()}").write_text(str(received))
    return 143


def _sleep(folder: Path) -> int:
    """As a process that is still importing: it has no handlers."""
    (folder / f"up-{_rank()}").write_text(str(os.getpid()))
    time.sleep(WAIT_S)
    return 0


def _once_up(folder: Path, act: Callable[[], None]) -> threading.Thread:
    """Act when both processes have come to their command."""

    def watch() -> None:
        deadline = time.monotonic() + WAIT_S
        while len(list(folder.glob("up-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("forked", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_processes_meet_in_sessions_of_their_own(
    tmp_path: Path, forked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spawn, "can_fork", lambda: forked)
    assert launch(partial(_add, tmp_path), 2) == 0
    assert {path.read_text() for path in tmp_path.iterdir()} == {"2 True 1"}
    assert len(list(tmp_path.iterdir())) == 2


def test_no_thread_is_left_behind_by_a_fork() -> None:
    """One of the store's held a lock of the C library while the last process was forked."""
    code = (
        "import os, sys; from vit_colossal.runtime.spawn import launch\n"
        "count = lambda: len(os.listdir('/proc/self/task')); before = count(); during = []\n"
        "os.register_at_fork(before=lambda: during.append(count()))\n"
        "launch(int, 3); sys.exit(during != 3 * [before])"
    )
    assert run([sys.executable, "-c", code], timeout_s=WAIT_S).returncode == 0


def test_what_was_computed_before_a_fork_is_computed_after_it() -> None:
    """In several threads both times: those of the first time are not there the second time."""
    code = (
        "import os; os.environ['OMP_NUM_THREADS'] = '2'\n"
        "import torch; from vit_colossal.runtime.spawn import launch\n"
        "numbers = torch.zeros(10**6); torch.set_num_threads(2); numbers < 1\n"
        "raise SystemExit(launch(lambda: int((numbers < 1).sum()) - 10**6, 2))"
    )
    assert run([sys.executable, "-c", code], timeout_s=WAIT_S).returncode == 0


@pytest.mark.parametrize(("value", "threads"), [("2", 2), ("3,1", 3)])
def test_each_has_its_share_of_threads(
    tmp_path: Path, value: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert launch(partial(_add, tmp_path), 2) == 0
    assert {path.read_text() for path in tmp_path.iterdir()} == {f"2 True {threads}"}


def test_another_program_is_run_in_each(tmp_path: Path) -> None:
    code = f"import os; open({str(tmp_path)!r} + '/' + os.environ['LOCAL_RANK'], 'w')"
    assert launch(Program(("-c", code)), 3) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]


def test_one_that_ends_before_the_next_one_starts_is_waited_for() -> None:
    workers = [multiprocessing.get_context("spawn").Process(target=int) for _ in range(2)]
    for worker in workers:
        worker.start()  # collects those that have ended
        worker.join()
    assert spawn._wait(workers) is None


@pytest.mark.parametrize(("code", "said"), [(2, False), (3, False), (143, False), (7, True)])
def test_the_code_of_the_first_that_fails_is_the_answer(
    code: int, said: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    assert launch(partial(_answer, code), 2) == code
    assert ("rank 1 " in capfd.readouterr().err) == said


def test_an_error_ends_the_peers_and_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    assert launch(_fail, 2) == 1
    shown = capfd.readouterr().err
    assert "ValueError: planted" in shown
    assert "error: rank 1 (pid " in shown and "failed with exit code 1" in shown
    assert not multiprocessing.active_children()


def test_the_killed_one_is_named_and_not_who_mourns_it(capfd: pytest.CaptureFixture[str]) -> None:
    assert launch(_kill_rank_1, 2) == 1
    shown = capfd.readouterr().err
    assert [line for line in shown.splitlines() if line.startswith("error:")] == [
        line for line in shown.splitlines() if line.endswith("was killed by SIGKILL")
    ]
    assert "error: rank 1 (pid " in shown


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 143)]
)
def test_a_signal_reaches_all_and_they_may_save(tmp_path: Path, number: int, code: int) -> None:
    before = signal.getsignal(number)
    thread = _once_up(tmp_path, lambda: os.kill(os.getpid(), number))
    assert launch(partial(_save_when_asked, tmp_path), 2) == code
    thread.join()
    assert [p.read_text() for p in tmp_path.glob("saved-*")] == [f"[{int(number)}]"] * 2
    assert signal.getsignal(number) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_they_start_ends_them_at_once(
    tmp_path: Path, number: int, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    thread = _once_up(tmp_path, lambda: os.kill(os.getpid(), number))
    assert launch(partial(_sleep, tmp_path), 2) == code
    thread.join()
    assert "Traceback" not in capfd.readouterr().err


def test_sigterm_to_one_rank_ends_all_with_its_code(tmp_path: Path) -> None:
    def end_rank_1() -> None:
        os.kill(int((tmp_path / "up-1").read_text()), signal.SIGTERM)

    thread = _once_up(tmp_path, end_rank_1)
    assert launch(partial(_sleep, tmp_path), 2) == 143
    thread.join()


@pytest.mark.slow
def test_no_rank_outlives_a_killed_launcher(tmp_path: Path) -> None:
    program = tmp_path / "launcher.py"
    program.write_text(
        "import sys\nfrom functools import partial\nfrom pathlib import Path\n"
        "import test_spawn\n"
        "test_spawn.launch(partial(test_spawn._sleep, Path(sys.argv[1])), 2)\n"
    )
    paths = [str(Path(__file__).parent), str(ROOT / "tests"), str(ROOT / "src")]
    process = subprocess.Popen(
        [sys.executable, str(program), str(tmp_path)],
        env=environment(PYTHONPATH=os.pathsep.join(paths)),
    )
    _once_up(tmp_path, process.kill).join()
    assert process.wait(WAIT_S) == -signal.SIGKILL
    ranks = [int(path.read_text()) for path in tmp_path.glob("up-*")]
    deadline = time.monotonic() + WAIT_S
    while (alive := [pid for pid in ranks if psutil.pid_exists(pid)]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.05)
    assert len(ranks) == 2 and not alive


def test_waiting_for_a_program_takes_no_time_of_the_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits = []
    monkeypatch.setattr(spawn, "wait", lambda *args: waits.append(args) or real(*args))
    real = multiprocessing.connection.wait
    code = "import time; time.sleep(1.5)"
    assert launch(Program(("-c", code)), 2) == 0
    assert len(waits) <= 4
