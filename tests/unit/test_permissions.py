"""Files and folders of somebody else: one line for each command, and nothing is begun."""

from __future__ import annotations

import ctypes
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from bad_files import folder, model, put
from vit_colossal.cli import main

#: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: root may read and write what it has no permission for.
_OVERRIDES = 0b110
#: linux/capability.h
_VERSION_3 = 0x20080522

TRAIN = "train --device cpu --model vit-micro --max-steps 1 --global-batch-size 4"
COMMANDS = {
    "data": f"{TRAIN} --dataset locked --output-dir run",
    "data below": f"{TRAIN} --dataset ./locked/photos --output-dir run",
    "a zip archive": f"{TRAIN} --dataset locked.zip --output-dir run",
    "a model": f"{TRAIN} --dataset photos --model ./locked --output-dir run",
    "a model below": f"{TRAIN} --dataset photos --model ./locked/vit --output-dir run",
    "a configuration": f"{TRAIN} --config locked/run.yaml",
    "an output": f"{TRAIN} --dataset photos --output-dir locked",
    "an output below": f"{TRAIN} --dataset photos --output-dir locked/run",
    "an output to replace": f"{TRAIN} --dataset photos --output-dir locked/run --overwrite",
    "a run to go on": f"{TRAIN} --dataset photos --output-dir locked/run --resume auto",
    "a checkpoint": f"{TRAIN} --dataset photos --output-dir run --resume locked/step-000001",
    "a cache": f"{TRAIN} --dataset photos --output-dir run --cache-dir locked",
    "a cache below": f"{TRAIN} --dataset photos --output-dir run --cache-dir locked/cache",
    "a report": "report locked",
    "a report below": "report locked/run",
    "a list": "runs locked",
    "an evaluation": "eval --device cpu --model locked --dataset photos",
    "an evaluation below": "eval --device cpu --model ./locked/run --dataset photos",
    "a prediction": "predict ./locked/run photos --device cpu",
    "an export": "export ./vit locked/out",
    "an export of it": "export ./locked out",
    "a check": "check locked/run",
    "a push": "push ./locked me/it --dry-run",
    "a plan": "plan --dataset photos --model ./locked/vit --device cpu",
}


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable"))


@pytest.fixture
def as_anybody() -> Iterator[None]:
    """Permissions count, for root too."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = _Header(_VERSION_3, 0), (_Sets * 2)()
    assert libc.capget(ctypes.byref(header), sets) == 0
    before = sets[0].effective
    sets[0].effective = before & ~_OVERRIDES
    assert libc.capset(ctypes.byref(header), sets) == 0
    yield
    sets[0].effective = before
    assert libc.capset(ctypes.byref(header), sets) == 0


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with photos, a model, and a folder and an archive that one may not look into."""
    monkeypatch.chdir(tmp_path)
    folder()
    model()()
    put("locked/photos/cat/0.png")
    put("locked.zip")
    locked = (tmp_path / "locked", tmp_path / "locked.zip")
    for path in locked:
        path.chmod(0)
    yield tmp_path
    for path in locked:
        path.chmod(0o700)


@pytest.mark.parametrize("name", COMMANDS)
def test_what_one_may_not_look_into_is_said_in_a_line(
    name: str, here: Path, as_anybody: None, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(PermissionError):
        os.listdir("locked")
    before = sorted(str(path) for path in here.iterdir())
    assert main(shlex.split(COMMANDS[name])) == 2
    said = capfd.readouterr()
    assert "Traceback" not in said.out + said.err
    (line,) = [line for line in said.err.splitlines() if line.startswith(("error: ", "  - "))]
    assert "locked" in line
    assert sorted(str(path) for path in here.iterdir()) == before
