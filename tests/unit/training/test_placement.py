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
        "between hosts: activations of 2 stages",
    ]
    assert placement(ParallelDims.for_world(2), ["a", "b"]) == [
        "a: rank 0 (replica 0)",
        "b: rank 1 (replica 1)",
        "between hosts: gradients of 2 replicas",
    ]


def test_shards_of_a_layer_on_two_hosts_are_said() -> None:
    lines = placement(ParallelDims.for_world(4, tp=4), ["a", "a", "b", "b"])
    assert lines[-1].startswith("--tp 4 crosses hosts")


def test_what_stays_on_a_host_is_not_said_to_cross() -> None:
    dims = ParallelDims.for_world(8, pp=2, tp=2)
    lines = placement(dims, list("aabbccdd"))
    assert lines[-1] == "between hosts: activations of 2 stages, gradients of 2 replicas"
    lines = placement(dims, ["a"] * 4 + ["b"] * 4)
    assert lines[2:] == ["between hosts: gradients of 2 replicas"]
