"""`vit-colossal doctor` on this machine, and on machines broken in one way each."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from launching import ROOT, Finished, environment, run
from vit_colossal.doctor import examine as doctor
from vit_colossal.doctor import machine as machine_checks
from vit_colossal.doctor.machine import Check
from vit_colossal.doctor.requirements import clashes, pinned

DOCTOR = [sys.executable, "-m", "vit_colossal", "doctor"]
NO_HUB = {"HF_HUB_OFFLINE": "1"}


def examined(tmp_path: Path, broken: Path | None = None, *flags: str) -> Finished:
    """The real program, with a folder of broken packages in front of the real ones."""
    env = environment(VIT_COLOSSAL_CACHE=str(tmp_path / "cache"), **NO_HUB)
    if broken is not None:
        env["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(broken)])
    finished = run([*DOCTOR, *flags], timeout_s=400, cwd=tmp_path, env=env)
    assert "Traceback" not in finished.output
    assert finished.left_over == []
    return finished


def test_this_machine_can_train(tmp_path: Path) -> None:
    finished = examined(tmp_path, None, "--json")
    values = json.loads(finished.stdout)
    checks = {check["name"]: check for check in values["checks"]}
    assert finished.returncode == 0, finished.output
    assert values["can_start"] is True
    assert checks["process group"]["status"] == "ok"
    assert "two processes joined over" in checks["process group"]["detail"]
    for name in ("CPU Adam", "fused Adam", "attention"):
        assert name in checks["kernels"]["detail"]
    expected = {"Python", "torch", "CUDA", "gloo", "transformers", "colossalai", "launchers"}
    expected |= {"memory", "output", "image cache", "hub cache", "hub", "requirements", "pins"}
    expected |= {"host name"}
    assert expected <= checks.keys()
    # ColossalAI's pins are no clash.
    assert (checks["requirements"]["status"], checks["requirements"]["fix"]) == ("ok", "")
    assert "torch, transformers, peft: passed over on purpose" in checks["pins"]["detail"]
    assert list(tmp_path.iterdir()) == []  # nothing is left where runs would go


BROKEN = {
    "raises": ("raise ImportError('libcudart.so.12: cannot open')", "libcudart.so.12"),
    "crashes": ("import os\nos.abort()", "died of SIGABRT"),
    "missing": (
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')",
        "No module",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_torch_is_named_with_its_fix(how: str, tmp_path: Path) -> None:
    code, words = BROKEN[how]
    (tmp_path / "broken" / "torch").mkdir(parents=True)
    (tmp_path / "broken" / "torch" / "__init__.py").write_text(code)
    finished = examined(tmp_path, tmp_path / "broken")
    assert finished.returncode == 1
    lines = finished.stdout.splitlines()
    (number,) = (i for i, line in enumerate(lines) if line.startswith("fail"))
    assert lines[number].split()[1] == "torch"
    assert words in lines[number]
    fix = f"install it again: pip install --force-reinstall '{pinned('torch')}'"
    assert lines[number + 1].strip() == f"fix: {fix}"
    assert lines[-1] == "training cannot start: torch"


def test_other_commands_point_to_the_doctor(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('broken here')")
    env = environment(PYTHONPATH=os.pathsep.join([str(ROOT / "src"), str(tmp_path)]))
    for name in ("train", "predict"):
        command = [sys.executable, "-m", "vit_colossal", name, "a", "b"]
        finished = run(command, timeout_s=60, cwd=tmp_path, env=env)
        assert finished.returncode == 1
        assert finished.stderr.splitlines() == [
            "error: broken here: run 'vit-colossal doctor' for what to do"
        ]


# --- Single checks --------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of metadata in front of the real packages."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def metadata(folder: Path, name: str, version: str, *requires: str) -> None:
    place = folder / f"{name}-{version}.dist-info"
    place.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {line}" for line in requires]
    (place / "METADATA").write_text("\n".join(lines) + "\n")


def test_pins_that_clash_are_found_at_any_depth(installed: Path) -> None:
    metadata(installed, "mine", "1", "middle>=1", "gone>=3", "extra-only; extra == 'x'", "odd[y]")
    metadata(installed, "middle", "1", "pinned==4.51.3", "elsewhere; sys_platform == 'win32'")
    metadata(installed, "pinned", "4.57")
    metadata(installed, "odd", "2", "pinned<5; extra == 'y'", "pinned<2; extra == 'z'")
    found = clashes("mine")
    assert [str(clash) for clash in found] == [
        "gone is missing, mine 1 needs gone>=3",
        "pinned is 4.57, middle 1 needs pinned==4.51.3",
    ]
    assert [clash.fix for clash in found] == [
        "pip install 'gone>=3'",
        "pip install 'pinned==4.51.3'",
    ]
    assert pinned("middle", "mine") == "middle>=1"
    assert pinned("other", "mine") == "other"


def test_a_missing_package_keeps_training_from_starting(
    monkeypatch: pytest.MonkeyPatch, installed: Path
) -> None:
    metadata(installed, "mine", "1", "gone>=3", "pip<1")
    monkeypatch.setattr(doctor, "clashes", lambda: clashes("mine"))
    found = [(check.name, check.status) for check in doctor._requirements()]
    assert found == [("requirements", "fail"), ("requirements", "warn"), ("pins", "ok")]


def test_folders(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    good = machine_checks.folder("output", tmp_path / "runs" / "deep", "fix")
    assert (good.status, list(tmp_path.iterdir())) == ("ok", [tmp_path / "file"])
    bad = machine_checks.folder("output", tmp_path / "file" / "runs", "name another")
    assert (bad.status, bad.fix) == ("fail", "name another")
    assert machine_checks.folder("hub cache", Path("/proc/no"), "x", needed=False).status == "warn"


@pytest.mark.parametrize(
    ("variables", "status", "words"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "ok", "HF_HUB_OFFLINE"),
        ({"HF_HUB_OFFLINE": "", "HF_ENDPOINT": "http://127.0.0.1:9"}, "warn", "127.0.0.1:9"),
        ({"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "file:///etc"}, "warn", "https://"),
        ({"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://no.such.invalid"}, "warn", "reached"),
    ],
)
def test_the_hub_is_never_fatal(
    variables: dict[str, str], status: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    check = machine_checks.hub()
    assert (check.status, words in check.detail) == (status, True), check


def test_a_hub_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    from hub_server import Hub, serving

    with serving(Hub()) as hub:
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        assert machine_checks.hub().status == "ok"


def test_a_hub_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    answer = machine_checks.within(0.2, lambda: str(threading.Event().wait(30)))
    assert answer == "no answer within 0.2 s"


@pytest.mark.parametrize(
    ("address", "status"),
    [("10.0.0.3", "ok"), ("fe80::1%eth0", "ok"), ("127.0.1.1", "warn"), ("::1", "warn")],
)
def test_a_name_that_leads_nowhere_is_told(address: str, status: str) -> None:
    """The first address counts, which is the one that gloo takes."""
    found = [(0, 0, 6, "", (address, 0)), (0, 0, 6, "", ("10.0.0.4", 0))]
    check = machine_checks.host_name(lambda *_, **__: found)
    assert (check.status, bool(check.fix)) == (status, status == "warn")
    assert status == "ok" or f" resolves to {address}, so others" in check.detail


def test_a_name_that_nobody_knows_is_told() -> None:
    def unknown(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    check = machine_checks.host_name(unknown)
    assert check.status == "warn"
    assert check.detail.endswith(" cannot be resolved (Name or service not known)")


def facts(**changes: Any) -> dict[str, Any]:
    device = {"name": "H", "free": 2**30, "total": 2**31}
    values = {"version": "2.14.1", "built_for_cuda": "13.0", "devices": [device], "gloo": True}
    return values | {"nccl": "2.30.7"} | changes


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (facts(), {"torch": "ok", "CUDA": "ok", "NCCL": "ok", "gloo": "ok"}),
        (facts(nccl=None), {"torch": "ok", "CUDA": "ok", "NCCL": "fail", "gloo": "ok"}),
        (facts(gloo=False, devices=[]), {"torch": "ok", "CUDA": "ok", "gloo": "fail"}),
        ({"error": "no answer within 180 s"}, {"torch": "fail"}),
    ],
)
def test_what_pytorch_brings(found: dict[str, Any], expected: dict[str, str]) -> None:
    checks: list[Check] = list(doctor._torch(found))
    assert {check.name: check.status for check in checks} == expected
    assert all(check.fix for check in checks if check.status != "ok")


def test_a_group_that_does_not_form_says_why() -> None:
    check = doctor._group({"error": "exit code 1: RuntimeError: connect refused"})
    assert (check.status, "connect refused" in check.detail) == ("fail", True)


def test_answers_are_found_among_other_output() -> None:
    lines = ["noise", '{"part": "torch", "version": "2"}', "[1]", '{"b": 1}', "more"]
    assert doctor._answers("\n".join(lines)) == {"torch": {"version": "2"}}
    assert doctor._last_words(-9, "x\ny\n\nerror: rank 0 failed\n") == "died of SIGKILL: y"


def test_a_part_that_crashes_is_the_one_to_blame(tmp_path: Path) -> None:
    """What came before it still counts, what comes after it was never reached."""
    (tmp_path / "broken" / "transformers").mkdir(parents=True)
    (tmp_path / "broken" / "transformers" / "__init__.py").write_text("import os\nos.abort()")
    finished = examined(tmp_path, tmp_path / "broken", "--json")
    checks = {check["name"]: check for check in json.loads(finished.stdout)["checks"]}
    assert finished.returncode == 1
    assert checks["torch"]["status"] == "ok"
    assert "SIGABRT" in checks["transformers"]["detail"]
    assert not {"colossalai", "process group"} & checks.keys()


def test_every_strategy_is_imported_by_the_probe() -> None:
    """What a run would import and fail at has to fail here."""
    code = (
        "import sys\nfrom vit_colossal.config.plugins import BUILT_IN\n"
        "from vit_colossal.doctor.probe import probe_colossalai\nprobe_colossalai()\n"
        "print(*[f.strategy for f in BUILT_IN.values()"
        " if f.strategy.partition(':')[0] not in sys.modules])"
    )
    finished = run([sys.executable, "-c", code], timeout_s=120)
    assert finished.returncode == 0, finished.output
    assert finished.stdout.split() == []
