"""The tests' own launcher: it ends what it starts, and tells what was left."""

from __future__ import annotations

import sys

import pytest

from launching import run

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
