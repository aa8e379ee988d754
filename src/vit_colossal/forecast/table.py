"""The candidates as a table, a sentence on the first, and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from textwrap import fill
from typing import Any

from vit_colossal.forecast.candidates import Candidate, Candidates
from vit_colossal.forecast.devices import Room
from vit_colossal.forecast.memory import KINDS, Memory
from vit_colossal.forecast.step_time import StepTime
from vit_colossal.plan.parallel_dims import TARGET_BUBBLE

_GIB = 2**30
#: Rows.
SHOWN = 12
#: Of sentences.
_WIDTH = 100
#: Without measured rates, and with them.
ORDER = (
    "Order: what fits comes first; of that what recomputes nothing, then the smallest idle share "
    "of a pipeline, the fewest bytes that a rank sends, the fewest micro-batches, the lowest peak. "
    "No time is predicted. The batch is cut as little as fits, a pipeline's until it waits less "
    f"than {TARGET_BUBBLE:.0%}."
)
BY_TIME = (
    "Order: what fits comes first, the fastest of it first. A step is forward, backward and "
    "update: reading images is not in it."
)
PEAK = (
    "GiB of the fullest rank. The peak is that of the fullest moment (start, backward or update), "
    "so it may be less than the sum of its kinds; an allowance for the process is in it."
)
_NONE = "No layout is possible."
_UNCOVERED = (
    "Not predicted: neither memory nor time of this family's models. They are of plain encoders, "
    "such as ViT, DeiT and DINOv2."
)
#: Where the first is not of the same kind as the others.
_ROUNDING = (
    "In 16 bits there are two kinds, which round differently: autocast over fp32 weights (no "
    "masters in the table), and 16-bit weights with fp32 masters. Compare runs of one kind."
)


def as_text(found: Candidates, room: Room, heading: Sequence[str], more: Sequence[str] = ()) -> str:
    """What the command prints.

    Args:
        found: the candidates.
        room: what a rank may take.
        heading: lines about the run and the devices.
        more: sentences after those on the first.
    """
    shown = found.of_each_layout
    table = [*_table(shown[:SHOWN], room), ""] if shown else []
    words = [_NONE if found.covered else _UNCOVERED]
    if shown:
        words = [PEAK, _order(found), "", *verdict(found, room), *more]
    if left := len(found.found) - min(len(shown), SHOWN):
        words.insert(0, f"{left} more in --format json, such as other cuts of the batch.")
    if len({each.rounding for each in found.found}) > 1:
        words.append(_ROUNDING)
    if found.refused:
        words += ["", "Refused, as training would:"]
        words += [f"  {reason} ({count} times)" for reason, count in _frequent(found.refused)]
    if found.unknown and found.covered:
        words.append(f"Not predicted: {', '.join(found.unknown)}; no word of what is divided.")
    lines = [*heading, "", *table, *(fill(text, _WIDTH) for text in words)]
    return "\n".join(lines)


def _table(shown: Sequence[Candidate], room: Room) -> list[str]:
    kinds = [kind for kind in KINDS if any(getattr(each.memory, kind) for each in shown)]
    timed = shown[0].time is not None
    times = ["step s", "images/s"] if timed else []
    rows = [["", "layout", *times, "peak", *kinds, "sent MiB", "idle", "micro-batches"]]
    for number, each in enumerate(shown, 1):
        mark = f"{number}" if each.fits(room) else "no"
        sizes = [f"{getattr(each.memory, kind) / _GIB:.2f}" for kind in ("peak", *kinds)]
        cut = f"{each.microbatches} x {each.plan.batches.microbatch}"
        idle = f"{each.idle:.0%}" if each.idle else "-"
        rows.append(
            [mark, each.flags, *_times(each), *sizes, f"{each.sent / 2**20:.0f}", idle, cut]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if column == 1 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _times(candidate: Candidate) -> list[str]:
    time, speed = candidate.time, candidate.images_per_second
    if time is None or speed is None:
        return []
    return [f"{time.total:.3g}", f"{speed:,.0f}" if speed >= 1000 else f"{speed:.4g}"]


def _order(found: Candidates) -> str:
    return ORDER if found.found[0].time is None else BY_TIME


def verdict(found: Candidates, room: Room) -> list[str]:
    """Why the first is first, and what the next would need; there has to be one."""
    first, shown = found.found[0], found.of_each_layout
    peak = gib(first.memory.peak)
    if room.per_rank is None:
        return [f"First: {first.flags}, {peak}. Nothing is known of the memory that is free."]
    if not first.fits(room):
        return [
            f"None fits: the smallest, {first.flags}, takes {peak} of {gib(room.per_rank)}: "
            "use more devices, a smaller --global-batch-size or a smaller model."
        ]
    spare = room.per_rank - first.memory.peak
    reasons = [f"it takes {peak} of {gib(room.per_rank)}, {gib(spare)} to spare"]
    if first.time is not None:
        reasons.insert(0, f"a step takes about {first.time.total:.3g} s ({_shares(first.time)})")
    reasons.append("and recomputes all blocks" if first.plan.config.grad_checkpoint else
                   "recomputes nothing")  # fmt: skip
    reasons.append(f"waits {first.idle:.0%} of the time" if first.idle else "waits for no stage")
    lines = [f"First: {first.flags}: {', '.join(reasons)}, and a rank sends "
             f"{first.sent / 2**20:,.0f} MiB a step."]  # fmt: skip
    if len(shown) > 1:
        lines.append(f"Next: {shown[1].flags}, which {_drawback(first, shown[1], room)}.")
    return lines


def _shares(time: StepTime) -> str:
    """What a step's time goes into, in percent of it."""
    shares = [(seconds / time.total, name) for name, seconds in asdict(time).items()]
    return ", ".join(f"{name} {share:.0%}" for share, name in shares if share >= 0.005)


