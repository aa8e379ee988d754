"""Flags of any settings class, and help that is grouped by purpose."""

from __future__ import annotations

import json
import os
import re
import shlex
from argparse import Action, ArgumentParser
from collections.abc import Iterator, Sequence
from inspect import get_annotations
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from pydantic import Field, ValidationError, create_model
from pydantic_settings import CliSettingsSource, SettingsError

from vit_colossal.config.colossalai_example import with_plain_switch
from vit_colossal.config.other_tools import advice, in_our_words
from vit_colossal.config.plugins import plugin_names
from vit_colossal.config.settings.base import Settings, spellings
from vit_colossal.errors import ConfigError
from vit_colossal.text import did_you_mean, shown

#: What most people type; they stand first in the help.
MOST_USED = (
    *("dataset", "model", "output-dir", "epochs", "lr", "global-batch-size"),
    *("plugin", "nproc", "precision", "resume"),
)
#: A value that argparse repeats in quotes.
_LONG_VALUE = re.compile(r"(?<=')[^']{101,}(?=')")
_CLI_OPTIONS = ("cli_kebab_case", "cli_implicit_flags", "cli_hide_none_type", "cli_avoid_json")


class FlagParser(ArgumentParser):
    """One line of usage, one line an error, and help by purpose."""

    def __init__(self, prog: str, kind: type[Settings]) -> None:
        super().__init__(prog, description=kind.__doc__, allow_abbrev=False)
        self.kind = kind

    def format_usage(self) -> str:
        places = " ".join(str(action.metavar) for action in self._positionals_of())
        return f"usage: {' '.join(filter(None, [self.prog, places, '[flags]']))}\n"

    def format_help(self) -> str:
        formatter = self._get_formatter()
        formatter.add_text(self.format_usage().strip())
        formatter.add_text(self.description)
        for title, actions in self._sections():
            formatter.start_section(title)
            formatter.add_arguments(actions)
            formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def error(self, message: str) -> NoReturn:
        """What argparse itself refuses.

        Raises:
            ConfigError: always.
        """
        readable = _LONG_VALUE.sub(lambda value: shown(value[0]), message)
        raise ConfigError([f"{readable} (see {self.prog} --help)"])

    def _get_values(self, action: Action, arg_strings: list[str]) -> Any:
        """A list of words without a flag as JSON, so that they arrive as they are.

        Of plain words pydantic-settings divides "a,b.jpg", takes the brackets off "[a]" and refuses
        a quote or a line break.
        """
        values = super()._get_values(action, arg_strings)
        in_words = isinstance(values, list) and not action.option_strings
        return json.dumps(values) if in_words else values

    def flags(self) -> list[str]:
        """Every spelling of every flag."""
        return [flag for action in self._actions for flag in action.option_strings]

    def switches(self) -> set[str]:
        """The flags that take no value."""
        return {
            flag for action in self._actions if action.nargs == 0 for flag in action.option_strings
        }

    def _positionals_of(self) -> list[Action]:
        return [action for action in self._actions if not action.option_strings]

    def _sections(self) -> Iterator[tuple[str, list[Action]]]:
        yield "arguments", self._positionals_of()
        left = [action for action in self._actions if action.option_strings]
        names = {f"--{name}" for name in MOST_USED}
        first = [action for action in left if names & set(action.option_strings)]
        if len(left) > 2 * len(MOST_USED):
            first.sort(key=_most_used)
            yield "the most used", first
            left = [action for action in left if action not in first]
        owners = {action.dest: _title(self.kind, action) for action in left}
        for title in dict.fromkeys(owners.values()):
            yield title, [action for action in left if owners[action.dest] == title]


def _most_used(action: Action) -> int:
    names = [flag.removeprefix("--") for flag in action.option_strings]
    return min(MOST_USED.index(name) for name in names if name in MOST_USED)


def _title(kind: type[Settings], action: Action) -> str:
    """Of the group of settings that an action belongs to."""
    for name, names in spellings(kind).items():
        if {f"--{one.replace('_', '-')}" for one in names} & set(action.option_strings):
            owners = [base for base in kind.__mro__ if name in get_annotations(base)]
            return str(getattr(owners[-1], "title", "flags"))
    return "flags"


def build_parser(prog: str, kind: type[Settings]) -> FlagParser:
    """The parser of a command's flags, for help and for shells that complete them."""
    return _source(prog, kind, None)[1]


