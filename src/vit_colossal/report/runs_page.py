"""All runs of a folder as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vit_colossal.rundir.listing import RunLine
from vit_colossal.text import duration
from vit_colossal.version import __version__


def render_runs(runs: Sequence[RunLine], folder: str) -> str:
    """The page: a table that its reader sorts by a column and filters by words.

    Args:
        runs: in the order in which they are shown first.
        folder: where they are, for the title.
    """
    script, style = (
        files(__package__).joinpath(name).read_text(encoding="utf-8")
        for name in ("runs.js", "page.css")
    )
    environment = Environment(
        loader=PackageLoader("vit_colossal", "report"),
        autoescape=True,  # names of folders, models and data are other people's text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = duration
    return environment.get_template("runs.html.j2").render(
        runs=runs,
        folder=folder,
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=__version__,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )
