"""Can training start here? Every part that a run needs, tried; each problem with its fix.

Nothing but the standard library is imported: this has to work where the rest is broken. Heavy
packages are asked in processes of their own (``doctor.probe``).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vit_colossal.doctor.machine import GIB, Check, folders, host_name, hub, memory
from vit_colossal.doctor.requirements import clashes, pinned
from vit_colossal.runtime.pins import (
    colossalai_problems,
    install_command,
    passed_over,
    wanted_version,
)

#: From the first to below the second.
PYTHON = ((3, 11), (3, 14))

_PROBE_S = 180


def examine(output: Path) -> Iterator[Check]:
    """All checks, as they come.

    Args:
        output: where runs would be written.
    """
    yield _python()
    yield from _requirements()
    tells = {"torch": _torch, "transformers": _transformers, "colossalai": _colossalai}
    for problem in colossalai_problems():
        del tells["colossalai"]
        detail, _, fix = problem.partition(": ")
        yield Check("colossalai", "fail", detail, fix)
    found = _probe(*tells)
    for name, tell in tells.items():
        if name in found:
            yield from tell(found[name])
    if "kernels" in found.get("colossalai", {}):
        yield _group(_probe("group")["group"])
    yield _launcher()
    yield memory()
    yield from folders(output)
    yield host_name()
    yield hub()


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    lowest, limit = PYTHON
    if lowest <= sys.version_info < limit:
        return Check("Python", "ok", f"{version} ({sys.executable})")
    fix = f"make an environment with Python 3.{lowest[1]} to 3.{limit[1] - 1}"
    return Check("Python", "fail", version, fix)


def _requirements() -> Iterator[Check]:
    problems = clashes()
    for problem in problems:
        # A version that nobody tried may work; a package that is not there does not.
        yield Check(
            "requirements", "fail" if problem.missing else "warn", str(problem), problem.fix
        )
    if not problems:
        yield Check("requirements", "ok", "the installed versions fit together")
    others = [entry.package for entry in passed_over() if entry.kind == "other-version"]
    pins = f"ColossalAI {wanted_version()} pins older versions of {', '.join(others)}"
    yield Check("pins", "ok", f"{pins}: passed over on purpose")


def _probe(*parts: str) -> dict[str, dict[str, Any]]:
    """What ``doctor.probe`` says, by part; ``error`` is why one could not be had.

    Parts after that one are left out: what they need does not work.
    """
    here = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), here]))
    launched = (
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
    )
    kept = {name: value for name, value in os.environ.items() if name not in launched}
    process = subprocess.Popen(
        [sys.executable, "-m", "vit_colossal.doctor.probe", *parts],
        env={**kept, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    try:
        stdout, stderr = process.communicate(timeout=_PROBE_S)
    except subprocess.TimeoutExpired:
        found = _answers(_end(process))
        stuck = next(part for part in parts if part not in found)
        return {**found, stuck: {"error": f"no answer within {_PROBE_S} s"}}
    found = _answers(stdout)
    words = _last_words(process.returncode, stderr)
    silent = [part for part in parts if part not in found]
    if silent and not any("error" in answer for answer in found.values()):
        found[silent[0]] = {"error": words}  # it took the process with it
    if "error" in found.get("group", {}):
        found["group"]["error"] = words  # its members' own
    return found


def _end(process: subprocess.Popen[str]) -> str:
    """Let it take its own processes along before it is killed; returns what it had printed."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.communicate(timeout=10)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[0]


def _answers(stdout: str) -> dict[str, dict[str, Any]]:
    """The lines that are a part's answer; other libraries print as well."""
    found = {}
    for line in stdout.splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and "part" in values:
            found[str(values.pop("part"))] = values
    return found


def _last_words(code: int, stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.strip() and line[:7] != "error: "]
    how = f"died of {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"{how}: {lines[-1].strip()}" if lines else how


def _imported(name: str, found: dict[str, Any]) -> Check:
    if "error" in found:
        command = f"pip install --force-reinstall '{pinned(name)}'"
        if name == "colossalai":
            command = install_command("--force-reinstall")
        fix = f"install it again: {command}"
        return Check(name, "fail", f"cannot be imported ({found['error']})", fix)
    return Check(name, "ok", found["version"])


def _transformers(found: dict[str, Any]) -> Iterator[Check]:
    yield _imported("transformers", found)


def _torch(found: dict[str, Any]) -> Iterator[Check]:
    if "error" in found:
        yield _imported("torch", found)
        return
    built = found["built_for_cuda"]
    yield Check(
        "torch", "ok", f"{found['version']}, built for {f'CUDA {built}' if built else 'CPU'}"
    )
    yield _cuda(found)
    if found["devices"] and not found["nccl"]:
        fix = "install a PyTorch build with NCCL, or train with --device cpu"
        yield Check("NCCL", "fail", "this PyTorch has none, and CUDA devices need it", fix)
    elif found["devices"]:
        yield Check("NCCL", "ok", found["nccl"])
    if found["gloo"]:
        yield Check("gloo", "ok", "available")
    else:
        fix = f"pip install --force-reinstall '{pinned('torch')}'"
        yield Check("gloo", "warn" if found["devices"] else "fail", "this PyTorch has none", fix)


def _cuda(found: dict[str, Any]) -> Check:
    if found["devices"]:
        devices = [
            f"{device['name']} ({device['free'] / GIB:.1f} GiB free)" for device in found["devices"]
        ]
        return Check("CUDA", "ok", f"{len(devices)} device(s): {', '.join(devices)}")
    if os.path.exists("/dev/nvidia0"):
        fix = "check 'nvidia-smi', the driver's version and CUDA_VISIBLE_DEVICES"
        return Check("CUDA", "warn", "a GPU is there, but PyTorch cannot use it", fix)
    return Check("CUDA", "ok", "no device: training runs on the CPU")


def _colossalai(found: dict[str, Any]) -> Iterator[Check]:
    yield _imported("colossalai", found)
    if "kernels" in found:
        words = {"native": "ColossalAI's own", "torch": "PyTorch's (the fallback)"}
        parts = [f"attention {found['kernels']['attention']}"]
        for key, name in (("cpu_adam", "CPU Adam"), ("fused_adam", "fused Adam")):
            parts.append(f"{name} {words.get(found['kernels'][key], found['kernels'][key])}")
        yield Check("kernels", "ok", ", ".join(parts))


def _group(found: dict[str, Any]) -> Check:
    if "error" in found:
        fix = "let processes connect over 127.0.0.1 (firewall, sandbox), or train without --nproc"
        return Check("process group", "fail", found["error"], fix)
    return Check("process group", "ok", f"two processes joined over {found['backend']}")


def _launcher() -> Check:
    found = {name: shutil.which(name) for name in ("torchrun", "colossalai")}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        detail = f"not on the PATH: {', '.join(missing)} (--nproc works without)"
        folder = Path(sys.executable).parent
        return Check(
            "launchers", "warn", detail, f"activate the environment, or add {folder} to PATH"
        )
    return Check("launchers", "ok", ", ".join(str(path) for path in found.values()))
