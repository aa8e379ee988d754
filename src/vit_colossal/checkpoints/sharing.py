"""A checkpoint for every host: what one has and others lack is sent to them before they train.

Hosts without a common disk have the checkpoints of rank 0's host there alone, and torchrun counts
restarts on each host by itself (pytorch/pytorch#135712): without this, one would go on and another
begin anew.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

import torch.distributed as dist

from vit_colossal.checkpoints import files
from vit_colossal.checkpoints.resume import find_checkpoint, wants_resume
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.durable import remove, sync
from vit_colossal.errors import ConfigError
from vit_colossal.plan import run_folder
from vit_colossal.plan.checkpoint import Checkpoint

logger = logging.getLogger("vit_colossal")

_CHUNK_BYTES = 8 * 2**20


@dataclass(frozen=True)
class _Holding:
    """What one host would go on from, as its first rank says it."""

    resumes: str | None
    step: int = -1
    manifest: str = ""


@dataclass(frozen=True)
class _Plan:
    """Who sends what; ``resume`` is what ``--resume`` means from now on where it says nothing."""

    resume: str | None = None
    step: int = -1
    sender: int = -1
    receivers: tuple[int, ...] = ()


def share(
    config: TrainConfig, store: dist.Store, rank: int, world_size: int, *, first_on_host: bool
) -> TrainConfig | None:
    """Give all hosts the newest checkpoint of any. All ranks call this alike.

    Args:
        config: the run.
        store: in which the ranks meet.
        rank: this process.
        world_size: the number of ranks.
        first_on_host: it reads and writes the host's disk.

    Returns:
        The run as every rank has to go on with it; None where there was nothing to share.

    Raises:
        ConfigError: on all ranks, when a host could not take it; says which.
    """
    store = dist.PrefixStore("checkpoints", store)
    mine = _own(config) if first_on_host else None
    which = wants_resume(config)
    holding = _Holding(which, mine.step, mine.manifest) if mine else _Holding(which)
    store.set(f"has {rank}", json.dumps([asdict(holding), first_on_host]))
    if rank == 0:
        said = [json.loads(store.get(f"has {other}")) for other in range(world_size)]
        plan = _plan([_Holding(**values) for values, _ in said], [first for _, first in said])
        store.set("plan", json.dumps(asdict(plan)))
    plan = _Plan(**json.loads(store.get("plan")))
    if plan.resume is None:
        return None
    if rank == plan.sender and mine is not None:
        logger.info("sending %s to the hosts that lack it", mine.path)
        _send(store, mine, plan.receivers)
    elif rank in plan.receivers:
        store.set(
            f"done {rank}", _received(store, _target(config, plan.step), which == run_folder.BEST)
        )
    problems = [store.get(f"done {receiver}").decode() for receiver in plan.receivers]
    if any(problems):
        raise ConfigError([problem for problem in problems if problem])
    return config if which else config.replace(resume=plan.resume)


def _own(config: TrainConfig) -> Checkpoint | None:
    """This host's, also where it does not know that the run goes on."""
    try:
        if wants_resume(config) is None and config.output_dir is not None:
            return files.newest_valid(config.output_dir / run_folder.CHECKPOINTS)[0]
        return find_checkpoint(config, report=False)
    except ConfigError:
        return None


def _plan(holdings: list[_Holding], first: list[bool]) -> _Plan:
    """The newest goes to all; two different ones of one step are no case for this."""
    hosts = [rank for rank, leads in enumerate(first) if leads]
    asked = [holding.resumes for holding in holdings if holding.resumes]
    step = max(holdings[rank].step for rank in hosts)
    manifests = {holdings[rank].manifest for rank in hosts if holdings[rank].step == step}
    if not asked or len(manifests) > 1:
        return _Plan()
    sender = next(rank for rank in hosts if holdings[rank].step == step)
    lacking = tuple(rank for rank in hosts if holdings[rank].step != step)
    if not lacking and len(asked) == len(holdings):
        return _Plan()
    return _Plan("auto", step, sender, lacking)


def _target(config: TrainConfig, step: int) -> Path | None:
    """Where a host looks for it."""
    which = wants_resume(config)
    if which not in (None, "auto", run_folder.LAST, run_folder.BEST):
        return Path(which)
    if config.output_dir is None:
        return None
    return config.output_dir / run_folder.CHECKPOINTS / f"step-{step:06d}"


def _send(store: dist.Store, checkpoint: Checkpoint, receivers: tuple[int, ...]) -> None:
    """Each file in pieces: the store keeps them in memory, so the next once all have the last."""
    names = sorted(path.name for path in checkpoint.path.iterdir())
    sizes = {name: (checkpoint.path / name).stat().st_size for name in names}
    store.set("files", json.dumps(sizes))
    for name in names:
        with (checkpoint.path / name).open("rb") as file:
            for number, piece in enumerate(iter(lambda: file.read(_CHUNK_BYTES), b"")):
                key = f"{name} {number}"
                store.set(key, piece)  # type: ignore[arg-type]  # bytes are taken as they are
                for receiver in receivers:
                    store.get(f"{key} taken by {receiver}")
                store.delete_key(key)


def _received(store: dist.Store, target: Path | None, best: bool) -> str:
    """Take a checkpoint and put it in its place, complete or not at all; the problem, if any."""
    rank, host = os.environ["RANK"], socket.gethostname()
    sizes: dict[str, int] = json.loads(store.get("files"))
    problem = "" if target else "without --output-dir there is no place for the checkpoint"
    unfinished = Path() if target is None else target.with_name(f".unfinished-{target.name}-{rank}")
    try:
        if target is not None:
            unfinished.mkdir(parents=True)
    except OSError as error:
        problem = str(error)
    for name, size in sizes.items():
        for number in range(-(-size // _CHUNK_BYTES)):
            key = f"{name} {number}"
            piece = store.get(key)
            store.set(f"{key} taken by {rank}", "")
            problem = problem or _append(unfinished / Path(name).name, piece)
    if target is not None and not problem:
        problem = _placed(unfinished, target, best)
    if target is not None:
        shutil.rmtree(unfinished, ignore_errors=True)
    return problem and f"rank {rank} ({host}) could not take the checkpoint: {problem}"


def _append(file: Path, piece: bytes) -> str:
    try:
        with file.open("ab") as stream:
            stream.write(piece)
    except OSError as error:
        return str(error)
    return ""


def _placed(unfinished: Path, target: Path, best: bool) -> str:
    """Verify what came, and give it its name; a damaged one that has it makes room.

    The same one may have it: other hosts see late what one has written to a disk that they share.
    """
    try:
        for path in unfinished.iterdir():
            sync(path)
        received = files.verify(unfinished)
        if not _is_there(target, received.manifest):
            remove(target)
            os.rename(unfinished, target)
            sync(target.parent)
        if best:
            files.point(target.parent, run_folder.BEST, target)
    except (OSError, files.CheckpointError) as error:
        return str(error)
    return ""


def _is_there(target: Path, manifest: str) -> bool:
    try:
        return files.verify(target).manifest == manifest
    except files.CheckpointError:
        return False
