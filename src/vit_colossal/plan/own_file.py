"""A run that is continued by its own config.yaml goes on in the folder of that file.

The file names the folder in which the run began; a moved or copied run is not that one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vit_colossal.config import reading
from vit_colossal.config.command_line import read_flags
from vit_colossal.config.settings.base import spellings
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.plan import run_folder


def load_config(arguments: Sequence[str], prog: str = "train.py") -> TrainConfig:
    """Read ``--config FILE`` and the flags that override it, as ``vit-colossal train`` does.

    Args:
        arguments: the command line after the program's name.
        prog: the name that ``--help`` and errors show.

    Raises:
        ConfigError: every unknown flag or key and every wrong value, one line each.
    """
    return in_its_folder(reading.load_config(arguments, prog), arguments)


def in_its_folder(config: TrainConfig, flags: Sequence[str]) -> TrainConfig:
    """The configuration with the run directory that its file lies in, where it goes on there."""
    if config.resume is None:
        return config
    given, _ = read_flags(flags, "train.py", TrainConfig)
    file = Path(given.get("config") or "")
    named = set(spellings(TrainConfig)["output_dir"]) & given.keys()
    is_a_run_s = file.name == run_folder.CONFIG and (file.parent / run_folder.ENVIRONMENT).is_file()
    if named or not is_a_run_s:
        return config
    return config.replace(output_dir=file.parent)
