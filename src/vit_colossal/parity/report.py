"""What a parity run shows: a table, JSON, Markdown and a plot."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vit_colossal.config.plugins import BUILT_IN
from vit_colossal.parity.references import TOLERANCE_FACTOR
from vit_colossal.parity.row import Row
from vit_colossal.parity.trace import relative_differences

_HEADINGS = (
    "layout",
    "precision",
    "clip",
    "procs",
    "identical steps",
    "loss, relative",
    "tolerance",
    "loss, absolute",
    "grad norm",
    "weights",
    "weights/lr",
    "key bias/lr",
    "accuracy",
    "verdict",
)

_CURVES = ("trace", "reference")

#: What rounds differently from the plain loop, where anything does.
EXPLANATIONS = (
    "Differences are relative to the plain loop with the same parts, the largest over all steps; "
    "that of the loss stands beside it as it is, too. "
    "Weights: relative L2 of the worst tensor; weights/lr: the largest single difference in units "
    "of the peak learning rate. Key biases stand apart: softmax does not depend on them, so their "
    "true gradient is zero and AdamW amplifies the rounding noise there.",
    "Where steps are not identical: tensor parallelism sums partial products and partial input "
    "gradients across ranks, in another order than autograd sums them in one process; more than "
    "two replicas are added in an order that gloo decides. With clipping on, the norm is that of "
    "the tensors' norms in the model's order, as in PyTorch, where a rank has whole gradients: "
    "ddp, zero1, and hybrid without tensor parallelism, whose stages exchange the norms. zero2 "
    "has parts of them alone, from whose norms no sum gives the same bits; its clipping factor "
    "differs in the last ones, as under tensor parallelism.",
)


def table(rows: list[Row]) -> list[tuple[str, ...]]:
    """The report's cells, without the headings."""
    return [_cells(row) for row in rows]


def _cells(row: Row) -> tuple[str, ...]:
    verdict = "same" if row.passed else "DIFFERENT"
    difference, tolerance = row.difference, row.tolerance
    head = (row.name, row.precision, f"{row.clip:g}" if row.clip else "off", str(row.processes))
    if difference is None or tolerance is None:
        return (*head, *[""] * 9, "FAILED")
    norm = "" if difference.grad_norm is None else f"{difference.grad_norm:.1e}"
    return (
        *head,
        f"{difference.identical_steps}/{difference.steps}",
        f"{difference.loss:.1e}",
        f"{tolerance.loss:.1e}",
        f"{difference.loss_absolute:.1e}",
        norm,
        f"{difference.weights:.1e}",
        f"{difference.weights_in_lr:.1e}",
        f"{difference.key_bias_in_lr:.1e}",
        row.accuracy,
        verdict,
    )


def as_text(rows: list[Row]) -> str:
    """The table with aligned columns, and below it what is wrong with the rows that differ."""
    cells = [_HEADINGS, *table(rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADINGS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    lines += [
        f"{row.name} {row.precision}, clip {row.clip:g}, {row.processes} processes: {problem}"
        for row in rows
        for problem in row.problems
    ]
    return "\n".join(lines)


def as_markdown(rows: list[Row], command: str, environment: dict[str, Any]) -> str:
    """The table for docs/, with the command and versions that made it."""
    lines = ["| " + " | ".join(cells) + " |" for cells in [_HEADINGS, *table(rows)]]
    lines.insert(1, "|" + "---|" * len(_HEADINGS))
    versions = ", ".join(f"{name} {version}" for name, version in environment.items())
    notes = [
        f"`{command}`  \n{versions}",
        *EXPLANATIONS,
        f"Tolerance: {TOLERANCE_FACTOR:g} times the plain loop's own spread under reordered "
        "reductions (other micro-batches, summed backwards, split matrix products), measured in "
        "this run:",
        *_spreads(rows),
    ]
    return "\n\n".join(["\n".join(lines), *notes]) + "\n"


def _spreads(rows: list[Row]) -> list[str]:
    seen: dict[tuple[Any, ...], str] = {}
    for row in rows:
        if row.tolerance is not None and row.tolerance.spread:
            spread = ", ".join(f"{key} {value:.1e}" for key, value in row.tolerance.spread.items())
            facts = BUILT_IN.get(row.name)
            kind = "autocast" if facts and facts.autocasts else "16-bit weights"
            what = row.precision if row.precision == "fp32" else f"{row.precision} {kind}"
            seen[(what, row.clip)] = f"- {what}, clip {row.clip:g}: {spread}"
    return ["\n".join(seen.values())]


def write(rows: list[Row], folder: Path, command: str, environment: dict[str, Any]) -> None:
    """``parity.json``, ``parity.md`` and ``parity.png`` in ``folder``."""
    records = [_record(row) for row in rows]
    document = {"command": command, "environment": environment, "rows": records}
    (folder / "parity.json").write_text(json.dumps(document, indent=2), encoding="utf-8")
    (folder / "parity.md").write_text(as_markdown(rows, command, environment), encoding="utf-8")
    plot(rows, folder / "parity.png")


def _record(row: Row) -> dict[str, Any]:
    """A row without its curves, which the traces hold."""
    short = replace(row, trace=None, reference=None)
    record = {key: value for key, value in asdict(short).items() if key not in _CURVES}
    return {**record, "passed": row.passed}


def plot(rows: list[Row], path: Path) -> None:
    """Loss curves above, their relative differences from the plain loop below (log scale)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, figsize=(11, 9), sharex=True)
    styles = ("-", "--", ":", "-.")
    for index, row in enumerate(rows):
        trace, reference = row.trace, row.reference
        if trace is None or reference is None:
            continue
        steps = range(1, len(trace.losses) + 1)
        clip = f" clip {row.clip:g}" if row.clip else ""
        label = f"{row.name} {row.precision}{clip} x{row.processes}"
        look = {"color": f"C{index % 10}", "linestyle": styles[index // 10 % 4], "linewidth": 1.2}
        above.plot(steps, trace.losses, **look)
        off = relative_differences(trace.losses, reference.losses)
        # A log axis has no zero: identical steps are drawn on the bottom line.
        below.plot(steps, [max(value, 1e-9) for value in off], label=label, **look)
    above.set_ylabel("loss")
    above.set_title("The same training in every layout")
    below.set_yscale("log")
    below.set_ylabel("relative difference from the plain loop\n(bottom line: bit-identical)")
    below.set_xlabel("step")
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.legend(
        *below.get_legend_handles_labels(), loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8
    )
    figure.savefig(path, dpi=110, bbox_inches="tight")
    pyplot.close(figure)
