"""``vit-colossal completion``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic_settings import CliPositionalArg

from vit_colossal.commands.names import SUMMARIES
from vit_colossal.config.command_line import build_parser
from vit_colossal.config.reading import read_settings
from vit_colossal.config.settings.base import CommandSettings, Settings
from vit_colossal.errors import ConfigError

#: Flags and arguments that take a path, beside those whose type is one.
_PATHS = ("model", "images", "run", "run_dir", "dataset", "output", "checkpoint", "config")


class CompletionSettings(CommandSettings):
    """Print a completion script; it knows every command and flag.

    bash: vit-colossal completion bash > ~/.local/share/bash-completion/completions/vit-colossal
    zsh:  vit-colossal completion zsh > FOLDER/_vit-colossal   (FOLDER: one of $fpath)
    """

    shell: CliPositionalArg[Literal["bash", "zsh"]]
    """The shell."""


SETTINGS = CompletionSettings


def main(flags: Sequence[str], prog: str) -> int:
    """Print the script for one shell."""
    asked = read_settings(SETTINGS, flags, prog)
    if find_spec("shtab") is None:
        raise ConfigError(["completion needs shtab: pip install shtab"])
    import shtab

    sys.stdout.write(shtab.complete(whole_parser(), asked.shell) + "\n")
    return 0


def whole_parser() -> argparse.ArgumentParser:
    """One parser with every command and its flags; nothing is parsed with it."""
    parser = argparse.ArgumentParser("vit-colossal", allow_abbrev=False)
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(title="commands")
    for name, summary in SUMMARIES.items():
        try:
            command = _parser_of(name)
        except ImportError:  # a command that could not run here has nothing to complete
            command = argparse.ArgumentParser()
        for action in command._actions:
            _describe(action)
        commands.add_parser(name, help=summary, parents=[command], add_help=False)
    return parser


def _parser_of(name: str) -> argparse.ArgumentParser:
    kind: type[Settings] = import_module(f"vit_colossal.commands.{name}").SETTINGS
    return build_parser(f"vit-colossal {name}", kind)


def _describe(action: argparse.Action) -> None:
    """Tell the shell what to offer as a value: the choices, or files."""
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    if action.choices is None and metavar.startswith("{") and metavar.endswith("}"):
        action.choices = metavar[1:-1].split(",")
    takes_path = action.dest in _PATHS or metavar == "Path" or action.type is Path
    if action.choices is None and action.nargs != 0 and takes_path:
        import shtab

        action.complete = shtab.FILE  # type: ignore[attr-defined]
