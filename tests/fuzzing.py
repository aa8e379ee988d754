"""Configurations nobody would write, to see that each is planned or refused, and nothing else."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from vit_colossal.config.reading import parse_config
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.errors import ConfigError
from vit_colossal.plan.model_spec import PRESETS
from vit_colossal.plan.plan import Device, make_plan

#: Numbers at the edges of what fields take, and beyond.
_NUMBERS = (0, 1, 2, 3, 4, 5, 8, 16, 64, 1000, 2**31, 2**63, -1, 0.5, 0.1, 1e-8, -0.5, 1e300)
_WORDS = (
    *(
        "",
        " ",
        "x",
        "true",
        "False",
        "none",
        "null",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "0x10",
        "1_000",
    ),
    *("[1, 2]", "{a: 1}", "--lr", "-", "--", "=", "a=b", "a=1", "image_size=32", "hidden_size=0"),
    *("./nowhere", "/", "~", "..", "ü", "蜜蜂", "a\nb", "\t", "\x1b[2J", "'", '"', "x" * 3000),
)
#: What only a file can hold.
_ODD = (None, True, False, [], [1], {}, {"a": 1}, {"image_size": 32}, {"image_size": [1]})
#: Models that are found without a network, and some that are not.
_MODELS = (*PRESETS, "./nowhere", "some/where", "x", "")
_LINE = 600


def choices(kind: Any) -> list[str]:
    """All literals in a type."""
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    return [value for inner in get_args(kind) for value in choices(inner)]


def _values(name: str, *, in_file: bool) -> st.SearchStrategy[Any]:
    known = choices(TrainConfig.model_fields[name].annotation)
    if name == "model":
        return st.sampled_from(_MODELS)
    # Mostly what could be meant: else no configuration would ever be planned.
    likely: list[Any] = [*known] * 8 if known else [1, 2, 4, 8, "1", "2", 0.5]
    pool = [*likely, *_NUMBERS, *_WORDS, *(_ODD if in_file else ())]
    return st.sampled_from(pool)


_FIELDS = [name for name in TrainConfig.model_fields if name not in ("unknown", "debug")]


@st.composite
def _cases(draw: st.DrawFn) -> tuple[list[str], dict[str, Any], int, Device]:
    """Flags, the content of a file, the number of processes and the device."""
    names = draw(st.lists(st.sampled_from(_FIELDS), max_size=5, unique=True))
    flags: list[str] = []
    values: dict[str, Any] = {}
    for name in names:
        if draw(st.booleans()):
            values[name] = draw(_values(name, in_file=True))
            continue
        flag = "--" + name.replace("_", "-")
        if TrainConfig.model_fields[name].annotation is bool:
            flags.append(draw(st.sampled_from([flag, "--no-" + flag[2:]])))
        else:
            flags.append(f"{flag}={draw(_values(name, in_file=False))}")
    flags += draw(st.lists(st.sampled_from(["--turbo", "stray", "--x=1"]), max_size=1))
    world = draw(st.sampled_from([1, 1, 2, 3, 4, 6, 8]))
    return flags, values, world, draw(st.sampled_from([Device("cpu"), Device("cuda")]))


def _check_plan(config: TrainConfig, plan: Any, world: int, folder: Path) -> None:
    assert plan.dims.world_size == world
    assert plan.batches.global_batch == plan.config.global_batch_size
    (folder / "again.yaml").write_text(plan.config.dump(), encoding="utf-8")
    again, problems = parse_config(["--config", str(folder / "again.yaml")], "fuzz", TrainConfig)
    assert not problems, problems
    assert again.replace(overwrite=plan.config.overwrite).dump() == plan.config.dump()


def _check_refusal(problems: list[str], flags: list[str], values: dict[str, Any]) -> None:
    assert problems
    for line in problems:
        assert line.strip(), problems
        assert len(line) < _LINE, line[:_LINE]
        # The name of what is wrong; a rule between settings may name those that stand by default.
        assert "--" in line or any(key in line for key in values) or "no such flag" in line, line


def fuzz(examples: int, start: int) -> Counter[str]:
    """Try configurations.

    Args:
        examples: how many.
        start: seeds the choice.

    Returns:
        How many were ``planned``, ``refused`` and ``refused by the parser`` of the command line.

    Raises:
        Exception: whatever a configuration led to besides, after hypothesis has made it short.
    """
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        @seed(start)
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=_cases())
        def attempt(case: tuple[list[str], dict[str, Any], int, Device]) -> None:
            flags, values, world, device = case
            if values:
                (folder / "run.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
                flags = ["--config", str(folder / "run.yaml"), *flags]
            try:
                config, problems = parse_config(flags, "fuzz", TrainConfig)
                plan = make_plan(config, world, device, problems)
            except ConfigError as error:
                _check_refusal(error.problems, flags, values)
                counts["refused"] += 1
            except SystemExit as stop:
                assert stop.code == 2
                counts["refused by the parser"] += 1
            else:
                _check_plan(config, plan, world, folder)
                counts["planned"] += 1

        attempt()
    return counts
