"""The configuration of a command that several processes run, each of which reads it itself."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

from vit_colossal.config.reading import parse_config
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.errors import ConfigError

C = TypeVar("C", bound=TrainConfig)


def read_configuration(flags: Sequence[str], prog: str, kind: type[C]) -> tuple[C, list[str]]:
    """What `parse_config` returns.

    Raises:
        ConfigError: it cannot be read at all; the other ranks, which may lie on hosts where it
            can, say so too instead of waiting for this one.
    """
    try:
        return parse_config(flags, prog, kind)
    except ConfigError as error:
        if "RANK" in os.environ:
            _tell(error)
        raise


def _tell(error: ConfigError) -> None:
    # PyTorch comes after the flags: --help needs none.
    from vit_colossal.runtime.agreement import together
    from vit_colossal.runtime.group import Topology

    def refuse() -> None:
        raise error

    together(Topology.from_environment(), refuse, lambda _: {})
