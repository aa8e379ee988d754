"""Ranks state what they are about to do; where they differ, all say so and none goes on."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import pytest
import torch.distributed as dist

from vit_colossal.errors import ConfigError, DataError, ExitCode, SharedProblems
from vit_colossal.runtime import agreement, group
from vit_colossal.runtime.agreement import Fact, Statement, compare, together
from vit_colossal.runtime.group import Topology

LR = Fact("0.1")


def statement(host: str, **facts: str) -> Statement:
    return Statement(host, facts={name: Fact(value) for name, value in facts.items()})


def test_alike_is_nothing_to_say() -> None:
    verdict = compare([statement("a", lr="1"), statement("a", lr="1"), statement("b", lr="1")])
    assert (verdict.problems, verdict.warnings, verdict.code) == ([], [], 0)


def test_each_difference_is_a_line_with_hosts_ranks_and_both_values() -> None:
    ranks = [statement("a", lr="1", seed="3")] * 2 + [statement("b", lr="2", seed="3")] * 3
    verdict = compare([*ranks, statement("b", lr="1", seed="4")])
    assert verdict.problems == [
        "lr: 1 on ranks 0-1 (a) and 5 (b), 2 on ranks 2-4 (b)",
        "seed: 3 on ranks 0-1 (a) and 2-4 (b), 4 on rank 5 (b)",
    ]
    assert verdict.code == ExitCode.USAGE


def test_advice_stands_behind_it() -> None:
    ranks = [Statement(host, facts={"data": Fact(host, "copy them")}) for host in "ab"]
    assert compare(ranks).problems == ["data: a on rank 0 (a), b on rank 1 (b): copy them"]


def test_what_does_not_bind_is_a_warning() -> None:
    ranks = [Statement("h", facts={"python": Fact(v, binding=False)}) for v in ("3.11", "3.12")]
    verdict = compare(ranks)
    assert verdict.problems == [] and verdict.code == 0
    assert verdict.warnings == ["python: 3.11 on rank 0 (h), 3.12 on rank 1 (h)"]


def test_what_a_rank_does_not_state_is_not_compared() -> None:
    assert compare([statement("a", model="x"), statement("a"), statement("b", model="x")]).code == 0
    assert compare([statement("a"), statement("a", model="x"), statement("b", model="y")]).code == 2


def test_problems_come_before_differences_and_name_their_ranks() -> None:
    here = Statement("b", ["no folder 'photos'"], code=2)
    verdict = compare([statement("a", lr="1"), here, here])
    assert verdict.problems == ["on ranks 1-2 (b): no folder 'photos'"]
    assert compare([here] * 3).problems == ["no folder 'photos'"]


def test_many_hosts_are_counted() -> None:
    ranks = [statement(f"node-{n}", lr=str(n > 0)) for n in range(9)]
    (line,) = compare(ranks).problems
    assert line.endswith("True on ranks 1 (node-1) and 2 (node-2) and 3 (node-3) and 5 more hosts")


# --- Through a store ------------------------------------------------------------------------------


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[object]]:
    """Runs what two ranks do, in threads; gives what they returned or raised."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("RANK", "0")

    def join(timeout_s: float) -> dist.Store:
        timeout = timedelta(seconds=timeout_s)
        return dist.TCPStore("127.0.0.1", store.port, is_master=False, timeout=timeout)

    monkeypatch.setattr(agreement, "join", join)

    def run(*decisions: Callable[[], str]) -> list[object]:
        def one(rank: int) -> object:
            topology = Topology(rank, len(decisions), rank, len(decisions))
            facts = lambda value: {"value": Fact(value)}  # noqa: E731
            try:
                return together(topology, decisions[rank], facts, timeout_s=20)[0]
            except Exception as error:
                return error

        with ThreadPoolExecutor(len(decisions)) as pool:
            return list(pool.map(one, range(len(decisions))))

    return run


def fail(error: Exception) -> str:
    raise error


def test_all_go_on_with_what_they_decided(ranks: Callable[..., list[object]]) -> None:
    for _ in range(2):  # a process may start several runs
        assert ranks(lambda: "x", lambda: "x", lambda: "x") == ["x"] * 3


