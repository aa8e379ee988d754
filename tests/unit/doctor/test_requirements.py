"""What pip may complain about, what is installed and how: the list, the scripts, the documents."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from vit_colossal.doctor import requirements as requirements_check
from vit_colossal.doctor.examine import PYTHON
from vit_colossal.doctor.requirements import clashes, judge
from vit_colossal.errors import ConfigError
from vit_colossal.runtime import pins as colossalai_pins
from vit_colossal.runtime.pins import (
    colossalai_problems,
    passed_over,
    plain_name,
    require_colossalai,
    wanted_version,
)

ROOT = Path(__file__).parents[3]
SETUP = (ROOT / "setup.py").read_text(encoding="utf-8")
FIX = f"pip install --no-deps colossalai=={wanted_version()}"

MEANT = [
    "colossalai 0.5.0 requires ray, which is not installed.",
    "colossalai 0.5.0 requires uvicorn, which is not installed.",
    "colossalai 0.5.0 has requirement diffusers==0.29.0, but you have diffusers 0.38.0.",
    "colossalai 0.5.0 has requirement torch<=2.5.1,>=2.2.0, but you have torch 2.14.1+cu130.",
    "colossalai 0.5.0 has requirement torch>=2.2.0,<=2.5.1, but you have torch 2.11.0.",
    "colossalai 0.5.0 has requirement transformers==4.51.3, but you have transformers 5.24.0.",
]
NOT_MEANT = [
    # Needed in some version, or by something else, or with another bound, or not listed at all.
    "colossalai 0.5.0 requires torch, which is not installed.",
    "colossalai 0.5.0 requires einops, which is not installed.",
    "peft 0.21.2 requires transformers, which is not installed.",
    "colossalai 0.5.0 has requirement torch<=2.4, but you have torch 2.14.1.",
    "transformers 5.24.0 has requirement safetensors>=0.8.0, but you have safetensors 0.7.0.",
    "nothing 1.0 is not supported on this platform",
]


@pytest.mark.parametrize("line", MEANT)
def test_what_is_passed_over_on_purpose_is_no_problem(line: str) -> None:
    assert judge([line])[0] == []


@pytest.mark.parametrize("line", NOT_MEANT)
def test_anything_else_is(line: str) -> None:
    assert judge([*MEANT, line])[0] == [line]


def test_a_listed_complaint_that_is_gone_is_reported() -> None:
    absent = [entry.requirement for entry in judge(MEANT)[1]]
    assert "ninja" in absent
    assert not {"fastapi", "uvicorn==0.29.0", "ray", "torch<=2.5.1,>=2.2.0"} & set(absent)


def test_pip_check_complains_here_about_what_is_listed_and_nothing_else() -> None:
    command = [sys.executable, "-m", "vit_colossal.doctor.requirements"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "requirements of ColossalAI passed over, all on purpose" in done.stdout


def test_an_unexpected_complaint_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(requirements_check, "_pip_check", lambda: iter([*MEANT, NOT_MEANT[4]]))
    assert requirements_check.main() == 1
    assert capsys.readouterr().err == f"error: pip check: {NOT_MEANT[4]}\n"


def test_the_list_holds_nothing_that_colossalai_does_not_require() -> None:
    required = {Requirement(line) for line in metadata.requires("colossalai") or ()}
    listed = {Requirement(entry.requirement) for entry in passed_over()}
    assert len(listed) == len(passed_over()) == 13
    assert listed - required == set()


def test_clashes_leave_out_what_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    _distribution(tmp_path, "mine", "1", "torch>=2.11")
    _distribution(
        tmp_path, "colossalai", "0.5.0", "torch<=2.5.1,>=2.2.0", "ray", "rich>=99", "gone"
    )
    assert [clash.package for clash in clashes("mine")] == ["gone", "rich"]


def test_a_checkout_without_torch_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    there = requirements_check._distribution
    hidden = ("torch", "vit_colossal")
    monkeypatch.setattr(
        requirements_check, "_distribution", lambda name: None if name in hidden else there(name)
    )
    found = [str(clash) for clash in clashes() if clash.by == "vit_colossal"]
    assert found == ["torch is missing, vit_colossal needs torch"]


# --- ColossalAI itself ----------------------------------------------------------------------------


def test_the_colossalai_of_this_environment_is_the_one() -> None:
    assert colossalai_problems() == []


def test_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    _distribution(tmp_path, "colossalai", "0.4.9")
    with pytest.raises(ConfigError) as refused:
        require_colossalai(["--lr -1: must be positive"])
    assert refused.value.problems == [
        f"ColossalAI 0.4.9 is installed, and this needs another: {FIX}",
        "--lr -1: must be positive",
    ]


def test_a_folder_of_that_name_is_no_colossalai(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "colossalai").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "colossalai", raising=False)
    assert colossalai_problems() == [f"ColossalAI is not installed, and this needs it: {FIX}"]


# --- One place for each fact ----------------------------------------------------------------------


def test_setup_installs_neither_colossalai_nor_what_is_left_out() -> None:
    named = {plain_name(name) for name in re.findall(r'"([A-Za-z][\w.-]*)[<>=]', SETUP)}
    assert {"torch", "galore-torch", "fabric"} <= named
    left_out = {entry.package for entry in passed_over() if entry.kind != "other-version"}
    assert named & {"colossalai", *left_out} == set()


def test_documents_name_the_version_that_is_needed() -> None:
    assert wanted_version() == "0.5.0"
    for name in ("README.md", "docs/troubleshooting.md", "setup.py"):
        commands = re.findall(r"pip install --no-deps [\w=.]+\w", (ROOT / name).read_text())
        assert set(commands) == {FIX}, name


def test_python_versions_are_the_same_everywhere() -> None:
    lowest, limit = (".".join(map(str, version)) for version in PYTHON)
    assert f'python_requires=">={lowest},<{limit}"' in SETUP
    script = (ROOT / "scripts" / "environment.sh").read_text(encoding="utf-8")
    assert f"{PYTHON[0]} <= sys.version_info < {PYTHON[1]}" in script
    minors = range(PYTHON[0][1], PYTHON[1][1])
    assert f"for python in {' '.join(f'python3.{n}' for n in minors)} python3;" in script


# --- scripts/environment.sh, with a stand-in for the interpreter of its environment ---------------

STAND_IN = """#!/bin/sh
echo "$@" >>"$(dirname "$0")/../called"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what decides an installation, with a whole environment that records its calls."""
    for name in ("setup.py", "pyproject.toml", "scripts/environment.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    package = tmp_path / "src" / "vit_colossal"
    (package / "runtime").mkdir(parents=True)
    (package / "runtime" / "colossalai.txt").write_bytes(colossalai_pins.FILE.read_bytes())
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "activate").write_text(f"VIRTUAL_ENV={tmp_path}/.venv")
    (programs / "python").write_text(STAND_IN)
    (programs / "python").chmod(0o755)
    return tmp_path


def installed(checkout: Path, extras: str) -> list[str]:
    """The pip commands of one call."""
    called = checkout / ".venv" / "called"
    called.unlink(missing_ok=True)
    script = f"source {checkout}/scripts/environment.sh; install_environment $PWD/.venv '{extras}'"
    subprocess.run(["bash", "-c", script], check=True, capture_output=True, timeout=60)
    lines = [re.sub(r"--\S+ (?=.*install)", "", line) for line in called.read_text().splitlines()]
    return [line for line in lines if "install" in line]


def test_the_scripts_install_colossalai_last_and_without_its_pins(checkout: Path) -> None:
    commands = installed(checkout, "dev")
    assert len(commands) == 4
    assert "uninstall" in commands[1]
    assert commands[2].endswith(" -e .[dev]")
    assert commands[3].endswith(f"--no-deps colossalai=={wanted_version()}")
    assert [command for command in commands if "colossalai" in command] == [
        commands[1],
        commands[3],
    ]
    assert installed(checkout, "dev") == installed(checkout, "") == []


@pytest.mark.parametrize(
    "name",
    [
        "setup.py",
        "pyproject.toml",
        "scripts/environment.sh",
        "src/vit_colossal/runtime/colossalai.txt",
    ],
)
def test_the_scripts_install_again_when_an_input_changes(name: str, checkout: Path) -> None:
    assert installed(checkout, "")
    assert installed(checkout, "") == []
    with (checkout / name).open("a") as file:
        file.write("\n# changed\n")
    assert installed(checkout, "")
    assert installed(checkout, "") == []
    assert len(installed(checkout, "dev")) == 4


def _distribution(folder: Path, name: str, version: str, *requires: str) -> None:
    place = folder / f"{name}-{version}.dist-info"
    place.mkdir()
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    lines += [f"Requires-Dist: {line}" for line in requires]
    (place / "METADATA").write_text(os.linesep.join(lines) + "\n")
