"""The command line in a shell: version, dry runs, where errors go, colours and completion."""

from __future__ import annotations

import io
import os
import pty
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from launching import ROOT, environment, run, warm
from vit_colossal import __version__
from vit_colossal.cli import SUMMARIES, main
from vit_colossal.commands.doctor import _line
from vit_colossal.doctor.machine import Check

PROGRAM = ("-m", "vit_colossal")


def test_the_version_needs_no_framework() -> None:
    code = (
        "import sys\nfrom vit_colossal.cli import main\nassert main(['--version']) == 0\n"
        "assert not {'torch', 'colossalai', 'transformers', 'pydantic'} & set(sys.modules)"
    )
    finished = run([sys.executable, "-c", code], timeout_s=60)
    assert (finished.returncode, finished.stdout) == (0, f"vit-colossal {__version__}\n")


def test_help_goes_to_stdout_and_errors_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert all(name in output.out for name in SUMMARIES)
    for flags in (["nonsense"], ["train", "--nonsense"], ["eval"], ["predict", "no/such", "x.png"]):
        assert main(flags) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.startswith("error: ")


@pytest.mark.parametrize("processes", [None, 2])
def test_a_dry_run_prints_the_plan_and_leaves_nothing(
    processes: int | None, eleven: Path, tmp_path: Path
) -> None:
    flags = ["--dataset", str(eleven), "--model", "vit-micro", "--device", "cpu", "--dry-run"]
    flags += ["--global-batch-size", "16", "--epochs", "2"]
    if processes is not None:
        flags += ["--nproc", "2", "--plugin", "hybrid", "--pp", "2", "--output-dir", "mine"]
    finished = run(warm(*PROGRAM, "train", *flags), timeout_s=180, cwd=tmp_path)
    assert finished.returncode == 0, finished.output
    assert finished.left_over == []
    assert list(tmp_path.iterdir()) == []
    out = finished.stdout
    layout = "layout: ddp, dp 1 x pp 1" if processes is None else "layout: hybrid, dp 1 x pp 2"
    expected = (
        layout,
        "26 steps in 2 epochs of 13; the last has 8 images",
        "200 training and 133 evaluation images",
        "kernels",
    )
    for part in expected:
        assert out.count(part) == 1, part
    assert "dry run" in out.splitlines()[-1]
    assert "step 1/" not in out


