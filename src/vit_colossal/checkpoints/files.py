"""Checkpoints on disk: complete or absent, hashed, and read without trusting them.

A checkpoint is a folder of safetensors and JSON with a ``MANIFEST.json`` that holds the size and
SHA-256 of each file. It is written beside its final place, forced to disk, and renamed; nothing is
ever written into an existing one. Nothing here unpickles.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vit_colossal.config.train_config import shown
from vit_colossal.durable import remove, sync
from vit_colossal.errors import ConfigError, UserError
from vit_colossal.plan import run_folder
from vit_colossal.plan.checkpoint import Checkpoint
from vit_colossal.text import json_object

FORMAT = 1
MANIFEST = "MANIFEST.json"
STATE = "state.json"
TENSORS = ("weights", "moments", "rng")
#: The files of a checkpoint; a manifest may name no others than these and ``AVERAGE``.
FILES = (*(f"{name}.safetensors" for name in TENSORS), STATE)
#: The weights' moving average, where one is kept.
AVERAGE = "ema.safetensors"
_NAME = re.compile(r"step-(\d{6,})")


class CheckpointError(UserError):
    """A checkpoint cannot be written, or not be read as it is."""


def write(
    root: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
    state: Mapping[str, Any],
    identity: Mapping[str, Any],
) -> Path:
    """Write ``root/step-NNNNNN``, complete or not at all.

    Args:
        root: the run's ``checkpoints`` folder.
        step: optimizer steps taken.
        tensors: for each of ``TENSORS``, and ``ema`` where there is one, tensors by name.
        state: JSON values to continue with.
        identity: JSON values that a continuing run has to agree with.

    Raises:
        CheckpointError: the disk is full or not writable; what was there before is untouched.
    """
    final = root / f"step-{step:06d}"
    if final.is_symlink():  # no checkpoint of this run, see `listed`
        final.unlink()
    if final.exists():
        return final
    unfinished = root / f".unfinished-{final.name}-{os.getpid()}"
    try:
        unfinished.mkdir(parents=True)
        for name, named in tensors.items():
            contiguous = {key: tensor.contiguous() for key, tensor in named.items()}
            save_file(contiguous, unfinished / f"{name}.safetensors")
        (unfinished / STATE).write_text(json.dumps({"step": step, **state}), encoding="utf-8")
        files = {path.name: _seal(path) for path in sorted(unfinished.iterdir())}
        manifest: dict[str, Any] = {"format": FORMAT, "files": files, "identity": dict(identity)}
        manifest["sha256"] = _sha256_of(manifest)
        (unfinished / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        sync(unfinished / MANIFEST)
        sync(unfinished)
        os.rename(unfinished, final)
        sync(root)
    except Exception as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if not isinstance(error, (OSError, SafetensorError)):
            raise
        raise CheckpointError(
            f"the checkpoint of step {step} could not be written to {root}: {error}. "
            "Free some space or name another --output-dir; earlier checkpoints are intact"
        ) from error
    return final


def _seal(path: Path) -> dict[str, Any]:
    """Force a file to disk; its size and hash. Readable like any other file of the run."""
    path.chmod(0o666 & ~_umask())
    sync(path)
    return {"size": path.stat().st_size, "sha256": sha256_of(path)}


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_of(manifest: Mapping[str, Any]) -> str:
    """Of all its other entries, so that a change of the identity shows like one of a file."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def verify(path: Path) -> Checkpoint:
    """Check every file against the manifest before anything of it is used.

    Raises:
        CheckpointError: what is wrong with it.
    """
    manifest = _read_json(path, MANIFEST)
    if manifest.get("format") != FORMAT:
        raise _invalid(path, f"format {manifest.get('format')!r}, this version reads {FORMAT}")
    if manifest.get("sha256") != _sha256_of(manifest):
        raise _invalid(path, f"{MANIFEST} was changed after it was written (SHA-256 differs)")
    files = manifest.get("files")
    if not isinstance(files, dict) or sorted({*files, AVERAGE}) != sorted({*FILES, AVERAGE}):
        raise _invalid(path, "the manifest does not list exactly the files of a checkpoint")
    for name in sorted(files):
        expected, file = files[name], path / name
        if file.is_symlink() or not file.is_file():
            raise _invalid(path, f"{name} is missing or not a plain file")
        if not isinstance(expected, dict) or file.stat().st_size != expected.get("size"):
            raise _invalid(path, f"{name} has {file.stat().st_size} bytes, not what was written")
        if sha256_of(file) != expected.get("sha256"):
            raise _invalid(path, f"{name} was changed after it was written (SHA-256 differs)")
    for name in sorted(files):
        if name != STATE:
            _check_header(path, name)
    state, identity = _read_json(path, STATE), manifest.get("identity")
    step = state.get("step")
    if type(step) is not int or step < 0 or not isinstance(identity, dict):
        raise _invalid(path, "its state holds no step, or its manifest no identity")
    return Checkpoint(path, step, identity, state, manifest["sha256"])


def _check_header(path: Path, name: str) -> None:
    """Hashes tell who wrote a file, not that it is one: whoever writes both can match them."""
    try:
        with safe_open(path / name, framework="pt"):
            pass
    except (OSError, SafetensorError) as error:
        raise _invalid(path, f"{name} is not a safetensors file ({error})") from None


