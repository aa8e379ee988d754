"""What each process of a calibration does: all of them the same at once, then rank 0 writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from time import perf_counter

import torch
import torch.distributed as dist

from vit_colossal.calibration.parts import ModelParts, clock, updating
from vit_colossal.calibration.work import Work
from vit_colossal.forecast.rates import (
    Ladder,
    Pieces,
    Rates,
    UpdateRate,
    pieces_key,
    transfer_key,
    write_rates,
)
from vit_colossal.runtime.group import Topology, in_group

#: Seconds for passes through the model; the rest of the 60 is for what is sent and updated.
PASSES_S = 40.0
#: Times that a pass through the model gives.
_PARTS = 4
#: Passes and calls that count, after one that does not. Of their times the second shortest is
#: taken: whatever else the machine does makes them longer, and the shortest may be luck.
_REPEATS = 5
#: Bytes of calls.
_BYTES = (2**12, 2**16, 2**20, 2**23, 2**25)
#: Tensors and elements of each: what a tensor costs, and what an element does.
_MANY, _LARGE = (64, 64), (8, 2**19)
#: Bytes that are summed up beside products of square matrices, and how wide these are.
_BESIDE_BYTES, _WIDTH = 2**24, 384


def measure(work: Work, path: Path) -> int:
    """Measure in the process group of a launch.

    Args:
        work: what.
        path: of the rates.
    """
    topology = Topology.from_environment()
    with in_group(work.plan.device.kind, topology, timeout_s=300) as device:
        rates = _Measuring(work, device).rates()
        if topology.rank == 0:
            write_rates(rates, path)
    return 0


class _Measuring:
    def __init__(self, work: Work, device: torch.device) -> None:
        self.work, self.device = work, device
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()

    def rates(self) -> Rates:
        began = perf_counter()
        pieces = {pieces_key(*each): self._pieces(*each) for each in self.work.variants}
        sizes = next(iter(pieces.values())).head.sizes
        return Rates(
            pieces=pieces,
            share=self._share(self.work.variants[0][0], int(sizes[len(sizes) // 2])),
            transfers=self._transfers(),
            updates={plugin: self._update(plugin) for plugin in self.work.plugins},
            slowdown=self._slowdown(),
            seconds=perf_counter() - began,
            measured=date.today().isoformat(),
        )

    def _pieces(self, rounding: str, tp: int) -> Pieces:
        """Batch after batch, each twice the one before, while there is time."""
        parts = ModelParts(self.work, rounding, tp, self.device)
        left = PASSES_S / len(self.work.variants)
        sizes, found = [], []
        for images in self.work.batches:
            began = perf_counter()
            found.append(self._typical(partial(parts.seconds, images), _PARTS))
            sizes.append(images)
            [spent] = self._slowest([perf_counter() - began])
            left -= spent
            if 2 * spent > left:
                break
        embeddings, forward, backward, head = (
            Ladder(tuple(sizes), seconds) for seconds in zip(*found, strict=True)
        )
        return Pieces(embeddings, forward, backward, head)

    def _share(self, rounding: str, images: int) -> Ladder:
        """The same pass while fewer processes are at work."""
        timed = partial(ModelParts(self.work, rounding, 1, self.device).seconds, images)
        counts = [n for n in range(1, self.ranks + 1) if self.ranks % n == 0]
        totals = [sum(self._typical(timed, _PARTS, count)) for count in counts]
        shares = tuple(min(1.0, total / totals[-1]) for total in totals)
        return Ladder(tuple(counts), shares)

    def _update(self, plugin: str) -> UpdateRate:
        many, large = (
            self._time_of(updating(self.work, plugin, *sizes, self.device))
            for sizes in (_MANY, _LARGE)
        )
        tensor = many / _MANY[0]
        return UpdateRate(tensor, max(0.0, large - _LARGE[0] * tensor) / (_LARGE[0] * _LARGE[1]))

    def _transfers(self) -> dict[str, Ladder]:
        found = {}
        for ranks in [n for n in range(2, self.ranks + 1) if self.ranks % n == 0]:
            group, _ = dist.new_subgroups(ranks)
            for element in self.work.elements:
                ladders: dict[str, list[float]] = {}
                for size in _BYTES:
                    for kind, call in self._calls(group, ranks, size, element).items():
                        ladders.setdefault(kind, []).append(self._time_of(call))
                for kind, seconds in ladders.items():
                    key = transfer_key(kind, ranks, element)
                    found[key] = Ladder(_BYTES, tuple(seconds))
        return found

    def _calls(
        self, group: dist.ProcessGroup, ranks: int, size: int, element: int
    ) -> dict[str, Callable[[], object]]:
        """Each on a tensor of as many bytes; neighbors send in pairs."""
        kind = torch.float32 if element == 4 else torch.bfloat16
        count = -(-size // element // ranks) * ranks
        whole = torch.zeros(count, dtype=kind, device=self.device)
        share, place = whole.new_zeros(count // ranks), self.rank % ranks

        def send() -> None:
            if place % 2:
                dist.recv(whole, self.rank - 1, group=group)
            elif place + 1 < ranks:
                dist.send(whole, self.rank + 1, group=group)

        return {
            "all_reduce": lambda: dist.all_reduce(whole, group=group),
            "all_gather": lambda: dist.all_gather_into_tensor(whole, share, group=group),
            "reduce_scatter": lambda: dist.reduce_scatter_tensor(share, whole, group=group),
            "send": send,
        }

    def _slowdown(self) -> float:
        """What the shorter of an all-reduce and products as long takes on top of the longer."""
        sent = torch.zeros(_BESIDE_BYTES // 4, device=self.device)
        factor = torch.zeros(_WIDTH, _WIDTH, device=self.device)

        def products(count: int) -> None:
            for _ in range(count):
                factor @ factor

        def both(count: int) -> None:
            handle = dist.all_reduce(sent, async_op=True)
            products(count)
            handle.wait()

        alone = self._time_of(lambda: dist.all_reduce(sent))
        count = max(1, round(alone / (self._time_of(lambda: products(10)) / 10)))
        computing, together = (self._time_of(partial(each, count)) for each in (products, both))
        excess = together - max(alone, computing)
        return min(1.0, max(0.0, excess / min(alone, computing)))

    def _time_of(self, call: Callable[[], object]) -> float:
        def timed() -> list[float]:
            began = clock(self.device)
            call()
            return [clock(self.device) - began]

        return self._typical(timed, 1)[0]

    def _typical(
        self, timed: Callable[[], Sequence[float]], count: int, active: int | None = None
    ) -> list[float]:
        """The second shortest of the slowest rank's times, each repetition begun by all at once.

        Args:
            timed: gives ``count`` times.
            count: of them.
            active: only the first so many ranks do it, and the others wait; None is all.
        """
        rows = []
        for _ in range(_REPEATS + 1):
            own = timed() if active is None or self.rank < active else [0.0] * count
            rows.append(self._slowest(own))
        return [sorted(column)[1] for column in zip(*rows[1:], strict=True)]

    def _slowest(self, own: Sequence[float]) -> list[float]:
        every = torch.tensor(own, device=self.device)
        dist.all_reduce(every, dist.ReduceOp.MAX)
        return [float(each) for each in every]
