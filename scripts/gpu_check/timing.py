"""Parts ``speed`` and ``offload``: ``vit-colossal bench`` on images made on the spot."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import yaml

from gpu_check.check import Check, compared, failed, passed, skipped
from gpu_check.running import ROOT, Argument, Finished

sys.path.insert(0, str(ROOT / "benchmarks"))
from bars import GPU, Bar  # type: ignore[import-not-found]

PEER = "benchmarks/peers/ddp_loop.py"
#: A rate that small steps keep alike: losses are compared, and bf16 rounds in every one.
SETTINGS: dict[str, Any] = {"precision": "bf16", "lr": 1e-5, "model": "vit-base"}
TINY = {"model": "vit-micro", "model_config": {"hidden_size": 32, "num_hidden_layers": 2}}
#: Devices that the limits in images/s were set for.
LIMITS_ARE_FOR = ("H100", "H200")

#: Changed settings, and measured numbers, by the case's name.
Settings = dict[str, dict[str, Any]]
Measured = dict[str, dict[str, Any]]


def speed(check: Check) -> None:
    """Throughput, MFU and peak memory of every plugin beside a plain loop, then the targets."""
    cases: Settings = {"plain loop": {}, "ddp": {}}
    for name in () if check.tiny else ("zero1", "zero2", "gemini", "hybrid"):
        cases[name] = {"plugin": name}
    found, _ = _bench(check, "speed", "eager", cases, batch=16 if check.tiny else 256)
    if not check.tiny:
        compiled = {f"{name} compile": {**case, "compile": True} for name, case in cases.items()}
        # Several processes that compile, but not on every import: see runtime/__init__.py.
        threads = min(8, len(os.sched_getaffinity(0)))
        found |= _bench(check, "speed", "compiled", compiled, batch=256, threads=threads)[0]
    for bar in GPU:
        _compare(check, bar, found)


def offload(check: Check) -> None:
    """Gemini with its states, or its weights too, on the host: it trains, in less memory."""
    if check.device == "cpu":
        check.add("offload", "gemini", skipped("it moves data between a GPU and its host"), 0)
        return
    states = {"gemini_offload_optim_frac": 1.0}
    wanted: Settings = {
        "gemini": {},
        "gemini offload states": states,
        "gemini offload all": {**states, "gemini_offload_param_frac": 1.0},
        "gemini auto": {"gemini_placement": "auto"},
    }
    cases = {name: {"plugin": "gemini", **case} for name, case in wanted.items()}
    found, finished = _bench(check, "offload", "gemini", cases, batch=32)
    if "gemini" not in found:
        return
    whole = found["gemini"]["peak_memory_bytes"]
    for name in list(cases)[1:]:
        if name in found:
            mine = found[name]["peak_memory_bytes"]
            text = f"peak {_mib(mine)} against {_mib(whole)} without"
            outcome = passed(text) if mine < whole else failed(text)
            check.add("offload", f"{name}: memory", outcome, finished.seconds)


def _bench(
    check: Check,
    part: str,
    kind: str,
    cases: Settings,
    *,
    batch: int,
    threads: int | None = None,
) -> tuple[Measured, Finished]:
    """Run the cases, each in processes of its own, and add a row for each.

    Returns:
        The cases that were measured, by name, and the command.
    """
    name = f"{part}-{kind}"
    file, folder = check.folder / f"{name}.yaml", check.folder / name
    file.write_text(yaml.safe_dump(_cases_file(check, part, cases, batch)), encoding="utf-8")
    command: list[Argument] = ["-m", "vit_colossal", "bench", "--cases", file]
    command += ["--output-dir", folder, "--overwrite"]
    command += ["--repetitions", "1", "--profile-steps", "0", "--no-calibrate"]
    # One that hangs must not take the others' time. Threads are for what Gemini offloads.
    command += ["--case-timeout", "120"] if check.device == "cuda" else ["--threads", "1"]
    changes = {} if threads is None else {"TORCHINDUCTOR_COMPILE_THREADS": str(threads)}
    finished = check.runner.run(name, command, changes=changes)
    document = _read(folder)
    measured: Measured = {}
    for case in document["cases"] if document else []:
        if "error" not in case:
            measured[case["name"]] = case
        _add(check, part, case, finished)
    _add_losses(check, part, document, finished)
    return measured, finished


def _cases_file(check: Check, part: str, cases: Settings, batch: int) -> dict[str, Any]:
    """What ``--cases`` reads; docs/performance.md describes it."""
    settings = {**SETTINGS, **(TINY if check.tiny else {}), "global_batch_size": batch}
    steps = (
        {"steps": 30, "warmup_steps": 10} if part == "speed" else {"steps": 5, "warmup_steps": 3}
    )
    if check.tiny:
        steps = {"steps": 2, "warmup_steps": 1}
    listed = [
        {"name": case, "processes": 1, **steps, "settings": changed}
        | ({"peer": PEER} if case.startswith("plain") else {})
        for case, changed in cases.items()
    ]
    return {"settings": {**settings, "device": check.device}, "cases": listed}


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "bench.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return found


def _add(check: Check, part: str, case: dict[str, Any], finished: Finished) -> None:
    """The row of one case."""
    if "error" in case:
        text = case["error"]
        outcome = skipped(text) if text.startswith("refused") else failed(text)
        if text == "not measured yet":
            outcome = failed(finished.problem())
        check.add(part, case["name"], outcome, 0)
        return
    parts = [f"{case['images_per_second']:,.0f} images/s"]
    parts += [] if case["mfu"] is None else [f"MFU {case['mfu']:.1%}"]
    parts += [f"peak {_mib(case['peak_memory_bytes'])}"]
    seconds = case["time_to_first_step"] + case["step_seconds"] * case["timed_steps"]
    check.add(part, case["name"], passed(", ".join(parts)), seconds)


def _add_losses(check: Check, part: str, document: dict[str, Any], finished: Finished) -> None:
    """A row where the command failed, or where cases that do the same work have other losses."""
    if not document:
        check.add(part, "bench", failed(finished.problem()), finished.seconds)
    for group in document.get("same_work", []):
        if not group["equal"]:
            off = max(group["relative_difference"].values())
            text = f"first losses differ by {off:.1e}, more than {group['tolerance']:g}"
            check.add(part, f"losses, {group['precision']}", failed(text), finished.seconds)


def _compare(check: Check, bar: Bar, found: Measured) -> None:
    """One target beside what was measured; left out where that is not there."""
    absolute = bar.limit > 10
    if absolute and not any(name in check.device_name for name in LIMITS_ARE_FOR):
        return
    try:
        value = bar.value(found)
    except KeyError:
        return
    shown = f"{value:,.0f}" if absolute else f"{value:.3f}"
    check.add("speed", bar.text, compared(bar.met(value), f"{shown}, target {bar.limit:g}"), 0)


def _mib(count: float) -> str:
    return f"{count / 2**20:,.0f} MiB"