def test_a_dry_run_refuses_what_a_run_would(
    eleven: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--dataset", str(eleven), "--model", "vit-micro", "--device", "cpu", "--dry-run"]
    assert main(["train", *flags, "--tp", "3"]) == 2
    assert "--tp 3 has no effect" in capsys.readouterr().err
    assert main(["train", *flags, "--nproc", "2", "--global-batch-size", "15"]) == 2
    assert "not divisible by 2" in capsys.readouterr().err


# --- Colours --------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("terminal", "no_color", "coloured"),
    [(True, "", True), (True, "1", False), (False, "", False)],
)
def test_colours_only_on_a_terminal_that_wants_them(
    terminal: bool, no_color: str, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", Terminal() if terminal else io.StringIO())
    line = _line(Check("torch", "fail", "broken", "mend it"))
    assert ("\033[31m" in line) is coloured
    assert line.replace("\033[31m", "").replace("\033[0m", "").startswith("fail  torch")


def test_the_picture_of_a_terminal_shows_what_the_command_did(tmp_path: Path) -> None:
    picture = tmp_path / "run.svg"
    told = ["sh", "-c", "[ -t 1 ] && printf 'bar at %s\\rbar at %s\\nend\\n' 1 2; exit 3"]
    script = str(ROOT / "scripts" / "run_picture.py")
    finished = run([sys.executable, script, str(picture), *told], timeout_s=60)
    assert finished.returncode == 3, finished.output
    words = picture.read_text(encoding="utf-8").replace("&#160;", " ")
    assert "bar at 2" in words
    assert "bar at 1" not in words
    assert "url(http" not in words and "@font-face" not in words


# --- Completion -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    finished = run(warm(*PROGRAM, "completion", "bash"), timeout_s=120)
    assert finished.returncode == 0, finished.output
    script = tmp_path_factory.mktemp("completion") / "vit-colossal"
    script.write_text(finished.stdout)
    return script


def offered(script: Path, line: str, cwd: Path) -> list[str]:
    """What a real bash offers after ``line``, whose last word is being typed."""
    words = [*shlex.split(line), ""] if line.endswith(" ") else shlex.split(line)
    program = f"""
        source {shlex.quote(str(script))}
        function=$(complete -p vit-colossal | sed -E 's/.*-F ([^ ]+).*/\\1/')
        COMP_WORDS=({" ".join(map(shlex.quote, words))})
        COMP_CWORD={len(words) - 1}
        COMP_LINE={shlex.quote(line)}
        COMP_POINT={len(line)}
        "$function" vit-colossal {shlex.quote(words[-1])} {shlex.quote(words[-2])}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", program],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(),
        timeout=30,
    )
    return done.stdout.split()


def test_bash_completes_commands_flags_values_and_files(bash_script: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").touch()

    def after(line: str) -> list[str]:
        return offered(bash_script, f"vit-colossal {line}", tmp_path)

    assert set(SUMMARIES) <= set(after(""))
    assert after("pred") == ["predict"]
    assert after("train --plug") == ["--plugin"]
    assert after("train --plugin ") == ["ddp", "zero1", "zero2", "gemini", "hybrid"]
    assert after("train --plugin hy") == ["hybrid"]
    assert {"--global-batch-size", "--grad-checkpoint", "--no-grad-checkpoint"} <= set(
        after("train --g") + after("train --no-g")
    )
    assert after("train --config set") == ["settings.yaml"]
    assert after("predict --format ") == ["table", "json", "jsonl", "csv"]
    assert after("export --form") == ["--format"]
    assert after("completion ") == ["bash", "zsh"]
    assert "--checkpoint" in after("eval --ch")


def test_every_command_completes_its_flags(bash_script: Path, tmp_path: Path) -> None:
    for name in SUMMARIES:
        assert "--help" in offered(bash_script, f"vit-colossal {name} --he", tmp_path), name


#: Names of files and folders with which a shell would run something, and others that it reads.
NAMES = ("a $(touch hit)", "b `touch hit`", "c;touch hit", "d&touch hit", "e|touch hit", "f\ng")
NAMES += ("g\n$(touch hit)", "h$(touch hit)\nh$(touch hit)", "i'j\"k", "l>hit", "${m:=n}", "-rf")
NAMES += (
    "o*[p]?",
    "~root",
    "!!",
    "q\\r",
    "#s",
    "t\tu",
    "{v,w}",
    "x=$(touch hit)",
    "--y=`touch hit`",
)
#: What of it a completion types so that the program gets it whole; names of two lines are two.
WHOLE = [name for name in NAMES if "\n" not in name and "\t" not in name]


class Typing:
    """An interactive shell at a terminal, with a program that writes down its arguments.

    Args:
        command: the shell.
        load: has it complete that program's line.
        folder: where it is started.
    """

    def __init__(self, command: Sequence[str], load: str, folder: Path) -> None:
        self.folder, self.told = folder, folder.parent / "told"
        process, self.terminal = pty.fork()
        if process == 0:
            os.chdir(folder)
            os.execvpe(command[0], [*command], environment(TERM="dumb"))
        self.process = process
        written = f'printf "%s\\0" "$@" >{self.told}.new; mv {self.told}.new {self.told}'
        self.type(f"{load}; vit-colossal() {{ {written}; }}; vit-colossal ready\r")

    def type(self, keys: str) -> list[str]:
        """What the program gets from a line, tabs and all."""
        self.told.unlink(missing_ok=True)
        os.write(self.terminal, keys.encode())
        end = time.monotonic() + 30
        while not self.told.exists() and time.monotonic() < end:
            if select.select([self.terminal], [], [], 0.02)[0]:
                os.read(self.terminal, 65536)
        return self.told.read_text().split("\0")[:-1]

    def complete(self, kind: str, tabs: str) -> dict[str, str]:
        """What the program gets for each name, which is made in a folder of its own."""
        for number, name in enumerate(NAMES):
            path = self.folder / str(number) / name
            path.parent.mkdir(parents=True)
            path.mkdir() if kind == "runs" else path.touch()
        command = "report" if kind == "runs" else "predict run"
        lines = [f"vit-colossal {command} {number}/{tabs}\x05\r" for number in range(len(NAMES))]
        return {name: self.type(line)[-1] for name, line in zip(NAMES, lines, strict=True)}

    def close(self) -> None:
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        os.close(self.terminal)


def places(kind: str, names: Sequence[str]) -> dict[str, str]:
    """What the program is to get for them."""
    end = "/" if kind == "runs" else ""
    return {name: f"{NAMES.index(name)}/{name}{end}" for name in names}


def made(folder: Path) -> set[str]:
    """All that lies below."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("kind", ["runs", "photos"])
def test_no_name_is_run_when_bash_completes_it(
    kind: str, bash_script: Path, tmp_path: Path
) -> None:
    """Neither by the tab nor by the line that it makes."""
    folder = tmp_path / "here"
    folder.mkdir()
    bash = Typing(("bash", "--norc", "--noprofile", "-i"), f"source {bash_script}", folder)
    try:
        found = bash.complete(kind, "\t\t")
        for typed in ("$(touch hit)/", "`touch hit`/", "'$(touch hit)", '"`touch hit`'):
            for command in ("report", "predict run", "train --dataset"):
                bash.type(f"vit-colossal {command} {typed}\t\t\x15vit-colossal next\r")
    finally:
        bash.close()
    assert made(folder) == {*map(str, range(len(NAMES))), *(places("", NAMES).values())}
    assert {name: found[name] for name in WHOLE} == places(kind, WHOLE)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh here")
@pytest.mark.parametrize("kind", ["runs", "photos"])
def test_no_name_is_run_when_zsh_completes_it(kind: str, tmp_path: Path) -> None:
    """By the line that the tab makes; a substitution that one types zsh itself runs at a tab."""
    folder, functions = tmp_path / "here", tmp_path / "functions"
    folder.mkdir()
    functions.mkdir()
    script = run(warm(*PROGRAM, "completion", "zsh"), timeout_s=120).stdout
    (functions / "_vit-colossal").write_text(script)
    load = f"bindkey -e; fpath=({functions} $fpath); autoload -Uz compinit; compinit -u -D"
    zsh = Typing(("zsh", "-f", "-i"), load, folder)
    try:
        assert zsh.complete(kind, "\t") == places("", NAMES)  # it takes the slash away again
    finally:
        zsh.close()
    assert made(folder) == {*map(str, range(len(NAMES))), *(places("", NAMES).values())}


def test_the_zsh_script_describes_commands_and_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    script = capsys.readouterr().out
    assert script.startswith("#compdef vit-colossal")
    for part in ("label image files", "--plugin", "(ddp zero1 zero2 gemini hybrid)"):
        assert part in script