def test_all_end_where_they_differ(ranks: Callable[..., list[object]]) -> None:
    found = ranks(lambda: "x", lambda: "y")
    assert all(isinstance(error, SharedProblems) for error in found)
    assert "value: x on rank 0 (" in str(found[0])
    assert str(found[0]) == str(found[1])
    assert ranks(lambda: "x", lambda: "x") == ["x"] * 2


@pytest.mark.parametrize("rank", [0, 1])
def test_what_one_rank_finds_all_say(ranks: Callable[..., list[object]], rank: int) -> None:
    decisions = [lambda: "x", lambda: "x"]
    decisions[rank] = partial(fail, DataError(["no folder"]))
    found = ranks(*decisions)
    assert [str(error) for error in found] == [str(found[0])] * 2
    assert f"on rank {rank} (" in str(found[0])
    assert [error.exit_code for error in found] == [ExitCode.USAGE] * 2


def test_a_fault_of_ours_keeps_its_traceback(ranks: Callable[..., list[object]]) -> None:
    found = ranks(lambda: "x", partial(fail, KeyError("spam")))
    assert isinstance(found[1], KeyError)
    assert isinstance(found[0], SharedProblems) and "KeyError: 'spam'" in str(found[0])
    assert found[0].exit_code == ExitCode.FAILED


def test_one_process_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert together(Topology(), lambda: "x", lambda _: {}) == ("x", None)
    with pytest.raises(ConfigError, match="alone"):
        together(Topology(), partial(fail, ConfigError(["alone"])), lambda _: {})


# --- What removes a difference --------------------------------------------------------------------


def test_all_ranks_mend_or_none_does() -> None:
    """One that cannot, as it could not even read its settings, would be waited for."""
    able = [Statement(host, facts={"x": Fact(host)}, mends=True) for host in "ab"]
    assert compare(able).mends
    assert not compare([able[0], Statement("b", facts={"x": Fact("b")})]).mends
    assert not compare([able[0], Statement("b", ["unreadable"], code=2)]).mends
    assert compare([able[0], Statement("b", ["no checkpoint"], code=2, mends=True)]).mends
    assert not compare([Statement(host, mends=True) for host in "ab"]).mends


# --- Where the others never come ------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_alone_says_its_problem_and_ends(
    rank: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Soon, and in another time than it would wait for without one; the real store is used."""
    place = {"RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
    with socket.create_server(("127.0.0.1", 0)) as free:
        place["MASTER_PORT"] = free.getsockname()[1]
    for name, value in place.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(group, "_PATIENCE_S", 0.1)
    monkeypatch.setattr(agreement, "_NEWS_S", 1)
    topology = Topology(rank, 2, 0, 1)
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(logging.getLogger("vit_colossal"), "propagate", True)
    with pytest.raises(DataError, match=r"^no folder$"):
        together(topology, partial(fail, DataError(["no folder"])), lambda _: {}, timeout_s=600)
    assert f"error on rank {rank} ({socket.gethostname()}): no folder\nwaiting" in caplog.text
    nobody = "not all 2 ranks have come" if rank == 0 else "no rank 0 there within 1 s"
    with pytest.raises(ConfigError, match=nobody):
        together(topology, lambda: "x", lambda _: {}, timeout_s=1)
    assert f"rank {rank} ({socket.gethostname()}) is ready and waits" in caplog.text


def test_ranks_that_have_met_and_do_not_connect_name_the_way_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While they wait, and in the end."""
    monkeypatch.setattr(group, "_PATIENCE_S", 0.1)
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(logging.getLogger("vit_colossal"), "propagate", True)
    with pytest.raises(ConfigError, match=r"have met, but cannot connect .* GLOO_SOCKET_IFNAME"):
        group.start(Topology(0, 2, 0, 1), "cpu", 1, dist.HashStore())
    assert "rank 0 waits for connections, at most 1 s: the name of a host" in caplog.text
    assert not dist.is_initialized()
