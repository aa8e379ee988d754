"""Ranks that agree before the first step: what each is about to do is compared, or nobody trains.

Hosts have disks, packages and command lines of their own. Each rank states in the store through
which all meet what it found, or why it cannot start; rank 0 compares, and tells all the same.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Generic, TypeVar, cast

import torch.distributed as dist

from vit_colossal.errors import ConfigError, ExitCode, SharedProblems, UserError
from vit_colossal.runtime.group import Topology, join, said_late
from vit_colossal.text import shown

T = TypeVar("T")
logger = logging.getLogger("vit_colossal")

#: For how long a rank with a problem waits for those that have to hear of it.
_NEWS_S = 120
#: How long rank 0, which may hold the store, stays for the others to read why nobody starts.
_LINGER_S = 10


@dataclass(frozen=True)
class Fact:
    """One thing that all ranks have to have in common.

    Attributes:
        value: as it is shown; equal text is equal.
        advice: what to do where it differs, as the end of a line.
        binding: a difference ends the run; otherwise it is a warning.
    """

    value: str
    advice: str = ""
    binding: bool = True


#: By name; of those that a rank does not state, its value is not compared.
Facts = Mapping[str, Fact]


@dataclass(frozen=True)
class Statement:
    """What one rank has to say.

    Attributes:
        host: its name.
        problems: why it cannot start.
        facts: what it would do.
        code: the exit code of its problems.
        mends: it can take part in what removes a difference.
    """

    host: str
    problems: list[str] = field(default_factory=list)
    facts: dict[str, Fact] = field(default_factory=dict)
    code: int = 0
    mends: bool = False


@dataclass(frozen=True)
class Verdict:
    """What rank 0 makes of all statements: problems, of which one is enough, and warnings."""

    problems: list[str]
    warnings: list[str]
    code: int = 0
    mends: bool = False


def together(
    topology: Topology,
    decide: Callable[[], T],
    facts_of: Callable[[T], Facts],
    mend: Callable[[dist.Store], Callable[[], T] | None] | None = None,
    *,
    store: dist.Store | None = None,
    timeout_s: float = 600,
) -> tuple[T, dist.Store | None]:
    """Decide what to do on every rank, and go on if all decided the same.

    Args:
        topology: this process's place.
        decide: finds it out, or raises.
        facts_of: what of it has to agree.
        mend: called by all ranks alike where they do not agree; gives what to decide instead, once
            it has taken care of what kept them, or None.
        store: where the ranks have met already.
        timeout_s: how long to wait for the other ranks.

    Returns:
        What this rank decided, and the store in which the group can be built; None for a single
        process.

    Raises:
        SharedProblems: on all ranks, with what any of them found and where they differ.
        ConfigError: of this rank, when it cannot reach the others.
    """
    if "RANK" not in os.environ:
        return decide(), None
    mine = _decided(decide, facts_of, mends=mend is not None)
    limit_s = min(timeout_s, _NEWS_S) if mine.statement.problems else timeout_s
    with _waiting(mine.statement.problems, limit_s):
        try:
            store = store or join(limit_s)
            verdict = _exchange(store, topology, mine.statement)
        except ConfigError as unreached:  # what is wrong here comes first
            raise mine.failure or unreached from None
    if verdict.mends and mend is not None:
        try:
            with _all_there():
                again = mend(store)
        except ConfigError as error:  # the same on all ranks
            verdict = replace(verdict, problems=[*error.problems, *verdict.problems])
        else:
            mine = mine if again is None else _decided(again, facts_of, mends=False)
            verdict = verdict if again is None else _exchange(store, topology, mine.statement)
    if verdict.problems:
        _stay(store, topology)
    elif topology.rank == 0:
        for line in verdict.warnings:
            logger.warning("%s", line)
    if mine.failure is not None and not isinstance(mine.failure, UserError):
        raise mine.failure
    if verdict.problems:
        raise SharedProblems(verdict.problems, ExitCode(verdict.code)) from mine.failure
    return cast(T, mine.value), store


@dataclass(frozen=True)
class _Decided(Generic[T]):
    """What this rank found, and how it says so; ``value`` where there is no ``failure``."""

    statement: Statement
    value: T | None = None
    failure: Exception | None = None


def _decided(
    decide: Callable[[], T], facts_of: Callable[[T], Facts], *, mends: bool
) -> _Decided[T]:
    host = socket.gethostname()
    try:
        value = decide()
        return _Decided(Statement(host, facts=dict(facts_of(value)), mends=mends), value)
    except UserError as error:
        problems = error.problems if isinstance(error, ConfigError) else str(error).splitlines()
        return _Decided(Statement(host, problems, code=error.exit_code, mends=mends), failure=error)
    except Exception as error:
        problems = [f"{type(error).__name__}: {error}"]
        return _Decided(Statement(host, problems, code=ExitCode.FAILED), failure=error)


def _exchange(store: dist.Store, topology: Topology, mine: Statement) -> Verdict:
    """State, and hear what rank 0 makes of all.

    Raises:
        ConfigError: a rank that had joined is gone.
    """
    with _all_there():
        # A process may start several runs, one after the other.
        count = store.add(f"agreements of {topology.rank}", 1)
        store = dist.PrefixStore(f"agreement {count}", store)
        store.set(str(topology.rank), json.dumps(asdict(mine)))
        if topology.rank == 0:
            ranks = range(topology.world_size)
            verdict = compare([_statement(store.get(str(rank))) for rank in ranks])
            store.set("verdict", json.dumps(asdict(verdict)))
        return Verdict(**json.loads(store.get("verdict")))


@contextmanager
def _all_there() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError([f"the ranks could not agree to start: one is gone ({reason})"]) from None


def _stay(store: dist.Store, topology: Topology) -> None:
    """Rank 0, which may hold the store, stays until all others have read what is wrong."""
    with suppress(RuntimeError):
        store.set(f"{topology.rank} leaves", "")
        everyone = [f"{rank} leaves" for rank in range(topology.world_size)]
        deadline = time.monotonic() + _LINGER_S
        while topology.rank == 0 and not store.check(everyone) and time.monotonic() < deadline:
            time.sleep(0.02)


def _statement(text: bytes) -> Statement:
    values: dict[str, Any] = json.loads(text)
    facts = {name: Fact(**fact) for name, fact in values.pop("facts").items()}
    return Statement(**values, facts=facts)


def _waiting(problems: Sequence[str], limit_s: float) -> AbstractContextManager[None]:
    """Say what keeps this rank waiting, once it has been for a while; of a problem, all will hear.

    Without a problem, one rank of each host says that it waits.
    """
    rank, limit = os.environ["RANK"], f"at most {limit_s:g} s"
    place = f"rank {rank} ({socket.gethostname()})"
    if problems:
        lines = "\n".join(problems)
        text = f"error on {place}: {lines}\nwaiting for the other ranks to hear of it, {limit}"
        return said_late(text, logging.ERROR)
    if os.environ.get("LOCAL_RANK", rank) != "0":
        return nullcontext()
    return said_late(f"{place} is ready and waits for the other ranks, {limit}")


def compare(statements: Sequence[Statement]) -> Verdict:
    """What keeps the ranks from starting, and what they should know.

    Args:
        statements: of all ranks, in order.
    """
    hosts = [statement.host for statement in statements]
    mends = all(statement.mends for statement in statements)
    by_problem: dict[str, list[int]] = {}
    for rank, statement in enumerate(statements):
        for problem in statement.problems:
            by_problem.setdefault(problem, []).append(rank)
    if by_problem:
        everywhere = all(len(ranks) == len(statements) for ranks in by_problem.values())
        problems = [
            problem if everywhere else f"on {_place(ranks, hosts)}: {problem}"
            for problem, ranks in by_problem.items()
        ]
        failed = any(statement.code == ExitCode.FAILED for statement in statements)
        return Verdict(problems, [], ExitCode.FAILED if failed else ExitCode.USAGE, mends)
    binding: list[str] = []
    others: list[str] = []
    names = dict.fromkeys(name for statement in statements for name in statement.facts)
    for name in names:
        stated = {r: s.facts[name] for r, s in enumerate(statements) if name in s.facts}
        fact = next(iter(stated.values()))
        (binding if fact.binding else others).extend(_differences(name, stated, hosts))
    return Verdict(binding, others, ExitCode.USAGE if binding else 0, bool(binding) and mends)


def _differences(name: str, stated: Mapping[int, Fact], hosts: Sequence[str]) -> list[str]:
    """One line for each other value than the first rank's."""
    by_value: dict[str, list[int]] = {}
    for rank, fact in stated.items():
        by_value.setdefault(fact.value, []).append(rank)
    (value, ranks), *others = by_value.items()
    advice = stated[ranks[0]].advice
    return [
        f"{name}: {shown(value)} on {_place(ranks, hosts)}, "
        f"{shown(other)} on {_place(those, hosts)}{advice and f': {advice}'}"
        for other, those in others
    ]


def _place(ranks: Sequence[int], hosts: Sequence[str]) -> str:
    """Ranks with their hosts, such as ``ranks 0-3 (node-1) and 4-7 (node-2)``."""
    by_host: dict[str, list[int]] = {}
    for rank in ranks:
        by_host.setdefault(hosts[rank], []).append(rank)
    parts = [f"{_runs(of_host)} ({host})" for host, of_host in by_host.items()]
    shown_parts = parts[:3] + ([f"{len(parts) - 3} more hosts"] if len(parts) > 3 else [])
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {' and '.join(shown_parts)}"


def _runs(ranks: Sequence[int]) -> str:
    """Numbers in order, such as ``0-3, 6``."""
    parts: list[list[int]] = []
    for rank in ranks:
        if parts and parts[-1][-1] == rank - 1:
            parts[-1].append(rank)
        else:
            parts.append([rank])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
