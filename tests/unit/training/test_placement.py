"""Which host has what, and what should not cross."""

from __future__ import annotations

from vit_colossal.plan.parallel_dims import ParallelDims
from vit_colossal.training.placement import placement


def test_one_host_needs_no_map() -> None:
    assert placement(ParallelDims.for_world(4, tp=2), ["a"] * 4) == []


def test_each_host_has_its_line() -> None:
    assert placement(ParallelDims.for_world(4, pp=2, tp=2), ["a", "a", "b", "b"]) == [
        "a: rank 0 (stage 0 shard 0), rank 1 (stage 0 shard 1)",
        "b: rank 2 (stage 1 shard 0), rank 3 (stage 1 shard 1)",
    ]
    assert placement(ParallelDims.for_world(2), ["a", "b"]) == [
        "a: rank 0 (replica 0)",
        "b: rank 1 (replica 1)",
    ]


def test_shards_of_a_layer_on_two_hosts_are_said() -> None:
    lines = placement(ParallelDims.for_world(4, tp=4), ["a", "a", "b", "b"])
    assert lines[-1].startswith("--tp 4 crosses hosts")
