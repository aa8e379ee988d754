"""Ranks of one attempt find each other, and none of an earlier one that used the same store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from vit_colossal.runtime.rendezvous import _agree

TIMEOUT = timedelta(seconds=20)


@pytest.fixture
def store() -> dist.TCPStore:
    return dist.TCPStore("127.0.0.1", 0, 1, is_master=True, timeout=TIMEOUT)


def client(store: dist.TCPStore) -> dist.TCPStore:
    return dist.TCPStore("127.0.0.1", store.port, is_master=False, timeout=TIMEOUT)


def attempt(store: dist.TCPStore, ranks: list[int], timeout: timedelta = TIMEOUT) -> list[str]:
    with ThreadPoolExecutor(len(ranks)) as pool:
        joining = [pool.submit(_agree, client(store), rank, 3, timeout) for rank in ranks]
        return [each.result() for each in joining]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0]])
def test_each_attempt_has_a_name_of_its_own(store: dist.TCPStore, order: list[int]) -> None:
    names = [attempt(store, order) for _ in range(3)]
    assert all(len(set(same)) == 1 for same in names)
    assert len({same[0] for same in names}) == 3


def test_one_that_is_missing_is_named(store: dist.TCPStore) -> None:
    attempt(store, [0, 1, 2])
    with pytest.raises(TimeoutError, match=r"ranks \[2\] have not joined"):
        attempt(store, [0, 1], timedelta(seconds=1))


def test_nobody_goes_on_with_the_name_of_an_earlier_attempt(store: dist.TCPStore) -> None:
    attempt(store, [0, 1, 2])
    with pytest.raises(TimeoutError, match="rank 0 has not joined"):
        attempt(store, [1, 2], timedelta(seconds=1))