def _read_json(path: Path, name: str) -> dict[str, Any]:
    file = path / name
    if file.is_symlink() or not file.is_file():
        raise _invalid(path, f"{name} is missing or not a plain file")
    try:
        return json_object(file.read_bytes())
    except OSError as error:
        raise _invalid(path, f"{name} cannot be read ({error})") from None
    except ValueError as error:
        raise _invalid(path, f"{name} {error}") from None


def _invalid(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"checkpoint {path}: {reason}")


def listed(root: Path) -> list[Path]:
    """The checkpoints of a run by name, newest first; no unfinished ones, and no links."""
    if not root.is_dir():
        return []
    named = [path for path in root.iterdir() if _NAME.fullmatch(path.name)]
    found = [path for path in named if path.is_dir() and not path.is_symlink()]
    return sorted(found, key=lambda path: int(path.name[5:]), reverse=True)


def in_run(root: Path | None, which: str) -> Path:
    """The checkpoint that a person means by ``which``: of a run a name, else a path.

    Args:
        root: the run's ``checkpoints`` folder, where there is a run.
        which: ``best``, ``step-000120``, or a path.
    """
    if root is None:
        return Path(which)
    return next((path for path in (root / which, Path(which)) if path.is_dir()), root / which)


def named(path: Path, flag: str) -> Checkpoint:
    """The checkpoint that ``flag`` names.

    Raises:
        ConfigError: there is none, or it does not verify.
    """
    is_one = path.is_dir() and _NAME.fullmatch(path.resolve().name)
    if not is_one and not (path / MANIFEST).exists():
        # A run, the folder of its checkpoints, or a name that is none of those in it.
        for root in (path / run_folder.CHECKPOINTS, path, path.parent):
            if found := [checkpoint.name for checkpoint in listed(root)]:
                there = f"{root} has {', '.join(found[:5])}{' ...' if len(found) > 5 else ''}"
                raise ConfigError([f"{flag}: no checkpoint at {path}: {there}"])
    if not path.is_dir():
        raise ConfigError([f"{flag}: no checkpoint at {path}"])
    try:
        return verify(path.resolve())
    except CheckpointError as error:
        raise ConfigError([f"{flag}: {error}"]) from None


def newest_valid(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that verifies, and why each newer one was passed over."""
    skipped: list[str] = []
    for path in listed(root):
        try:
            return verify(path), skipped
        except CheckpointError as error:
            skipped.append(str(error))
    return None, skipped


def point(root: Path, name: str, target: Path) -> None:
    """Make the link ``root/name`` lead to a checkpoint, in one step."""
    link = root / f".{name}-{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(target.name)
    if (root / name).is_dir() and not (root / name).is_symlink():
        _delete(root / name)  # tools that copy what links lead to make a folder of it
    os.replace(link, root / name)


def prune(root: Path, keep_last: int) -> None:
    """Delete all but the newest ``keep_last`` and the best; a deleted one is renamed first."""
    best = root / run_folder.BEST
    kept = {best.resolve()} if best.is_symlink() else set()
    for path in listed(root)[keep_last:]:
        if path.resolve() not in kept:
            _delete(path)


def drop_after(root: Path, step: int) -> list[Path]:
    """Delete the checkpoints of later steps than that from which a run goes on.

    They are of a way that is not gone on; ``write`` would keep them in the place of the new ones.

    Returns:
        What was deleted, newest first.
    """
    later = [path for path in listed(root) if int(path.name[5:]) > step]
    for path in later:
        _delete(path)
    for link in (root / run_folder.LAST, root / run_folder.BEST):
        if link.is_symlink() and not link.exists():
            link.unlink()
        elif link.is_dir() and not link.is_symlink() and _read_json(link, STATE)["step"] > step:
            _delete(link)  # a copy, see `point`
    return later


def _delete(path: Path) -> None:
    """Rename first: a checkpoint is complete or absent."""
    doomed = path.with_name(f".deleted-{path.name}-{os.getpid()}")
    os.rename(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def sweep(root: Path) -> None:
    """Remove what killed processes left half-written or half-deleted."""
    if root.is_dir():
        for path in root.iterdir():
            if path.name.startswith((".unfinished-", ".deleted-")):
                with suppress(OSError):
                    remove(path)


def differences(
    saved: Mapping[str, Any], current: Mapping[str, Any], prefix: str = ""
) -> list[str]:
    """Where a checkpoint's identity and the present run's disagree, one line each."""
    lines: list[str] = []
    for key, value in current.items():
        before, name = saved.get(key), f"{prefix}{key}"
        if before == value:
            continue
        if isinstance(before, dict) and isinstance(value, dict):
            lines += differences(before, value, f"{name}.")
            continue
        if isinstance(before, list) and isinstance(value, list):
            # What differs may stand far behind in a long list of labels.
            pairs = zip(before, value, strict=False)
            same = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
            before, value, name = before[same:], value[same:], f"{name} from entry {same + 1}"
        before, value = (shown(json.dumps(side)) for side in (before, value))
        lines.append(f"{name}: {before} in the checkpoint, {value} here")
    return lines
