"""The table's rows as bars: memory of the fullest rank by kind, and a step's seconds by kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from vit_colossal.durable import replacing
from vit_colossal.forecast.candidates import Candidate, Candidates
from vit_colossal.forecast.devices import Room
from vit_colossal.forecast.memory import KINDS
from vit_colossal.forecast.table import SHOWN

_GIB = 2**30
_SECONDS = ("computing", "waiting", "exchanging", "updating")
#: Characters of a line of a layout's name.
_WIDTH = 44


def draw(found: Candidates, room: Room, heading: Sequence[str], path: Path) -> None:
    """A line of bars for each row of the table, best first.

    Args:
        found: the candidates, at least one.
        room: what a rank may take, a line across the bars.
        heading: lines above them.
        path: a new PNG or SVG file, by its ending; what was there is replaced.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = found.of_each_layout[:SHOWN]
    panels = 1 if rows[0].time is None else 2
    figure, axes = pyplot.subplots(
        1,
        panels,
        figsize=(8 + 5 * (panels - 1), 2.0 + 0.42 * len(rows)),
        squeeze=False,
        gridspec_kw={"width_ratios": [1.4, 1.0][:panels]},
    )
    _memory(axes[0][0], rows, room)
    if panels == 2:
        _seconds(axes[0][1], rows)
    figure.suptitle("\n".join(heading[:3]), fontsize=9, x=0.01, ha="left")
    figure.tight_layout()
    with replacing(path, "b") as file:
        figure.savefig(file, format=path.suffix[1:], dpi=110)
    pyplot.close(figure)


def _memory(axes: Any, rows: Sequence[Candidate], room: Room) -> None:
    kinds = ("framework", *KINDS)
    _stacked(axes, rows, kinds, lambda row, kind: getattr(row.memory, kind) / _GIB)
    peaks = [row.memory.peak / _GIB for row in rows]
    axes.plot(peaks, range(len(rows)), "k|", markersize=12, label="peak")
    if room.per_rank is not None:
        axes.axvline(room.per_rank / _GIB, color="black", linestyle="--", label="a rank has")
    marks = [f"{number}" if row.fits(room) else "no" for number, row in enumerate(rows, 1)]
    names = [_label(mark, row) for mark, row in zip(marks, rows, strict=True)]
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.set_xlabel("GiB of the fullest rank; not all kinds are there at the peak")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncol=5, fontsize=8)


def _label(mark: str, row: Candidate) -> str:
    """In as many lines as it takes, none of which ends between a flag and its value."""
    parts = [part.strip().replace(" ", "\N{NO-BREAK SPACE}") for part in row.flags.split("--")[1:]]
    words = " ".join(f"--{part}" for part in parts)
    return fill(f"{mark}  {words}", _WIDTH, break_on_hyphens=False)


def _seconds(axes: Any, rows: Sequence[Candidate]) -> None:
    _stacked(axes, rows, _SECONDS, lambda row, kind: getattr(row.time, kind))
    axes.set_yticks([])
    axes.set_xlabel("seconds of a step")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncol=4, fontsize=8)


def _stacked(
    axes: Any,
    rows: Sequence[Candidate],
    kinds: Sequence[str],
    size: Callable[[Candidate, str], float],
) -> None:
    """Bars of all kinds that any row has, one behind the other."""
    left = [0.0] * len(rows)
    for index, kind in enumerate(kinds):
        sizes = [size(row, kind) for row in rows]
        if any(sizes):
            color = "0.8" if kind == "framework" else f"C{index}"
            axes.barh(range(len(rows)), sizes, left=left, color=color, height=0.7, label=kind)
        left = [begin + width for begin, width in zip(left, sizes, strict=True)]
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
