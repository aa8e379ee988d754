"""World size, coordinates, batches and micro-batches: pure arithmetic."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vit_colossal.errors import ConfigError
from vit_colossal.plan.parallel_dims import (
    TARGET_BUBBLE,
    BatchPlan,
    Coordinate,
    ParallelDims,
    bubble,
    default_microbatches,
    plan_batches,
)

DEGREES = st.integers(1, 6)
DIMS = st.builds(ParallelDims, dp=DEGREES, pp=DEGREES, tp=DEGREES)
SERIAL = ParallelDims(1, 1, 1)


# --- Degrees --------------------------------------------------------------------------------------


@given(dims=DIMS)
def test_the_data_parallel_degree_is_what_is_left(dims: ParallelDims) -> None:
    assert ParallelDims.for_world(dims.world_size, pp=dims.pp, tp=dims.tp) == dims


@given(world=st.integers(1, 64), pp=DEGREES, tp=DEGREES)
def test_a_world_that_does_not_divide_is_refused_with_the_whole_product(
    world: int, pp: int, tp: int
) -> None:
    assume(world > 1 and world % (pp * tp))
    with pytest.raises(ConfigError) as caught:
        ParallelDims.for_world(world, pp=pp, tp=tp)
    (line,) = caught.value.problems
    for text in (f"{world} processes", f"--tp {tp}", f"--pp {pp}", f"= {tp * pp}"):
        assert text in line


def test_degrees_without_processes_name_how_to_start_them() -> None:
    with pytest.raises(ConfigError, match=r"^--tp 2 --pp 3 needs 6 .*: add --nproc 6$"):
        ParallelDims.for_world(1, pp=3, tp=2)
    with pytest.raises(ConfigError, match=r"^--pp 2 needs 2 .*: add --nproc 2$"):
        ParallelDims.for_world(1, pp=2)


@given(dims=DIMS)
def test_ranks_count_tensor_then_pipeline_then_data(dims: ParallelDims) -> None:
    """The numbering of ColossalAI's mesh, ``ProcessGroupMesh(dp, pp, tp)``."""
    for rank in range(dims.world_size):
        dp, pp, tp = (int(i) for i in np.unravel_index(rank, (dims.dp, dims.pp, dims.tp)))
        assert dims.coordinate(rank) == Coordinate(dp=dp, pp=pp, tp=tp)


@given(dims=DIMS)
def test_the_loss_rank_is_on_the_last_stage_of_the_first_replica(dims: ParallelDims) -> None:
    assert dims.coordinate(dims.loss_rank) == Coordinate(dp=0, pp=dims.pp - 1, tp=0)


def test_text() -> None:
    assert str(ParallelDims(2, 4, 8)) == "dp 2 x pp 4 x tp 8"


# --- Batches --------------------------------------------------------------------------------------


@given(
    batch=st.integers(1, 512),
    dims=DIMS,
    accumulation=st.integers(1, 4),
    microbatches=st.none() | st.integers(1, 16),
)
def test_a_plan_multiplies_to_the_global_batch_or_is_refused(
    batch: int, dims: ParallelDims, accumulation: int, microbatches: int | None
) -> None:
    wanted = microbatches if dims.pp > 1 else None
    try:
        plan = plan_batches(batch, dims, accumulation=accumulation, num_microbatches=wanted)
    except ConfigError as error:
        assert error.problems
        per_replica, rest = divmod(batch, dims.dp * accumulation)
        divides = rest == 0 and (wanted is None or per_replica % wanted == 0)
        enough = dims.pp == 1 or (wanted if wanted is not None else per_replica) >= dims.pp
        assert not (divides and enough)
        return
    parts = plan.dp * plan.accumulation * plan.num_microbatches
    assert parts * plan.microbatch == plan.global_batch == batch
    assert plan.forward_batch == plan.num_microbatches * plan.microbatch
    assert plan.dp == dims.dp
    if dims.pp > 1:  # accumulation is more micro-batches: each part of the bubble is paid once
        assert plan.accumulation == 1
        assert plan.num_microbatches % accumulation == 0
        assert plan.num_microbatches // accumulation >= dims.pp
        assert wanted is None or plan.num_microbatches == wanted * accumulation
    else:
        assert (plan.accumulation, plan.num_microbatches) == (accumulation, 1)


@given(batch=st.integers(1, 512), dp=st.integers(1, 16), accumulation=st.integers(1, 4))
def test_the_suggested_batches_divide(batch: int, dp: int, accumulation: int) -> None:
    dims = ParallelDims(dp, 1, 1)
    assume(batch % (dp * accumulation))
    with pytest.raises(ConfigError) as caught:
        plan_batches(batch, dims, accumulation=accumulation)
    suggested = caught.value.problems[0].rpartition(": use ")[2]
    numbers = [int(number) for number in re.findall(r"\d+", suggested)]
    assert numbers
    for number in numbers:
        assert number > 0
        assert abs(number - batch) < dp * accumulation
        plan_batches(number, dims, accumulation=accumulation)


def test_a_microbatch_size_is_the_other_way_to_say_it() -> None:
    dims = ParallelDims(2, 2, 1)
    assert plan_batches(32, dims, microbatch_size=4) == plan_batches(32, dims, num_microbatches=4)


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ({"num_microbatches": 3}, ("--num-microbatches 3", "16 samples")),
        ({"microbatch_size": 5}, ("--microbatch-size 5", "16 samples")),
        ({"num_microbatches": 1}, ("1 micro-batches", "2 pipeline stages")),
        ({"microbatch_size": 16}, ("--microbatch-size 16", "2 pipeline stages")),
        ({"num_microbatches": 4, "microbatch_size": 4}, ("exclude each other",)),
    ],
)
def test_microbatches_that_cannot_be_had(options: dict[str, int], texts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_batches(16, ParallelDims(1, 2, 1), **options)
    (line,) = caught.value.problems
    assert all(text in line for text in texts)


def test_a_replica_with_fewer_samples_than_stages() -> None:
    with pytest.raises(ConfigError, match="4 pipeline stages"):
        plan_batches(2, ParallelDims(1, 4, 1))


def test_text_of_a_plan() -> None:
    plan = BatchPlan(64, dp=2, accumulation=1, num_microbatches=8)
    assert str(plan) == "global batch 64 = dp 2 x micro-batches 8 x size 4 x accumulation 1"


# --- Pipeline -------------------------------------------------------------------------------------


def test_the_bubble_by_hand() -> None:
    assert bubble(1, 7) == 0
    assert bubble(2, 2) == pytest.approx(1 / 3)
    assert bubble(4, 12) == pytest.approx(3 / 15)


@given(per_replica=st.integers(1, 256), pp=st.integers(2, 8))
def test_default_microbatches_stop_at_the_target_or_at_single_samples(
    per_replica: int, pp: int
) -> None:
    count = default_microbatches(per_replica, pp)
    assert per_replica % count == 0
    if per_replica < pp:
        return  # refused afterwards
    divisors = [m for m in range(pp, per_replica + 1) if per_replica % m == 0]
    good = [m for m in divisors if bubble(pp, m) < TARGET_BUBBLE]
    assert count == (good[0] if good else divisors[-1])


def test_default_microbatches_of_a_huge_batch_are_found_at_once() -> None:
    """Counting up to it would take hours."""
    assert default_microbatches(10**12, 2) == 8
    assert default_microbatches(1_000_000_000_039, 2) == 1_000_000_000_039  # a prime
