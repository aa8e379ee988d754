"""How long a pipeline takes, played through.

Each stage of a 1F1B schedule (Narayanan et al. 2019, arXiv:1806.03377; 2021, arXiv:2104.04473,
section 2.2) does its passes in a fixed order, each as soon as what it needs is there. Where
processes share cores, a pass takes the less time the fewer stages are at work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple


class _Pass(NamedTuple):
    """One of a micro-batch through a stage."""

    stage: int
    batch: int
    backward: bool

    def needs(self, stages: int) -> _Pass | None:
        """What it waits for; None for the images."""
        if self.backward:
            last = self.stage == stages - 1
            return self._replace(backward=False) if last else self._replace(stage=self.stage + 1)
        return self._replace(stage=self.stage - 1) if self.stage else None


def one_forward_one_backward(
    passes: Sequence[tuple[float, float]], batches: int, share: Callable[[int], float]
) -> float:
    """Seconds from the first forward pass to the last backward pass.

    Args:
        passes: of each stage, seconds of one micro-batch's forward and backward pass while all
            stages compute.
        batches: micro-batches, at least one.
        share: seconds of the same work while so many stages compute, 1.0 for all of them.
    """
    stages = len(passes)
    waiting = [_order(stage, stages, batches) for stage in range(stages)]
    left = [passes[stage][order[0].backward] for stage, order in enumerate(waiting)]
    done: set[_Pass | None] = {None}
    now = 0.0
    while busy := [
        stage for stage, order in enumerate(waiting) if order and order[0].needs(stages) in done
    ]:
        work = min(left[stage] for stage in busy)
        now += work * share(len(busy))
        for stage in busy:
            left[stage] -= work
            if left[stage] <= 0:
                done.add(waiting[stage].pop(0))
                if waiting[stage]:
                    left[stage] = passes[stage][waiting[stage][0].backward]
    return now


def _order(stage: int, stages: int, batches: int) -> list[_Pass]:
    """What a stage does, one after the other."""
    ahead = min(stages - stage - 1, batches)
    forwards = [_Pass(stage, batch, False) for batch in range(batches)]
    backwards = [_Pass(stage, batch, True) for batch in range(batches)]
    steady = zip(forwards[ahead:], backwards, strict=False)
    middle = [each for pair in steady for each in pair]
    return [*forwards[:ahead], *middle, *backwards[batches - ahead :]]