def read_flags(
    arguments: Sequence[str], prog: str, kind: type[Settings]
) -> tuple[dict[str, Any], list[str]]:
    """The values that flags give, not validated, and a line for each that there is not.

    Args:
        arguments: the command line after the program's name; ``--flag_name`` is read as
            ``--flag-name``.
        prog: the name that ``--help`` shows.
        kind: the command's settings.

    Raises:
        ConfigError: an argument is missing, or stands where none belongs.
        SystemExit: after ``--help``, with 0.
    """
    hyphenated = [_hyphenate(argument) for argument in with_plain_switch(arguments)]
    try:
        source, parser = _source(prog, kind, hyphenated)
        values = source()
    except SettingsError:
        # Only a mapping can be malformed here, and pydantic-settings does not say which.
        given = shown(" ".join(arguments[_position_of_mapping(arguments) :]))
        raise ConfigError([f"--model-config takes key=value, not what is in '{given}'"]) from None
    problems = [
        f"{argument}: no such flag{_nearest(argument, parser.flags())} (see --help)"
        for argument in _flag_like(values)
    ]
    line = in_our_words(hyphenated, parser.flags(), parser.switches()) if problems else None
    if line is not None and _can_be_read(line, kind):
        problems.append(f"  the whole command: {_command(prog)} {shlex.join(line)}")
    return values, problems


def _can_be_read(line: Sequence[str], kind: type[Settings]) -> bool:
    """Whether a command line has nothing wrong in itself."""
    values = _source("", kind, list(line))[0]()
    values.pop("config", None)
    try:
        kind.model_validate(values)
    except ValidationError:
        return False
    return not values.get("unknown")


def _command(prog: str) -> str:
    """What starts a program, without the launcher of the processes that this one is of."""
    local, world = os.environ.get("LOCAL_WORLD_SIZE"), os.environ.get("WORLD_SIZE")
    start = f"python {prog}" if prog.endswith(".py") else prog
    return start if local is None or local != world else f"{start} --nproc {local}"


def _source(
    prog: str, kind: type[Settings], arguments: list[str] | None
) -> tuple[CliSettingsSource[Any], FlagParser]:
    parser = FlagParser(prog, kind)
    items = kind.model_config.items()
    options: dict[str, Any] = {key: value for key, value in items if key in _CLI_OPTIONS}
    fields: dict[str, Any] = {}
    if kind.reads_files:
        fields["config"] = (Path | None, Field(None, description=_CONFIG_HELP))
    source: CliSettingsSource[Any] = CliSettingsSource(
        create_model(
            kind.__name__,
            __base__=kind,
            __doc__=kind.__doc__,
            # The fields have their texts: to look for docstrings anew is to parse all sources.
            __cls_kwargs__={"use_attribute_docstrings": False},
            **fields,
        ),
        root_parser=parser,
        cli_ignore_unknown_args=True,
        **options,
    )
    for action in parser._actions:
        action.help = (action.help or "").removesuffix(" (default: None)")
        choices = _choices(kind, action)
        if choices:
            action.metavar = "{" + ",".join(choices) + "}"
    if arguments is not None:
        source(args=arguments)
    return source, parser


def _choices(kind: type[Settings], action: Action) -> list[str]:
    """The values that shells can offer, where pydantic-settings does not show them."""
    if action.dest == "plugin":
        return plugin_names()
    field = kind.model_fields.get(action.dest.lower().replace("-", "_"))
    if action.option_strings or field is None or get_origin(field.annotation) is not Literal:
        return []
    return [str(value) for value in get_args(field.annotation)]


_CONFIG_HELP = "YAML file with any of these settings; flags override it."


def _flag_like(values: dict[str, Any]) -> list[str]:
    """The unknown arguments; a value that follows an unknown flag is not named again."""
    unknown = [str(argument) for argument in values.pop("unknown", [])]
    return [argument for argument in unknown if argument.startswith("-")] or unknown


def _nearest(argument: str, flags: list[str]) -> str:
    flag = argument.partition("=")[0]
    answer = advice(flag, flags)
    if answer is not None:
        return f"; {answer}"
    return did_you_mean(flag, flags) if flag.startswith("--") else ""


def _position_of_mapping(arguments: Sequence[str]) -> int:
    flags = ("--model-config", "--model-overrides")
    found = [at for at, text in enumerate(arguments) if _hyphenate(text).startswith(flags)]
    return found[0] if found else 0


def _hyphenate(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-") + equals + value
