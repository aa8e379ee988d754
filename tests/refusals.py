"""How a case of ``bad_input`` is run, and what every refusal has to be like."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bad_input import TRAIN, Case

_HOLD = """
import fcntl, sys
with open(sys.argv[1], "a+") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    file.write("process 4711 on there")
    file.flush()
    print("held", flush=True)
    sys.stdin.read()
"""


def arguments(case: Case) -> list[str]:
    """The command line of a case."""
    plus, _, rest = case.argv.partition(" ")
    return shlex.split(f"{TRAIN} {rest}" if plus == "+" else case.argv)


@contextmanager
def held(run_dir: str | None) -> Iterator[None]:
    """While another process writes to a run directory."""
    if run_dir is None:
        yield
        return
    command = [sys.executable, "-c", _HOLD, f"{run_dir}/.lock"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield
        process.communicate()


def tree(root: Path) -> dict[str, int]:
    """Every path below a folder with its size."""
    return {str(path): path.lstat().st_size for path in sorted(root.rglob("*"))}


def said(text: str) -> list[str]:
    """The lines about what is wrong, without the head that counts them."""
    lines = text.strip().splitlines()
    if lines and lines[0].startswith("error: ") and lines[0].endswith(" problems:"):
        lines = lines[1:]
    # What the libraries would say of the first lines of a run is no answer.
    return [line for line in lines if line.startswith(("error: ", "  - ", "usage:", " "))]


def check(case: Case, code: int, out: str, err: str) -> None:
    """That an answer is one: exit code, value, fix, and no more."""
    assert code == 2, out + err
    assert "Traceback" not in out + err
    assert [part for part in case.parts if part not in err] == [], err
    lines = said(err)
    assert 1 <= len(lines) <= case.lines, err
    assert max(len(line) for line in err.splitlines()) < 800 or "x" * 100 in err
    assert "\x1b" not in err