def _drawback(first: Candidate, other: Candidate, room: Room) -> str:
    """What the second of two has more of, in the words of the order."""
    if not other.fits(room):
        missing = other.memory.peak - (room.per_rank or 0)
        return f"takes {gib(other.memory.peak)}: it needs {gib(missing)} more"
    if first.time is not None and other.time is not None:
        longer = other.time.total / first.time.total - 1
        words = f"takes {longer:.0%} longer" if longer >= 0.01 else "is as fast within 1%"
        return f"{words} ({_shares(other.time)})"
    if other.plan.config.grad_checkpoint and not first.plan.config.grad_checkpoint:
        return "fits too, but computes all blocks twice"
    if round(other.idle, 3) > round(first.idle, 3):
        return f"fits too, but waits {other.idle:.0%} of the time"
    if other.sent > first.sent:
        more = (other.sent - first.sent) / 2**20
        return f"takes {gib(other.memory.peak)} and sends {more:,.0f} MiB more a step"
    if other.microbatches > first.microbatches:
        return f"cuts the batch into {other.microbatches} parts"
    return f"takes {gib(other.memory.peak)}"


def as_document(found: Candidates, room: Room, **about: Any) -> dict[str, Any]:
    """All candidates, as JSON."""
    return {
        **about,
        "device": {
            "kind": room.device.kind,
            "bytes_per_rank": room.per_rank,
            "source": room.words,
            "extrapolated": room.extrapolated,
        },
        "order": _order(found) if found.found else ORDER,
        "candidates": [_as_row(each, room) for each in found.found],
        "refused": found.refused,
        "not_predicted": list(found.unknown),
    }


def _as_row(each: Candidate, room: Room) -> dict[str, Any]:
    config, dims, batches = each.plan.config, each.plan.dims, each.plan.batches
    return {
        "flags": each.flags,
        "fits": each.fits(room),
        "plugin": config.plugin,
        "precision": config.precision,
        "rounding": each.rounding,
        **{"dp": dims.dp, "tp": dims.tp, "pp": dims.pp, "zero": config.zero},
        "grad_checkpoint": config.grad_checkpoint,
        "microbatches": each.microbatches,
        "microbatch": batches.microbatch,
        "memory_bytes": _memory(each.memory),
        "fullest_moment": each.memory.moment,
        "fullest_stage": each.memory.stage,
        "bytes_sent": each.sent,
        "idle_share": each.idle,
        "step_seconds": None if each.time is None else each.time.total,
        "images_per_second": each.images_per_second,
        "seconds": None if each.time is None else asdict(each.time),
    }


def _memory(memory: Memory) -> dict[str, int]:
    return {name: getattr(memory, name) for name in ("peak", *KINDS, "framework")}


def _frequent(refused: dict[str, int]) -> list[tuple[str, int]]:
    most = sorted(refused.items(), key=lambda item: -item[1])
    shown, left = most[:SHOWN], most[SHOWN:]
    if left:
        shown.append((f"and {len(left)} more reasons", sum(count for _, count in left)))
    return shown


def gib(size: int) -> str:
    """A size for people."""
    return f"{size / _GIB:.2f} GiB"
