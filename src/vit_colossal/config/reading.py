"""Reading a configuration: a YAML file, and flags that override it.

Every field of the command's configuration class is a flag (``--global-batch-size``) and a YAML key
(``global_batch_size``); but ``--nproc``, which starts the processes that read the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from vit_colossal.config.command_line import read_flags
from vit_colossal.config.plugins import AUTO, is_location, name_problem
from vit_colossal.config.settings.base import Settings, spellings
from vit_colossal.config.train_config import TrainConfig, problems_of
from vit_colossal.errors import ConfigError

C = TypeVar("C", bound=TrainConfig)
S = TypeVar("S", bound=Settings)


def read_settings(kind: type[S], arguments: Sequence[str], prog: str) -> S:
    """The settings of a command that reads no file.

    Raises:
        ConfigError: every unknown flag and every wrong value, one line each.
        SystemExit: after ``--help``, with 0.
    """
    values, problems = read_flags(arguments, prog, kind)
    try:
        settings = kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError([*problems, *problems_of(error)]) from None
    if problems:
        raise ConfigError(problems)
    return settings


def load_config(
    arguments: Sequence[str],
    prog: str = "train.py",
    kind: type[C] = TrainConfig,  # type: ignore[assignment]
) -> C:
    """Read ``--config FILE`` and the flags that override it.

    Args:
        arguments: the command line after the program's name; ``--flag_name`` is read as
            ``--flag-name``.
        prog: the name that ``--help`` shows.
        kind: the command's configuration class.

    Raises:
        ConfigError: every unknown flag or key and every wrong value, one line each.
        SystemExit: after ``--help``, with 0.
    """
    config, problems = parse_config(arguments, prog, kind)
    if problems:
        raise ConfigError(problems)
    return config


def parse_config(arguments: Sequence[str], prog: str, kind: type[C]) -> tuple[C, list[str]]:
    """Like ``load_config``, but returns the problems, beside what can be read without them.

    So the checks that need several settings can add what they find, and all is shown at once.
    """
    flags, problems = read_flags(arguments, prog, kind)
    path = flags.pop("config", None)
    file_values = read_yaml(Path(path)) if path else {}
    for name, reason in _NOT_IN_FILES.items():
        if name in file_values:
            problems.append(f"--config {path}: {name}: {reason}")
            del file_values[name]
    values = _merge(kind, file_values, flags)
    if kind is TrainConfig and "val_split" in flags and values.get("eval_split") is None:
        # Asked for now, unlike the value that every config.yaml has: it overrides what is found.
        values["eval_split"] = values.get("train_split") or "train"
    problem = _plugin_problem(values, path, from_file="plugin" not in flags)
    if values.get("plugin") == AUTO and kind is TrainConfig:
        problem = None  # it is chosen before the run is planned
    if problem is not None:
        problems.append(problem)
        del values["plugin"]
    try:
        return kind.model_validate(values), problems
    except ValidationError as error:
        problems += problems_of(error)
        wrong = {str(item["loc"][0]) for item in error.errors() if item["loc"]}
        wrong |= {spelling for name in wrong for spelling in _spellings(kind, name)}
    try:
        kept = {key: value for key, value in values.items() if key not in wrong}
        return kind.model_validate(kept), problems
    except ValidationError:
        raise ConfigError(problems) from None


def _plugin_problem(values: dict[str, Any], path: Any, *, from_file: bool) -> str | None:
    """Why a plugin cannot be meant, by its name alone.

    It is asked here and not in the class: what a run wrote down is read without the plugin it was
    made with.
    """
    plugin = values.get("plugin")
    if not isinstance(plugin, str) or (is_location(plugin) and not from_file):
        return None
    if is_location(plugin):
        return (
            f"--config {path}: plugin: {plugin} would be imported and run: name an installed one, "
            "or give it on the command line"
        )
    return name_problem(plugin)


#: Fields that are no settings of a run.
_NOT_IN_FILES = {
    "nproc": "belongs on the command line: --nproc N",
    "unknown": "no such setting (see --help)",
}


def _spellings(kind: type[TrainConfig], name: str) -> set[str]:
    """All names of the field that ``name`` is one name of, its own in Python with them."""
    every = ({field, *names} for field, names in spellings(kind).items())
    return next((names for names in every if name in names), set())


def _merge(
    kind: type[TrainConfig], values: dict[str, Any], flags: dict[str, Any]
) -> dict[str, Any]:
    """Flags over file values, also where the two use different spellings of one field."""
    replaced = {spelling for flag in flags for spelling in _spellings(kind, flag)}
    if "batch_size" in flags and "global_batch_size" not in flags:
        replaced.add("global_batch_size")
    return {key: value for key, value in values.items() if key not in replaced} | flags


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping with keys in either spelling (``global-batch-size``, ``global_batch_size``).

    Raises:
        ConfigError: the file is missing, not YAML, or not a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"--config {path}: cannot be read ({error})"]) from None
    except (yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError([f"--config {path}: not valid YAML ({reason})"]) from None
    if not isinstance(values, dict):
        raise ConfigError([f"--config {path}: expected 'key: value' lines"])
    return {str(key).replace("-", "_"): value for key, value in values.items()}
