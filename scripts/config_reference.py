"""Write docs/configuration.md from the settings themselves.

python scripts/config_reference.py
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from vit_colossal.config.settings.base import Settings, spellings  # noqa: E402
from vit_colossal.config.train_config import TrainConfig  # noqa: E402

HEAD = """# Configuration

Written by `python scripts/config_reference.py`. Every setting is a flag (`--global-batch-size 64`)
of `train.py` and `vit-colossal train`, a key of the YAML file that `--config` reads
(`global_batch_size: 64`) and an argument of `TrainConfig`. A flag wins over the file. A switch has
a `--no-` form. Settings without a default are chosen by what else is known, as their text says; a
run's `config.yaml` holds what was chosen.
"""


def kind(annotation: object) -> str:
    """A type in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " \\| ".join(str(value) for value in inner)
    if origin is Union or type(annotation).__name__ == "UnionType":
        return " or ".join(kind(part) for part in inner if part is not type(None))
    if origin is dict:
        return "key=value"
    if origin is not None and inner:  # Annotated
        return kind(inner[0])
    names = {"int": "integer", "float": "number", "bool": "switch", "str": "text", "Path": "path"}
    name = getattr(annotation, "__name__", str(annotation))
    return names.get(name, name)


def limits(field: FieldInfo) -> str:
    """The range of a number in words."""
    words = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    found = [
        f"{sign} {getattr(part, name)}"
        for part in field.metadata
        for name, sign in words.items()
        if getattr(part, name, None) is not None
    ]
    return ", ".join(found)


def row(name: str, field: FieldInfo) -> str:
    """One line of a table."""
    flag, *others = (f"`--{one.replace('_', '-')}`" for one in spellings(TrainConfig)[name])
    text = re.sub(r"\s+", " ", field.description or "").replace("|", "\\|")
    if others:
        text += f" Also {', '.join(others)}."
    default = "" if field.default is None or field.default == {} else f"`{field.default}`"
    values = ", ".join(filter(None, [kind(field.annotation), limits(field)]))
    return f"| {flag} | {values} | {default} | {text} |"


def groups() -> list[type[Settings]]:
    """The groups of settings, in the order of ``--help``."""
    return [base for base in TrainConfig.__mro__[::-1] if base not in (Settings, TrainConfig)
            and issubclass(base, Settings)]  # fmt: skip


def reference() -> str:
    """The whole page."""
    lines = [HEAD]
    for group in groups():
        title = group.__name__.removesuffix("Settings")
        lines += [f"## {title}", "", (group.__doc__ or "").strip(), ""]
        lines += ["| flag | value | default | |", "|---|---|---|---|"]
        own = [name for name in group.__annotations__ if name in TrainConfig.model_fields]
        lines += [row(name, TrainConfig.model_fields[name]) for name in own]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    (ROOT / "docs" / "configuration.md").write_text(reference(), encoding="utf-8")
