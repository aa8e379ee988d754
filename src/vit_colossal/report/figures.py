"""Curves as SVG that follows the page's colours, with the points for the page's cursor."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any, Literal

from markupsafe import Markup

#: Points drawn of one curve: the lowest and the highest of each of half as many spans.
MAX_POINTS = 400
#: Colours of the page's style sheet, ``--c1`` and so on.
NUM_COLORS = 8

# matplotlib writes fixed colours. These stand for the page's own, which depend on its theme.
_TEXT, _GRID = "#010203", "#010204"
_STANDINS = {_TEXT: "var(--muted)", _GRID: "var(--line)"}
_STANDINS |= {f"#0a000{index}": f"var(--c{index})" for index in range(1, NUM_COLORS + 1)}


@dataclass(frozen=True)
class Series:
    """One curve; ``color`` counts from 0; ``marked`` shows the points."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: int = 0
    marked: bool = False

    @property
    def css_color(self) -> str:
        return f"var(--c{self.color % NUM_COLORS + 1})"


@dataclass(frozen=True)
class Chart:
    """A drawn chart.

    Attributes:
        title: heading.
        summary: what it shows, in words, for those who do not see it.
        svg: the drawing.
        series: for the legend.
        points: for the cursor, by curve: x, y, and their places in the drawing.
        x_label: unit of x.
    """

    title: str
    summary: str
    svg: Markup
    series: list[Series]
    points: list[dict[str, Any]]
    x_label: str


def draw(
    title: str,
    x_label: str,
    series: Sequence[Series],
    *,
    key: str,
    y_axis: Literal["free", "log", "zero", "share"] = "free",
) -> Chart | None:
    """Draw curves; None when there is nothing to draw.

    Args:
        title: heading and unit of y.
        x_label: unit of x.
        series: the curves; values that are not finite are gaps.
        key: unique on the page; keeps the drawings' ids apart.
        y_axis: ``log`` where values span much and are positive; from ``zero``; a ``share`` up to 1.
    """
    import matplotlib
    from matplotlib.figure import Figure

    kept = [thinned(one) for one in series]
    kept = [one for one in kept if any(map(math.isfinite, one.y))]
    if not kept:
        return None
    style = {"svg.fonttype": "none", "svg.hashsalt": "vit-colossal", "font.size": 9}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4.6, 2.6), dpi=72)
        axes = figure.add_axes((0.125, 0.15, 0.855, 0.81))
        for one in kept:
            few = sum(map(math.isfinite, one.y)) < 3  # a line would say more than is known
            axes.plot(
                one.x,
                one.y,
                color=f"#0a000{one.color % NUM_COLORS + 1}",
                linewidth=0 if few else 1.6,
                marker="o" if one.marked or few else None,
                markersize=5 if few else 3.4,
                clip_on=False,  # a point on the edge, as an accuracy of 1, is drawn whole
            )
        values = [y for one in kept for y in one.y if math.isfinite(y)]
        if y_axis == "zero":
            axes.set_ylim(bottom=0, top=1.1 * max(*values, 1e-9))
        elif y_axis == "share":
            bottom = 0.9 if min(values) == 1 else None  # so that the axis says 1
            axes.set_ylim(bottom, 1 + 0.03 * (1.001 - min(values)))
        elif y_axis == "log" and min(values) > 0 and max(values) > 50 * min(values):
            axes.set_yscale("log")
            title += ", log scale"
        _style(axes, x_label)
        out = StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    height = figure.get_figheight() * 72
    points = [_points(one, axes.transData.transform, height) for one in kept]
    words = summary(title, x_label, kept)
    return Chart(title, words, _inline(out.getvalue(), key), kept, points, x_label)


def _style(axes: Any, x_label: str) -> None:
    """A light grid, few ticks, no frame; in the stand-ins for the page's colours."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    axes.set_xlabel(x_label, color=_TEXT, labelpad=2)
    axes.grid(color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=_TEXT, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=x_label == "step"))
    if axes.get_yscale() == "linear":
        axes.yaxis.set_major_locator(MaxNLocator(5))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        axis.set_minor_formatter(NullFormatter())
    for spine in axes.spines.values():
        spine.set_visible(False)


def thinned(series: Series) -> Series:
    """At most MAX_POINTS points that keep every peak and dip as large as it was."""
    count = len(series.x)
    if count <= MAX_POINTS:
        return series
    spans = MAX_POINTS // 2
    chosen: set[int] = {0, count - 1}
    for span in range(spans):
        places = range(span * count // spans, (span + 1) * count // spans)
        finite = [place for place in places if math.isfinite(series.y[place])] or [places[0]]
        chosen |= {min(finite, key=series.y.__getitem__), max(finite, key=series.y.__getitem__)}
    order = sorted(chosen)
    x, y = [series.x[place] for place in order], [series.y[place] for place in order]
    return Series(series.name, x, y, series.color, series.marked)


def summary(title: str, x_label: str, series: Sequence[Series]) -> str:
    """The chart in words."""
    parts = []
    for one in series:
        points = [(x, y) for x, y in zip(one.x, one.y, strict=True) if math.isfinite(y)]
        (x0, y0), (x1, y1) = points[0], points[-1]
        low, high = min(y for _, y in points), max(y for _, y in points)
        parts.append(
            f"{one.name}: {short(y0)} at {x_label} {short(x0)}, {short(y1)} at {x_label} "
            f"{short(x1)}, between {short(low)} and {short(high)}"
        )
    return f"Line chart of {title}. {'; '.join(parts)}."


def short(value: float) -> str:
    """A number in few characters."""
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.4g}"


def _points(series: Series, to_pixels: Any, height: float) -> dict[str, Any]:
    at = []
    for x, y in zip(series.x, series.y, strict=True):
        if math.isfinite(y):
            right, up = map(float, to_pixels((x, y)))
            at.append(
                [*(float(f"{v:.6g}") for v in (x, y)), round(right, 1), round(height - up, 1)]
            )
    return {"name": series.name, "color": series.css_color, "at": at}


def _inline(svg: str, key: str) -> Markup:
    """A drawing to put into a page: the page's colours and font, ids of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # This one would apply to the whole page.
    svg = re.sub(r"<style type=\"text/css\">.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*; ?", "", svg)
    svg = re.sub(r'\b(id="|xlink:href="#|url\(#)', rf"\g<1>{key}-", svg)
    svg = re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', svg, count=1
    )
    svg = svg.replace("xlink:href", "href")
    for standin, color in _STANDINS.items():
        svg = svg.replace(standin, color)
    return Markup(svg)
