"""Which curves a report shows."""

from __future__ import annotations

from collections.abc import Sequence

from vit_colossal.report.figures import Chart, Series, draw
from vit_colossal.rundir.files import RunFiles


def run_charts(run: RunFiles, key: str) -> list[Chart]:
    """The curves of one run, those that have points; ``key`` is unique on the page."""
    unit, seconds = _time_unit([run])
    train = run.train
    steps, times = [e.step for e in train], [e.elapsed / seconds for e in train]
    norms = [(e.step, e.grad_norm) for e in train if e.grad_norm is not None]
    loss = [Series("training", steps, [e.loss for e in train]), _loss(run, "evaluation", 1)]
    lr = Series("learning rate", steps, [e.lr for e in train], 2)
    speed = Series("images per second", times, [e.images_per_second for e in train], 3)
    memory = Series("peak memory", times, [e.peak_memory_mib for e in train], 4)
    norm = Series("gradient norm", [x for x, _ in norms], [y for _, y in norms], 5)
    drawn = [
        draw("Loss", "step", loss, key=f"{key}-loss", y_axis="log"),
        draw(
            "Accuracy", "step", [_accuracy(run, "evaluation", 1)], key=f"{key}-acc", y_axis="share"
        ),
        draw("Learning rate", "step", [lr], key=f"{key}-lr"),
        draw("Images per second", unit, [speed], key=f"{key}-speed", y_axis="zero"),
        draw(
            "Peak memory of the largest rank, MiB",
            unit,
            [memory],
            key=f"{key}-memory",
            y_axis="zero",
        ),
        draw("Gradient norm before clipping", "step", [norm], key=f"{key}-norm"),
    ]
    return [chart for chart in drawn if chart is not None]


def compared_charts(runs: Sequence[RunFiles], names: Sequence[str]) -> list[Chart]:
    """The same curves of several runs, one colour each."""
    unit, seconds = _time_unit(runs)
    loss, accuracy, train, lr, speed, memory = [], [], [], [], [], []
    for color, (run, name) in enumerate(zip(runs, names, strict=True)):
        steps = [event.step for event in run.train]
        times = [event.elapsed / seconds for event in run.train]
        loss.append(_loss(run, name, color))
        accuracy.append(_accuracy(run, name, color))
        train.append(Series(name, steps, [e.loss for e in run.train], color))
        lr.append(Series(name, steps, [e.lr for e in run.train], color))
        speed.append(Series(name, times, [e.images_per_second for e in run.train], color))
        memory.append(Series(name, times, [e.peak_memory_mib for e in run.train], color))
    drawn = [
        draw("Training loss", "step", train, key="all-train", y_axis="log"),
        draw("Evaluation loss", "step", loss, key="all-loss", y_axis="log"),
        draw("Accuracy", "step", accuracy, key="all-acc", y_axis="share"),
        draw("Learning rate", "step", lr, key="all-lr"),
        draw("Images per second", unit, speed, key="all-speed", y_axis="zero"),
        draw("Peak memory of the largest rank, MiB", unit, memory, key="all-memory", y_axis="zero"),
    ]
    return [chart for chart in drawn if chart is not None]


def _loss(run: RunFiles, name: str, color: int) -> Series:
    points = [(event.step, event.loss) for event in run.evaluations if event.loss is not None]
    return Series(name, [x for x, _ in points], [y for _, y in points], color, marked=True)


def _accuracy(run: RunFiles, name: str, color: int) -> Series:
    found = run.evaluations
    return Series(name, [e.step for e in found], [e.accuracy for e in found], color, marked=True)


def _time_unit(runs: Sequence[RunFiles]) -> tuple[str, float]:
    """A unit in which the longest run is a number of few digits, and its seconds."""
    longest = max((event.elapsed for run in runs for event in run.events), default=0.0)
    if longest < 180:
        return "seconds", 1.0
    return ("minutes", 60.0) if longest < 3 * 3600 else ("hours", 3600.0)
