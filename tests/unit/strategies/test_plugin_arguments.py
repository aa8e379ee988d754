"""docs/strategies.md says of every argument of ColossalAI's plugins what becomes of it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from colossalai.booster.plugin import (
    GeminiPlugin,
    HybridParallelPlugin,
    LowLevelZeroPlugin,
    TorchDDPPlugin,
)

from vit_colossal.config.command_line import build_parser
from vit_colossal.config.train_config import TrainConfig

PAGE = Path(__file__).parents[3] / "docs" / "strategies.md"
PLUGINS = (TorchDDPPlugin, LowLevelZeroPlugin, GeminiPlugin, HybridParallelPlugin)


def arguments_of(plugin: type) -> set[str]:
    return set(inspect.signature(plugin.__init__).parameters) - {"self"}


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, str]]:
    """The two tables: arguments, and what is said of them."""
    section = PAGE.read_text("utf-8").partition("## The arguments of ColossalAI's plugins")[2]
    section = section.partition("\n## ")[0]
    return re.findall(r"^\| (`.*?) \| (.*) \|$", section, re.MULTILINE)


@pytest.mark.parametrize("plugin", PLUGINS)
def test_every_argument_has_a_row(plugin: type, rows: list[tuple[str, str]]) -> None:
    named = {name for names, _ in rows for name in re.findall(r"`(\w+)`", names)}
    assert arguments_of(plugin) - named == set()


def test_rows_name_arguments_and_flags_that_exist(rows: list[tuple[str, str]]) -> None:
    known = set().union(*map(arguments_of, PLUGINS))
    flags = build_parser("train", TrainConfig).flags()
    for names, text in rows:
        assert {*re.findall(r"`(\w+)`", names)} <= known
        assert all(flag in flags or flag == "--gemini-" for flag in re.findall(r"--[a-z-]+", text))
