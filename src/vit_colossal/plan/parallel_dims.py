"""World size = data x pipeline x tensor parallel, and how a global batch is cut into micro-batches.

Pure arithmetic: no torch, no process group, so every problem is found before anything starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

from vit_colossal.errors import ConfigError

#: The pipeline's idle share that the default number of micro-batches stays under.
TARGET_BUBBLE = 0.12


@dataclass(frozen=True)
class Coordinate:
    """Where one rank sits in the mesh (data-, pipeline-, tensor-parallel index)."""

    dp: int
    pp: int
    tp: int


@dataclass(frozen=True)
class ParallelDims:
    """Degrees of parallelism; ``world_size == dp * pp * tp``.

    Ranks are numbered as ColossalAI's process mesh numbers them: tensor parallel innermost,
    then pipeline, data parallel outermost.
    """

    dp: int
    pp: int
    tp: int

    @classmethod
    def for_world(cls, world_size: int, *, pp: int = 1, tp: int = 1) -> ParallelDims:
        """Derive the data-parallel size.

        Raises:
            ConfigError: ``world_size`` is not a multiple of ``tp * pp``.
        """
        if world_size == 1 and tp * pp > 1:
            degrees = " ".join(f"--{n} {d}" for n, d in (("tp", tp), ("pp", pp)) if d > 1)
            raise ConfigError(
                [f"{degrees} needs {tp * pp} processes or a multiple: add --nproc {tp * pp}"]
            )
        if world_size % (tp * pp):
            raise ConfigError(
                [
                    f"{world_size} processes cannot be divided into --tp {tp} x --pp {pp} = "
                    f"{tp * pp}: start a multiple of {tp * pp} processes or change --tp/--pp"
                ]
            )
        return cls(dp=world_size // (tp * pp), pp=pp, tp=tp)

    @property
    def world_size(self) -> int:
        return self.dp * self.pp * self.tp

    @property
    def lead_rank(self) -> int:
        """The rank that reports and writes: the first, at whose terminal people sit."""
        return 0

    @property
    def loss_rank(self) -> int:
        """The first rank that sees the loss: last stage of the first replica."""
        return (self.pp - 1) * self.tp

    def coordinate(self, rank: int) -> Coordinate:
        return Coordinate(
            dp=rank // (self.pp * self.tp), pp=rank // self.tp % self.pp, tp=rank % self.tp
        )

    def __str__(self) -> str:
        return f"dp {self.dp} x pp {self.pp} x tp {self.tp}"


@dataclass(frozen=True)
class BatchPlan:
    """How one optimizer step's samples are spread.

    ``global_batch = dp * accumulation * num_microbatches * microbatch``. Under a pipeline,
    accumulation is simply more micro-batches in the same schedule (1F1B holds activations of at
    most ``pp`` of them), so ``accumulation`` is 1 there and ``num_microbatches`` carries both.
    """

    global_batch: int
    dp: int
    accumulation: int
    num_microbatches: int

    @property
    def forward_batch(self) -> int:
        """Samples per replica in one forward call (one pipeline schedule)."""
        return self.global_batch // (self.dp * self.accumulation)

    @property
    def microbatch(self) -> int:
        return self.forward_batch // self.num_microbatches

    def __str__(self) -> str:
        return (
            f"global batch {self.global_batch} = dp {self.dp} x micro-batches "
            f"{self.num_microbatches} x size {self.microbatch} x accumulation {self.accumulation}"
        )


def plan_batches(
    global_batch: int,
    dims: ParallelDims,
    *,
    accumulation: int = 1,
    num_microbatches: int | None = None,
    microbatch_size: int | None = None,
) -> BatchPlan:
    """Cut ``global_batch`` into replicas, accumulation steps and micro-batches.

    Raises:
        ConfigError: listing every division that does not come out even.
    """
    divisor = dims.dp * accumulation
    if global_batch % divisor:
        below, above = global_batch // divisor * divisor, (global_batch // divisor + 1) * divisor
        nearby = f"{below} or {above}" if below else str(above)
        raise ConfigError(
            [
                f"--global-batch-size {global_batch} is not divisible by {dims.dp} data-parallel "
                f"replicas x --grad-accumulation {accumulation} = {divisor}: use {nearby}"
            ]
        )
    if dims.pp == 1:
        return BatchPlan(global_batch, dims.dp, accumulation, 1)
    per_replica = global_batch // divisor
    count = _microbatch_count(per_replica, dims.pp, num_microbatches, microbatch_size)
    return BatchPlan(global_batch, dims.dp, 1, count * accumulation)


def _microbatch_count(
    per_replica: int, pp: int, num_microbatches: int | None, microbatch_size: int | None
) -> int:
    """Micro-batches of one accumulation step; raises ConfigError when they cannot be had."""
    if num_microbatches is not None and microbatch_size is not None:
        raise ConfigError(["--num-microbatches and --microbatch-size exclude each other: give one"])
    count, flag = num_microbatches, f"--num-microbatches {num_microbatches}"
    if microbatch_size is not None:
        flag = f"--microbatch-size {microbatch_size}"
        count = per_replica // microbatch_size if per_replica % microbatch_size == 0 else None
    elif count is None:
        flag, count = "the batch", default_microbatches(per_replica, pp)
    if count is None or per_replica % count:
        raise ConfigError([f"{flag} does not divide the {per_replica} samples of one replica"])
    if count < pp:
        raise ConfigError(
            [
                f"{flag} gives {count} micro-batches, fewer than the {pp} pipeline stages: "
                f"use a larger --global-batch-size or at least --num-microbatches {pp}"
            ]
        )
    return count


def bubble(pp: int, num_microbatches: int) -> float:
    """Idle share of a 1F1B pipeline, (p-1)/(m+p-1) (Narayanan et al. 2021, section 2.2)."""
    return (pp - 1) / (num_microbatches + pp - 1)


def default_microbatches(per_replica: int, pp: int) -> int:
    """The smallest even division whose bubble is under the target, else the largest there is."""
    small = [m for m in range(1, isqrt(per_replica) + 1) if per_replica % m == 0]
    divisors = sorted(m for m in {*small, *(per_replica // m for m in small)} if m >= pp)
    for count in divisors:
        if bubble(pp, count) < TARGET_BUBBLE:
            return count
    return divisors[-1] if divisors else per_replica
