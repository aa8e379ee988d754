"""Interrupted runs end as uninterrupted ones do: a sample of scripts/kill_matrix.py."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from faulty_train import KINDS
from kill_chain import differing, draw, run_chain, start

pytestmark = pytest.mark.slow

STEPS = 12
#: A frozen rank costs the timeout.
QUICK = tuple(kind for kind in KINDS if kind != "SIGSTOP")

Reference = Callable[[str], Path]


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The run directory of a layout's run that nothing interrupts."""

    @cache
    def make(layout: str) -> Path:
        directory = tmp_path_factory.mktemp("uninterrupted")
        finished = start(directory, layout, STEPS)
        assert finished.returncode == 0, finished.output
        return directory

    return make


def chain(
    directory: Path, reference: Path, layout: str, seed: int, count: int, kinds: tuple[str, ...]
) -> None:
    faults = draw(random.Random(seed), STEPS, count, kinds)
    assert len(faults) == count
    result = run_chain(directory, reference, layout, STEPS, faults)
    assert result.passed, result


@pytest.mark.parametrize(
    ("layout", "seed", "count", "kinds"),
    [
        ("ddp fp32", 6, 2, QUICK),
        ("zero1 bf16", 14, 2, KINDS),
        ("hybrid pp2 fp16", 13, 2, QUICK),
    ],
)
def test_sample(
    tmp_path: Path,
    uninterrupted: Reference,
    layout: str,
    seed: int,
    count: int,
    kinds: tuple[str, ...],
) -> None:
    chain(tmp_path / "run", uninterrupted(layout), layout, seed, count, kinds)


def test_one_bit_makes_a_difference(tmp_path: Path, uninterrupted: Reference) -> None:
    """The comparison itself can fail."""
    reference = uninterrupted("ddp fp32")
    copy = tmp_path / "checkpoints" / f"step-{STEPS:06d}"
    copy.mkdir(parents=True)
    for file in (reference / "checkpoints" / copy.name).iterdir():
        data = bytearray(file.read_bytes())
        data[-1] ^= file.name == "weights.safetensors"
        (copy / file.name).write_bytes(data)
    found = differing(tmp_path, reference, STEPS)
    assert found == [f"weights.safetensors of {copy.name} is not that of the uninterrupted run"]
