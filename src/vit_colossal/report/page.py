"""The report's page: what the template shows, from what the run directories hold."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vit_colossal.config.train_config import TrainConfig
from vit_colossal.durable import replacing
from vit_colossal.evaluation.certainty import interval
from vit_colossal.report.charts import compared_charts, run_charts
from vit_colossal.report.classes import ClassView, class_view
from vit_colossal.report.figures import Chart
from vit_colossal.report.pictures import Picture, Suspects, pictures, suspects
from vit_colossal.rundir.files import RunFiles, read_run_files
from vit_colossal.rundir.segments import PLACES
from vit_colossal.text import duration
from vit_colossal.version import __version__


@dataclass(frozen=True)
class Card:
    """One number at the top: what, how much, and what belongs to it."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Setting:
    """One line of the configuration; ``changed`` when it is not the default."""

    name: str
    value: str
    changed: bool


@dataclass(frozen=True)
class RunView:
    """One run, ready for the template.

    ``key`` is its anchor on the page; ``mistaken`` are the labels of the wrong pictures, true or
    predicted.
    """

    key: str
    name: str
    title: str
    subtitle: str
    files: RunFiles
    cards: list[Card]
    charts: list[Chart]
    classes: ClassView | None
    wrong: list[Picture]
    right: list[Picture]
    mistaken: list[str]
    suspects: Suspects | None
    settings: list[Setting]
    environment: list[tuple[str, str]]


def write_report(
    directories: Sequence[Path],
    output: Path,
    reference: str | None = None,
    references: Path | None = None,
) -> None:
    """Write one page about one or several runs.

    Args:
        directories: run directories.
        output: the file to write; its folder is made.
        reference: name of the reference to judge them by; what matches when not given.
        references: a file of references other than the package's.

    Raises:
        ConfigError: a directory is no run.
        OSError: the file cannot be written.
    """
    runs = [read_run_files(directory, reference, references) for directory in directories]
    text = render(runs)
    output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(output) as file:
        file.write(text)


def render(runs: Sequence[RunFiles]) -> str:
    """The page as HTML that loads nothing, from anywhere."""
    names = _names(runs)
    named = enumerate(zip(runs, names, strict=True), 1)
    views = [_view(run, name, f"run{number}") for number, (run, name) in named]
    script, style = (
        files(__package__).joinpath(f"page.{kind}").read_text() for kind in ("js", "css")
    )
    environment = Environment(
        loader=PackageLoader("vit_colossal", "report"),
        autoescape=True,  # labels and settings are other people's text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": size, "percent": percent}
    several = len(views) > 1
    return environment.get_template("page.html.j2").render(
        runs=views,
        title=f"{len(views)} runs" if several else views[0].title,
        card_labels=list(dict.fromkeys(card.label for view in views for card in view.cards)),
        compared=compared_charts(runs, names) if several else [],
        setting_differences=differences([run.config for run in runs]) if several else [],
        environment_differences=differences([run.environment for run in runs]) if several else [],
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=__version__,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )


def differences(values: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """The entries that are not the same in all: name, and the value in each ("–" for none)."""
    names = dict.fromkeys(name for one in values for name in one if name not in PLACES)
    rows = [(name, [_text(one.get(name)) for one in values]) for name in names]
    return [(name, texts) for name, texts in rows if len(set(texts)) > 1]


def _view(run: RunFiles, name: str, key: str) -> RunView:
    found = run.predictions
    wrong, right = ([], []) if found is None else pictures(run.directory, found)
    # As config.yaml spells them.
    defaults = TrainConfig.model_validate({}).model_dump(mode="json", by_alias=True)
    settings = [
        Setting(name, _text(value), changed=value != defaults.get(name))
        for name, value in run.config.items()
    ]
    return RunView(
        key=key,
        name=name,
        title=_title(run) or name,
        subtitle=_subtitle(run),
        files=run,
        cards=_cards(run),
        charts=run_charts(run, key),
        classes=None if found is None else class_view(found),
        wrong=wrong,
        right=right,
        mistaken=sorted({name for one in wrong for name in (one.label, one.prediction)}),
        suspects=None if found is None else suspects(found),
        settings=sorted(settings, key=lambda setting: not setting.changed),
        environment=[(name, _text(value)) for name, value in run.environment.items()],
    )


def _cards(run: RunFiles) -> list[Card]:
    cards = []
    if run.evaluations:
        last = run.evaluations[-1]
        low, high = interval(last.correct, last.total)
        counts = f"{last.correct}/{last.total}"
        detail = f"{counts}, 95 % interval {percent(low)} to {percent(high)}"
        cards.append(Card("Accuracy", f"{last.accuracy:.4f}", detail))
        best = max(run.evaluations, key=lambda event: event.accuracy)
        cards.append(Card("Best", f"{best.accuracy:.4f}", f"after epoch {best.epoch:.4g}"))
        if last.loss is not None:
            f1 = "" if last.macro_f1 is None else f"macro F1 {last.macro_f1:.4f}"
            cards.append(Card("Evaluation loss", f"{last.loss:.4f}", f1))
    if run.train:
        speeds = sorted(event.images_per_second for event in run.train)
        median = speeds[len(speeds) // 2]
        cards.append(Card("Images per second", f"{median:,.0f}", "median of the log lines"))
        peak = max(event.peak_memory_mib for event in run.train)
        cards.append(Card("Peak memory", f"{peak:,.0f} MiB", "of the largest rank"))
    if run.events:
        last_event = run.events[-1]
        of = f" of {run.start.total_steps:,}" if run.start else ""
        cards.append(Card("Time", duration(last_event.elapsed), f"{last_event.step:,}{of} steps"))
    return cards


def _title(run: RunFiles) -> str:
    return " · ".join(str(run.config[n]) for n in ("dataset", "model") if run.config.get(n))


def _subtitle(run: RunFiles) -> str:
    """Plugin, degrees, precision and device, as far as they are known."""
    config, degrees = run.config, run.environment.get("layout")
    words = (config.get("plugin"), degrees, config.get("precision"), config.get("device"))
    return " · ".join(str(word) for word in words if word)


def _names(runs: Sequence[RunFiles]) -> list[str]:
    """Folder names; whole paths where two are the same."""
    names = [run.directory.resolve().name for run in runs]
    unique = len(set(names)) == len(names)
    return names if unique else [str(run.directory) for run in runs]


def _text(value: Any) -> str:
    if value is None or value == "":
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def size(num_bytes: int) -> str:
    """Bytes for people, in units of 1024."""
    value = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"
