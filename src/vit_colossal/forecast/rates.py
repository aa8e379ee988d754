"""How fast a machine is: what a step's time is made of."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from vit_colossal.durable import replacing


@dataclass(frozen=True)
class Ladder:
    """Seconds that some sizes took; between them time grows in a straight line.

    Attributes:
        sizes: ascending: images, bytes or processes.
        seconds: of each.
    """

    sizes: tuple[float, ...]
    seconds: tuple[float, ...]

    def __call__(self, size: float) -> float:
        """Below the smallest as long as that; above the largest it grows as it did just below, of a
        single size in proportion."""
        if size <= self.sizes[0]:
            return self.seconds[0]
        if len(self.sizes) == 1:
            return self.seconds[0] * size / self.sizes[0]
        above = min(bisect_left(self.sizes, size), len(self.sizes) - 1)
        (low, high), (early, late) = (
            values[above - 1 : above + 1] for values in (self.sizes, self.seconds)
        )
        grown = early + (late - early) * (size - low) / (high - low)
        return grown if size <= high else max(late, grown)


@dataclass(frozen=True)
class Pieces:
    """Seconds of parts of a model by the images of a pass, while all processes compute.

    Attributes:
        embeddings: normalizing and embedding the images, forward and backward.
        block_forward, block_backward: of one block, as tensor parallelism cuts it. Gradients are
            added to those that are there.
        head: the last norm, the classifier and the loss, forward and backward.
    """

    embeddings: Ladder
    block_forward: Ladder
    block_backward: Ladder
    head: Ladder


@dataclass(frozen=True)
class UpdateRate:
    """Seconds for each tensor and each element of it."""

    tensor: float
    element: float


@dataclass(frozen=True)
class ParameterRates:
    """What is done with a rank's parameters beside the passes and sending.

    Attributes:
        reduced, gathered: by ZeRO, around the exchange of gradients and that of weights.
        updates: by plugin.
    """

    reduced: UpdateRate
    gathered: UpdateRate
    updates: dict[str, UpdateRate]


@dataclass(frozen=True)
class Rates:
    """What was measured with all processes at work at once, so that they slow each other down; or
    what a data sheet promises (``forecast.extrapolation``).

    Attributes:
        pieces: by :func:`pieces_key`; beside gathers only where that makes a difference.
        share: seconds of the same work while only so many processes compute, 1.0 for all of them.
        transfers: by :func:`transfer_key`, seconds of a call by the bytes of the whole tensor.
        parameters: what is done with them.
        mapped: the same where large tensors are mapped one by one, as ``--grad-checkpoint`` has it
            on a CPU (``runtime.memory``); None where that makes no difference.
        slowdown: of an all-reduce and matrix products at once, the part of the shorter that comes
            on top of the longer: 0 where they do not disturb each other, 1 where nothing is won.
        seconds: how long measuring took.
        measured: when, as a date.
        largest_batch: images of the largest pass that was to be measured, if there was time; 0 of a
            data sheet.
        devices_per_host: None where all are on one.
    """

    pieces: dict[str, Pieces]
    share: Ladder
    transfers: dict[str, Ladder]
    parameters: ParameterRates
    mapped: ParameterRates | None
    slowdown: float
    seconds: float
    measured: str
    largest_batch: int = 0
    devices_per_host: int | None = None


def pieces_key(rounding: str, tp: int, checkpointed: bool, beside_gathers: bool) -> str:
    """Of a model computed in a rounding, divided by a tensor-parallel degree.

    Args:
        rounding: of the products.
        tp: the degree.
        checkpointed: the backward pass computes each block again.
        beside_gathers: there are threads of a CPU's cores that copy what is gathered.
    """
    again, beside = checkpointed * ", checkpointed", beside_gathers * ", beside gathers"
    return f"{rounding}, tp {tp}{again}{beside}"


def transfer_key(kind: str, ranks: int, element: int, on_a_host: int | None = None) -> str:
    """Of calls in groups of so many ranks, on numbers of so many bytes; on one host unless fewer
    are there."""
    apart = "" if on_a_host in (None, ranks) else f", {on_a_host} on a host"
    return f"{kind} among {ranks}{apart}, {element} bytes"


def write_rates(rates: Rates, path: Path) -> None:
    """Write a file, complete or not at all."""
    with replacing(path, "b") as file:
        file.write(TypeAdapter(Rates).dump_json(rates, indent=1))


def read_rates(path: Path) -> Rates:
    """Read one.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    return TypeAdapter(Rates).validate_json(path.read_bytes())
