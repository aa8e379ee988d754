"""The plain loops that a comparison needs, and how far one may be off from them.

How far is not guessed: the plain loop is compared with itself under reordered reductions (other
micro-batches, summed backwards, split matrix products), and a run may be off by
``TOLERANCE_FACTOR`` times as much.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from vit_colossal.config.plugins import facts_of
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.data.prepare import RunData
from vit_colossal.errors import ExitCode
from vit_colossal.parity.config import ParityConfig
from vit_colossal.parity.plain_loop import Grouping, train_plain
from vit_colossal.parity.trace import Trace, compare, remove_trace
from vit_colossal.plan.layouts import AUTOCAST, MASTERS
from vit_colossal.plan.plan import RunPlan, steps_per_epoch, total_steps
from vit_colossal.runtime.group import Topology
from vit_colossal.runtime.spawn import launch
from vit_colossal.training.run import plan_run

#: How many times the plain loop's own spread a run may be off.
TOLERANCE_FACTOR = 4.0
#: No tolerance is below two units in the last place of an fp32 loss.
FLOOR = 2.0**-22
#: The reductions that the plain loop is reordered by to measure its spread.
REORDERED = (
    Grouping(parts=2),
    Grouping(parts=4),
    Grouping(parts=8, backwards=True),
    Grouping(split_products=2),
    Grouping(split_products=4),
)


@dataclass(frozen=True)
class Tolerance:
    """What a run of one precision may be off from its reference.

    Attributes:
        loss, grad_norm, weights: relative; see ``Difference``.
        correct: images.
        spread: the plain loop's own largest differences, from which the others follow.
    """

    loss: float
    grad_norm: float
    weights: float
    correct: int
    spread: dict[str, float]


#: Of a run that has to be its reference bit for bit.
NONE = Tolerance(loss=0.0, grad_norm=0.0, weights=0.0, correct=0, spread={})


class Arithmetic(NamedTuple):
    """What decides the plain loop's result, beside the order of its sums.

    Attributes:
        precision: in which it computes.
        clip: what the gradient norm is clipped to; 0 is off.
        autocasts: weights are fp32, and 16 bits autocast; else 16-bit weights with fp32 masters.
    """

    precision: str
    clip: float
    autocasts: bool

    @classmethod
    def of(cls, job: TrainConfig) -> Arithmetic:
        precision = job.precision or "fp32"
        autocasts = precision == "fp32" or facts_of(job.plugin).autocasts
        return cls(precision, job.clip_grad_norm, autocasts)


#: A plain loop: what it computes in, and in which parts.
Loop = tuple[Arithmetic, Grouping]


class References:
    """Plain loops, one for each arithmetic and grouping that is asked for.

    Args:
        config: the job.
        folder: where their traces go.
        processes: how many are forked to train them; 1 trains each here, when it is asked for.
    """

    def __init__(self, config: ParityConfig, folder: Path, processes: int = 1) -> None:
        self.config, self.folder, self.processes = config, folder, processes
        self._planned: dict[Arithmetic, tuple[RunPlan, RunData]] = {}
        self._traces: dict[Loop, Trace] = {}
        self._tolerances: dict[Arithmetic, Tolerance] = {}

    def prepare(self, runs: Iterable[tuple[TrainConfig, Grouping]]) -> None:
        """Train all that judging these runs takes at once, where several processes do it.

        Raises:
            SystemExit: the comparison was asked to end.
        """
        wanted = dict.fromkeys(
            (Arithmetic.of(job), grouping)
            for job, mirror in runs
            for grouping in (mirror, Grouping(), *self._reordered())
        )
        loops = [loop for loop in wanted if loop not in self._traces]
        if not loops or self.processes == 1:
            return
        for arithmetic, grouping in loops:
            self._plan(arithmetic)
            remove_trace(self._trace_dir(arithmetic, grouping))
        code = launch(partial(self._train_share, loops), self.processes)
        if code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED):
            raise SystemExit(code)
        if code == ExitCode.OK:  # else the first that is asked for fails here
            self._traces.update({loop: Trace.load(self._trace_dir(*loop)) for loop in loops})

    def trace(self, job: TrainConfig, grouping: Grouping) -> Trace:
        """The plain run of a job; weights in fp32, or in bf16 with fp32 masters, as it trains."""
        loop = (Arithmetic.of(job), grouping)
        if loop not in self._traces:
            self._traces[loop] = self._train(*loop)
        return self._traces[loop]

    def tolerance(self, job: TrainConfig) -> Tolerance:
        """The spread of the plain loop under reordered reductions, times the factor."""
        arithmetic = Arithmetic.of(job)
        if arithmetic not in self._tolerances:
            base = self.trace(job, Grouping())
            off = [compare(self.trace(job, grouping), base) for grouping in self._reordered()]
            spread = {
                name: max(abs(getattr(difference, name) or 0.0) for difference in off)
                for name in ("loss", "grad_norm", "weights", "weights_in_lr", "correct")
            }
            self._tolerances[arithmetic] = Tolerance(
                loss=max(TOLERANCE_FACTOR * spread["loss"], FLOOR),
                grad_norm=max(TOLERANCE_FACTOR * spread["grad_norm"], FLOOR),
                weights=max(TOLERANCE_FACTOR * spread["weights"], FLOOR),
                correct=max(1, round(TOLERANCE_FACTOR * spread["correct"])),
                spread=spread,
            )
        return self._tolerances[arithmetic]

    def _reordered(self) -> list[Grouping]:
        batch = self.config.job().global_batch_size or 1
        return [grouping for grouping in REORDERED if batch % grouping.parts == 0]

    def _train_share(self, loops: Sequence[Loop]) -> int:
        """What each of several processes does; returns its exit code."""
        place = Topology.from_environment()
        for number in range(place.rank, len(loops), place.world_size):
            trace_dir = self._trace_dir(*loops[number])
            print(f"plain loop {number + 1}/{len(loops)}: {trace_dir.name}", flush=True)
            self._train(*loops[number]).save(trace_dir)
        return 0

    def _train(self, arithmetic: Arithmetic, grouping: Grouping) -> Trace:
        plan, data = self._plan(arithmetic)
        steps = total_steps(plan.config, steps_per_epoch(plan.config, len(data.train)))
        return train_plain(plan, data, steps, grouping)

    def _plan(self, arithmetic: Arithmetic) -> tuple[RunPlan, RunData]:
        """Planned, and its data read, once for all groupings."""
        if arithmetic not in self._planned:
            plain = self.config.job(
                plugin=AUTOCAST if arithmetic.autocasts else MASTERS,
                precision=arithmetic.precision,
                clip_grad_norm=arithmetic.clip,
                pp=1,
                tp=1,
                zero=0,
            )
            self._planned[arithmetic] = plan_run(plain, Topology())
        return self._planned[arithmetic]

    def _trace_dir(self, arithmetic: Arithmetic, grouping: Grouping) -> Path:
        kind = "autocast" if arithmetic.autocasts else "weights"
        precision = arithmetic.precision if arithmetic.precision == "fp32" else f"bf16-{kind}"
        name = f"plain-{precision}" + (f"-clip{arithmetic.clip:g}" if arithmetic.clip else "")
        usual = Grouping()
        for part, value in vars(grouping).items():
            name += "" if value == getattr(usual, part) else f"-{part}-{value}"
        return self.folder / "traces" / name.lower()
