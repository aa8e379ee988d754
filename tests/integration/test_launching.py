"""The tests' own launcher: it ends what it starts, and tells what was left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from launching import MARK, environment, marked, run, warm

#: A child in a session of its own, as torch's elastic launcher gives its workers.
START_A_CHILD = (
    "import subprocess, sys, time;"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], "
    "start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL);"
)


def test_what_is_left_behind_is_found_and_ended() -> None:
    finished = run([sys.executable, "-c", START_A_CHILD + "print('done')"], timeout_s=30)
    assert finished.returncode == 0
    assert len(finished.left_over) == 1
    assert "time.sleep(60)" in finished.left_over[0]


def test_a_command_that_hangs_is_ended_with_its_children() -> None:
    with pytest.raises(AssertionError, match="not done after 3 s"):
        run([sys.executable, "-c", START_A_CHILD + "time.sleep(60)"], timeout_s=3)
    clean = run([sys.executable, "-c", "print('clean')"], timeout_s=30)
    assert (clean.stdout, clean.left_over) == ("clean\n", [])


# --- Forks of a Python that has imported all ------------------------------------------------------

#: Says what a process is given, and leaves a fork of itself behind.
TELL = """
import json, os, sys, time
sys.stdout.reconfigure(encoding="utf-8")
print(json.dumps([sys.argv[1:], os.getcwd(), os.environ["TOLD"], "colossalai" in sys.modules]))
print("an error", file=sys.stderr, flush=True)
sys.stdout.flush()
if os.fork() == 0:
    os.setsid()
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    os.execvp("sleep", ["sleep", "60"]) if sys.argv[1] == "new" else time.sleep(60)
os._exit(7)
"""


@pytest.mark.parametrize("kind", ["new", "fork"])
def test_a_fork_is_as_a_process_that_was_started(kind: str, tmp_path: Path) -> None:
    finished = run(
        warm("-c", TELL, kind, "two words"),
        timeout_s=120,
        cwd=tmp_path,
        env=environment(TOLD="something"),
    )
    assert finished.returncode == 7, finished.output
    assert finished.stdout == f'[["{kind}", "two words"], "{tmp_path}", "something", true]\n'
    assert finished.stderr == "an error\n"
    assert len(finished.left_over) == 1


WAIT = """
import os, time
print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_who_asked_is_one_to_the_fork(number: signal.Signals) -> None:
    mark = uuid.uuid4().hex
    command, env = warm("-c", WAIT), environment() | {MARK: mark}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert pid in {one.pid for one in marked(mark)} - {process.pid}
        process.send_signal(number)
        assert process.wait(timeout=30) == -number
    deadline = time.monotonic() + 30
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert marked(mark) == []


def test_what_imports_have_read_cannot_be_another() -> None:
    finished = run(warm("-c", "0"), timeout_s=60, env=environment(HF_HOME=os.sep))
    assert finished.returncode == 125
    assert "HF_HOME is read at imports" in finished.stderr
    code = "import huggingface_hub.constants as at; print(at.HF_HOME)"
    finished = run(warm("-c", code, late=True), timeout_s=120, env=environment(HF_HOME=os.sep))
    assert (finished.returncode, finished.stdout) == (0, f"{os.sep}\n")
