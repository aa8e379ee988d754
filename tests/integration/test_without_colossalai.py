"""An environment with everything but ColossalAI: what needs it says so at once, the rest works."""

from __future__ import annotations

import json
import sysconfig
import venv
from pathlib import Path

import pytest

from bad_files import folder, model
from launching import ROOT, Finished, environment, run
from run_directories import make_run
from vit_colossal.cli import SUMMARIES
from vit_colossal.runtime.pins import install_command

REASON = f"error: ColossalAI is not installed, and this needs it: {install_command()}"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of an environment into which all packages but ColossalAI are linked."""
    place = tmp_path_factory.mktemp("without") / "venv"
    venv.EnvBuilder(with_pip=False, symlinks=True).create(place)
    site = next(place.glob("lib/python*/site-packages"))
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        if not package.name.startswith(("colossalai", "__editable__")):
            (site / package.name).symlink_to(package)
    return str(place / "bin" / "python")


#: Runs commands one after another, as importing PyTorch for each would take most of the time.
SEVERAL = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from vit_colossal.cli import main
for command in sys.argv[1:]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main(command.split())
        except SystemExit as end:
            code = end.code or 0
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


def in_it(python: str, cwd: Path, *words: str) -> Finished:
    finished = run([python, *words], timeout_s=300, cwd=cwd, env=environment())
    assert "Traceback" not in finished.output
    assert finished.left_over == []
    return finished


def in_turn(python: str, cwd: Path, *commands: str) -> list[tuple[str, int, str, str]]:
    """Each command with its exit code, output and errors."""
    finished = in_it(python, cwd, "-c", SEVERAL, *commands)
    answers = [json.loads(line) for line in finished.stdout.splitlines()]
    return [(command, *answer) for command, answer in zip(commands, answers, strict=True)]


def test_what_needs_it_says_so_before_anything_starts(python: str, tmp_path: Path) -> None:
    commands = (
        "train --dataset digits --model vit-micro --device cpu",
        "train --dataset digits --device cpu --nproc 2 --plugin hybrid --pp 2",
        "train --dataset digits --device cpu --dry-run",
        "eval --model vit-micro --dataset digits",
        "parity --nproc 2",
        "bench",
    )
    for command, code, out, err in in_turn(python, tmp_path, *commands):
        assert (code, out, err) == (2, "", f"{REASON}\n"), command
    assert list(tmp_path.iterdir()) == []


def test_train_py_says_so_beside_other_problems(python: str, tmp_path: Path) -> None:
    words = [str(ROOT / "train.py"), "--dataset", "digits", "--nproc", "2", "--lr", "fast"]
    finished = in_it(python, tmp_path, *words)
    assert finished.returncode == 2
    first, *lines = finished.stderr.splitlines()
    assert first == "error: 2 problems:"
    assert lines[0] == f"  - {REASON.removeprefix('error: ')}"


def test_every_command_has_its_help(python: str, tmp_path: Path) -> None:
    for command, code, out, err in in_turn(python, tmp_path, *(f"{n} --help" for n in SUMMARIES)):
        assert (code, err) == (0, ""), command
        assert "usage" in out, command


def test_what_does_not_need_it_works(
    python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model()()
    folder()
    make_run(tmp_path / "run", ("ant", "bee"))
    commands = (
        "predict ./vit photos --format csv --output labels.csv",
        "export ./vit exported",
        "report run",
        "push ./vit someone/something --dry-run",
        "completion bash",
    )
    *others, check = in_turn(python, tmp_path, *commands, "check run")
    for command, code, out, err in others:
        assert code == 0, f"{command}: {out}{err}"
    assert "run/environment.json" in check[3]  # it read the run


def test_the_doctor_names_it_with_its_fix(python: str, tmp_path: Path) -> None:
    finished = in_it(python, tmp_path, "-m", "vit_colossal", "doctor")
    assert finished.returncode == 1
    lines = finished.stdout.splitlines()
    (number,) = (i for i, line in enumerate(lines) if line.startswith("fail"))
    assert " ".join(lines[number].split()) == f"fail colossalai {REASON[7:].partition(': ')[0]}"
    assert lines[number + 1].strip() == f"fix: {install_command()}"
    assert lines[-1] == "training cannot start: colossalai"
