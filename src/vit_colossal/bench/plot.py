"""A benchmark's plot: images per second with their spread, and where the steps' time went."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_PHASES = (
    ("data", "data"),
    ("forward_backward", "forward + backward"),
    ("optimizer", "optimizer"),
    ("communication", "communication"),
)


def plot(document: dict[str, Any], path: Path) -> None:
    """One line of bars for each case that was measured; cases of one model stand together."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = [case for case in document["cases"] if "error" not in case]
    if not cases:
        return
    models = sorted({str(case["model"]) for case in cases})
    groups = [[case for case in cases if str(case["model"]) == model] for model in models]
    figure, axes = pyplot.subplots(
        len(groups),
        2,
        figsize=(13, 1.6 + 0.42 * len(cases)),
        squeeze=False,
        gridspec_kw={"height_ratios": [len(group) + 1 for group in groups]},
    )
    for (left, right), model, group in zip(axes, models, groups, strict=True):
        _speeds(left, model, group)
        _shares(right, group)
    axes[0][1].legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncol=4, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _speeds(axes: Any, model: str, group: list[dict[str, Any]]) -> None:
    for place, case in enumerate(group):
        middle, every = case["images_per_second"], case["images_per_second_all"]
        spread = [[middle - min(every)], [max(every) - middle]]
        color = "C7" if case["peer"] else "C0"
        axes.barh(place, middle, xerr=spread, color=color, height=0.7, capsize=3)
    names = [f"{case['name']} ({case['processes']} x {case['threads']})" for case in group]
    axes.set_yticks(range(len(group)), names, fontsize=8)
    axes.set_ylim(len(group) - 0.5, -0.5)  # as beside it
    axes.set_xlabel(f"{model}: images/s (median, lowest to highest; grey: peers)")
    axes.grid(axis="x", alpha=0.3)


def _shares(axes: Any, group: list[dict[str, Any]]) -> None:
    for index, (name, label) in enumerate(_PHASES):
        for place, case in enumerate(group):
            phases = case["phases"]
            if phases is None:
                continue
            left = sum(phases[before] for before, _ in _PHASES[:index]) / phases["step"]
            share = phases[name] / phases["step"]
            axes.barh(place, share, left=left, color=f"C{index + 1}", height=0.7)
        axes.barh(0, 0, color=f"C{index + 1}", label=label)
    axes.set_ylim(len(group) - 0.5, -0.5)
    axes.set_yticks([])
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of a step")
