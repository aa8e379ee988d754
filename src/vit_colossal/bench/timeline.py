"""When each stage of a pipeline computed in one step, and its picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

FORWARD, BACKWARD, UPDATE = "forward", "backward", "update"
_COLORS = {FORWARD: "#4c78a8", BACKWARD: "#f58518", UPDATE: "#bab0ac"}


class Span(NamedTuple):
    """Something that one rank computed.

    Attributes:
        kind: FORWARD or BACKWARD of one micro-batch, in their order, or UPDATE.
        start, end: seconds since the epoch; the ranks of one machine share its clock.
    """

    kind: str
    start: float
    end: float


def idle_share(ranks: Sequence[Sequence[Span]]) -> float:
    """The part of the stages' time in which they computed nothing, from the first to the last pass.

    Args:
        ranks: what each rank computed, with at least one pass each.
    """
    passes = [[span for span in spans if span.kind != UPDATE] for spans in ranks]
    begin = min(span.start for spans in passes for span in spans)
    end = max(span.end for spans in passes for span in spans)
    busy = sum(span.end - span.start for spans in passes for span in spans)
    return 1 - busy / (len(ranks) * (end - begin))


def draw_timeline(
    name: str, ranks: Sequence[Sequence[Span]], stages: Sequence[int], ideal: float, path: Path
) -> None:
    """One row for each rank: its passes with the numbers of their micro-batches, and the update.

    Args:
        name: the case.
        ranks: what each rank computed.
        stages: the pipeline stage of each rank.
        ideal: the idle share of equal stages without transfers.
        path: the PNG file.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    begin = min(span.start for spans in ranks for span in spans)
    end = max(span.end for spans in ranks for span in spans)
    figure, axes = pyplot.subplots(figsize=(13, 1.6 + 0.6 * len(ranks)))
    for rank, spans in enumerate(ranks):
        seen = dict.fromkeys(_COLORS, 0)
        for span in spans:
            left, width = (span.start - begin) * 1e3, (span.end - span.start) * 1e3
            axes.barh(rank, width, left=left, color=_COLORS[span.kind], edgecolor="white")
            if span.kind != UPDATE:
                axes.text(left + width / 2, rank, seen[span.kind], ha="center", va="center", size=7)
            seen[span.kind] += 1
    labels = [f"rank {rank}, stage {stage}" for rank, stage in enumerate(stages)]
    axes.set_yticks(range(len(ranks)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, (end - begin) * 1e3)
    axes.set_xlabel("ms; the numbers are micro-batches")
    axes.set_title(
        f"{name}: one step; stages idle {idle_share(ranks):.1%} of their passes' time, "
        f"{ideal:.1%} in an ideal pipeline",
        fontsize=10,
    )
    handles = [Patch(color=color, label=kind) for kind, color in _COLORS.items()]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def draw_timelines(cases: Sequence[dict[str, Any]], folder: Path) -> None:
    """A picture of each case of a benchmark's document that has a timeline."""
    for case in cases:
        if timeline := case.get("timeline"):
            ranks = [[Span(*span) for span in rank["spans"]] for rank in timeline]
            stages = [rank["stage"] for rank in timeline]
            path = folder / f"timeline-{case['slug']}.png"
            draw_timeline(case["name"], ranks, stages, case["bubble"], path)
