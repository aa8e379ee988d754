"""Reading a configuration: a YAML file, and flags that override it.

Every field of the command's configuration class is a flag (``--global-batch-size``) and a YAML key
(``global_batch_size``).
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import AliasChoices, Field, ValidationError, create_model
from pydantic_settings import CliSettingsSource, SettingsError

from vit_colossal.config.plugins import is_location
from vit_colossal.config.train_config import TrainConfig, problems_of, shown
from vit_colossal.errors import ConfigError

C = TypeVar("C", bound=TrainConfig)


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
        SystemExit: after ``--help`` (0) or a malformed command line (2).
    """
    config, problems = parse_config(arguments, prog, kind)
    if problems:
        raise ConfigError(problems)
    return config


def parse_config(arguments: Sequence[str], prog: str, kind: type[C]) -> tuple[C, list[str]]:
    """Like ``load_config``, but returns the problems, beside what can be read without them.

    So the checks that need several settings can add what they find, and all is shown at once.
    """
    flags = _read_flags(arguments, prog, kind)
    problems = [f"{argument}: no such flag (see --help)" for argument in _flag_like(flags)]
    path = flags.pop("config", None)
    file_values = read_yaml(Path(path)) if path else {}
    for name, reason in _NOT_IN_FILES.items():
        if name in file_values:
            problems.append(f"--config {path}: {name}: {reason}")
            del file_values[name]
    plugin = file_values.get("plugin")
    if isinstance(plugin, str) and is_location(plugin):
        problems.append(
            f"--config {path}: plugin: {plugin} would be imported and run: name an installed one, "
            "or give it on the command line"
        )
        del file_values["plugin"]
    values = _merge(kind, file_values, flags)
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


def flags_parser(prog: str, kind: type[TrainConfig]) -> ArgumentParser:
    """The parser of a command's flags, for shells that complete them; it is not used to parse."""
    source: CliSettingsSource[Any] = CliSettingsSource(
        _command_line(kind), cli_prog_name=prog, **_cli_options(kind)
    )
    parser: ArgumentParser = source.root_parser
    return parser


def _command_line(kind: type[TrainConfig]) -> type[TrainConfig]:
    return create_model(
        kind.__name__,
        __base__=kind,
        __doc__=kind.__doc__,
        config=(Path | None, Field(None, description=_CONFIG_HELP)),
    )


def _cli_options(kind: type[TrainConfig]) -> dict[str, Any]:
    return {key: value for key, value in kind.model_config.items() if key in _CLI_OPTIONS}


def _read_flags(arguments: Sequence[str], prog: str, kind: type[C]) -> dict[str, Any]:
    try:
        source: CliSettingsSource[Any] = CliSettingsSource(
            _command_line(kind),
            cli_prog_name=prog,
            cli_parse_args=[_hyphenate(argument) for argument in arguments],
            cli_ignore_unknown_args=True,
            **_cli_options(kind),
        )
        return source()
    except SettingsError:
        # Only a mapping can be malformed here, and pydantic-settings does not say which.
        given = shown(" ".join(arguments[_position_of_mapping(arguments) :]))
        raise ConfigError([f"--model-config takes key=value, not what is in '{given}'"]) from None


def _position_of_mapping(arguments: Sequence[str]) -> int:
    flags = ("--model-config", "--model-overrides")
    found = [at for at, text in enumerate(arguments) if _hyphenate(text).startswith(flags)]
    return found[0] if found else 0


_CLI_OPTIONS = ("cli_kebab_case", "cli_implicit_flags", "cli_hide_none_type", "cli_avoid_json")
#: Fields that are no settings of a run.
_NOT_IN_FILES = {
    "nproc": "belongs on the command line: --nproc N",
    "unknown": "no such setting (see --help)",
}
_CONFIG_HELP = "YAML file with any of these settings; flags override it."


def _flag_like(flags: dict[str, Any]) -> list[str]:
    """The unknown arguments; a value that follows an unknown flag is not named again."""
    unknown = [str(argument) for argument in flags.pop("unknown", [])]
    return [argument for argument in unknown if argument.startswith("-")] or unknown


def _spellings(kind: type[TrainConfig], name: str) -> list[str]:
    """All names of the field that ``name`` is one name of."""
    for key, field in kind.model_fields.items():
        names = [key]
        if isinstance(field.validation_alias, AliasChoices):
            names += [str(choice) for choice in field.validation_alias.choices]
        if name in names:
            return names
    return []


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


def _hyphenate(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-") + equals + value
