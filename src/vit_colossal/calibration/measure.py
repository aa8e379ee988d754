"""What each process of a calibration does: all of them the same at once, then rank 0 writes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from datetime import date
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TypeVar

import torch
import torch.distributed as dist

from vit_colossal.calibration.parts import ModelParts, clock, exchanging, updating
from vit_colossal.calibration.work import Work
from vit_colossal.forecast.rates import (
    Ladder,
    ParameterRates,
    Pieces,
    Rates,
    UpdateRate,
    pieces_key,
    transfer_key,
    write_rates,
)
from vit_colossal.runtime.group import Topology, in_group
from vit_colossal.runtime.memory import mapping_large_allocations

#: Seconds for passes through the model; the rest of the 60 is for what is sent and updated.
PASSES_S = 40.0
#: Of the rest passes while fewer processes are at work may take so many.
_SHARE_S = 10.0
#: Rounds that count, and of passes that there is too little time for.
_REPEATS, _FEWEST_REPEATS = 5, 3
#: Bytes of calls.
_BYTES = (2**12, 2**16, 2**20, 2**23, 2**25)
#: Tensors and elements of each: what a tensor costs, and what an element does.
_UPDATED = ((64, 64), (8, 2**19))
#: Bytes that are summed up beside products of square matrices, and how wide these are.
_BESIDE_BYTES, _WIDTH = 2**24, 384

K = TypeVar("K", bound=Hashable)


def measure(work: Work, path: Path) -> int:
    """Measure in the process group of a launch.

    Args:
        work: what.
        path: of the rates.
    """
    with in_group(work.plan.device.kind, Topology.from_environment(), timeout_s=300) as device:
        measure_together(work, path, device)
    return 0


def measure_together(work: Work, path: Path, device: torch.device) -> None:
    """The same in the group that there is, by all of its ranks; rank 0 writes."""
    rates = _Measuring(work, device).rates()
    if dist.get_rank() == 0:
        write_rates(rates, path)


class _Measuring:
    def __init__(self, work: Work, device: torch.device) -> None:
        self.work, self.device = work, device
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()

    def rates(self) -> Rates:
        began = perf_counter()
        pieces: dict[str, Pieces] = {}
        for count, each in enumerate(self.work.variants):  # what one has left is for the others
            [spent] = self._slowest([perf_counter() - began])
            allowed_s = (PASSES_S - spent) / (len(self.work.variants) - count)
            pieces[pieces_key(*each)] = self._pieces(*each, allowed_s)
        mapped = None
        if any(self._maps(checkpointed) for _, _, checkpointed, _ in self.work.variants):
            with mapping_large_allocations():
                mapped = self._parameters()
        return Rates(
            pieces=pieces,
            share=self._share(self.work.variants[0][0], next(iter(pieces.values()))),
            transfers=self._transfers(),
            parameters=self._parameters(),
            mapped=mapped,
            slowdown=self._slowdown(),
            seconds=perf_counter() - began,
            measured=date.today().isoformat(),
            largest_batch=self.work.batches[-1],
        )

    def _pieces(
        self, rounding: str, tp: int, checkpointed: bool, beside_gathers: bool, allowed_s: float
    ) -> Pieces:
        if beside_gathers:  # which start the threads; they stay
            gathered = torch.zeros(_BYTES[-1] // 4 // self.ranks * self.ranks, device=self.device)
            dist.all_gather_into_tensor(gathered, gathered.chunk(self.ranks)[self.rank].clone())
        parts = ModelParts(self.work, rounding, tp, checkpointed, self.device)
        with mapping_large_allocations() if self._maps(checkpointed) else nullcontext():
            return self._timed_pieces(parts, allowed_s)

    def _timed_pieces(self, parts: ModelParts, allowed_s: float) -> Pieces:
        sizes, repeats = self._affordable(parts, allowed_s)

        def second(images: int) -> list[float]:
            """After one of its own kind, as in training, not of another size."""
            parts.seconds(images)
            return parts.seconds(images)

        found = self._rounds({images: partial(second, images) for images in sizes}, repeats, 0)
        embeddings, forward, backward, head = (
            Ladder(tuple(sizes), seconds) for seconds in zip(*found.values(), strict=True)
        )
        return Pieces(embeddings, forward, backward, head)

    def _affordable(self, parts: ModelParts, allowed_s: float) -> tuple[list[int], int]:
        """Batches to be timed, and how often: the smallest and the largest that there is time for,
        then those between while any is left. An image of a larger batch seldom takes longer."""
        batches = self.work.batches
        parts.seconds(batches[0])  # what is loaded and laid out once is no part of it
        tried, largest = 0, batches[0]
        while largest > tried:
            began = clock(self.device)
            parts.seconds(largest)
            [spent] = self._slowest([clock(self.device) - began])
            tried, round_s = largest, 2 * spent / largest  # of one image, and one before it
            allowed_s -= spent
            fitting = [n for n in batches if _FEWEST_REPEATS * n * round_s <= allowed_s]
            largest = max(fitting, default=batches[0])
        sizes = [batches[0]]
        for images in reversed(batches[1:]):
            if _FEWEST_REPEATS * (sum(sizes) + images) * round_s <= allowed_s:
                sizes.append(images)
        repeats = int(allowed_s / (sum(sizes) * round_s))
        return sorted(sizes), max(_FEWEST_REPEATS, min(_REPEATS, repeats))

    def _maps(self, checkpointed: bool) -> bool:
        """As training does."""
        return checkpointed and self.device.type == "cpu"

    def _share(self, rounding: str, pieces: Pieces) -> Ladder:
        """A pass of the middle batch that there is time for, while fewer processes are at work, and
        the others wait."""
        parts = ModelParts(self.work, rounding, 1, False, self.device)
        counts = [n for n in range(1, self.ranks + 1) if self.ranks % n == 0]

        def seconds(images: float) -> float:
            blocks = pieces.block_forward(images) + pieces.block_backward(images)
            pass_s = pieces.embeddings(images) + self.work.layers * blocks + pieces.head(images)
            return (1 + _REPEATS) * len(counts) * pass_s

        sizes = pieces.head.sizes
        affordable = [n for n in sizes[: len(sizes) // 2 + 1] if seconds(n) <= _SHARE_S]
        images = int(max(affordable, default=sizes[0]))

        def total(count: int) -> list[float]:
            return [sum(parts.seconds(images)) if self.rank < count else 0.0]

        found = self._rounds({count: partial(total, count) for count in counts})
        [every] = found[self.ranks]
        return Ladder(tuple(counts), tuple(min(1.0, found[n][0] / every) for n in counts))

    def _parameters(self) -> ParameterRates:
        alone, _ = dist.new_subgroups(1)
        kind = torch.float32 if min(self.work.elements) == 4 else torch.bfloat16

        def rate(gather: bool) -> UpdateRate:
            return self._rate(
                lambda count, numel: exchanging(
                    alone,
                    kind,
                    count,
                    numel,
                    self.device,
                    bucket_elements=self.work.plan.bucket_elements,
                    gather=gather,
                )
            )

        reduced, both = rate(False), rate(True)
        gathered = UpdateRate(
            max(0.0, both.tensor - reduced.tensor), max(0.0, both.element - reduced.element)
        )
        updates = {plugin: self._update(plugin) for plugin in self.work.plugins}
        return ParameterRates(reduced, gathered, updates)

    def _update(self, plugin: str) -> UpdateRate:
        return self._rate(
            lambda count, numel: updating(self.work, plugin, count, numel, self.device)
        )

    def _rate(self, call: Callable[[int, int], Callable[[], None]]) -> UpdateRate:
        """Of what is called for so many tensors of so many elements."""
        (tensors, _), (large, numel) = _UPDATED
        many, few = self._seconds({sizes: call(*sizes) for sizes in _UPDATED}).values()
        return UpdateRate(many / tensors, max(0.0, few - many * large / tensors) / (large * numel))

    def _transfers(self) -> dict[str, Ladder]:
        calls = {}
        for ranks in [n for n in range(2, self.ranks + 1) if self.ranks % n == 0]:
            group, _ = dist.new_subgroups(ranks)
            for element, size in product(self.work.elements, _BYTES):
                for kind, call in self._calls(group, ranks, size, element).items():
                    calls[transfer_key(kind, ranks, element), size] = call
        seconds = self._seconds(calls)
        keys = dict.fromkeys(key for key, _ in calls)
        return {key: Ladder(_BYTES, tuple(seconds[key, size] for size in _BYTES)) for key in keys}

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

        calls: dict[str, Callable[[], object]] = {"sums": partial(dist.all_reduce, sent)}
        alone, ten = self._seconds({**calls, "products": partial(products, 10)}).values()
        count = max(1, round(10 * alone / ten))
        calls |= {"products": partial(products, count), "both": partial(both, count)}
        alone, computing, together = self._seconds(calls).values()
        excess = together - max(alone, computing)
        return min(1.0, max(0.0, excess / min(alone, computing)))

    def _seconds(self, calls: Mapping[K, Callable[[], object]]) -> dict[K, float]:
        def timed(call: Callable[[], object]) -> list[float]:
            began = clock(self.device)
            call()
            return [clock(self.device) - began]

        found = self._rounds({key: partial(timed, call) for key, call in calls.items()})
        return {key: seconds for key, [seconds] in found.items()}

    def _rounds(
        self,
        timed: Mapping[K, Callable[[], Sequence[float]]],
        repeats: int = _REPEATS,
        warm_up: int = 1,
    ) -> dict[K, list[float]]:
        """All in turn, again and again, in rounds to warm up first; all ranks begin one at once.

        Returns:
            Of each its times on the slowest rank, the median of the rounds that count.
        """
        rows: dict[K, list[list[float]]] = {key: [] for key in timed}
        for _ in range(warm_up + repeats):
            for key, call in timed.items():
                rows[key].append(self._slowest(call()))
        return {
            key: [median(column) for column in zip(*every[warm_up:], strict=True)]
            for key, every in rows.items()
        }

    def _slowest(self, own: Sequence[float]) -> list[float]:
        every = torch.tensor(own, device=self.device)
        dist.all_reduce(every, dist.ReduceOp.MAX)
        return [float(each) for each in every]
