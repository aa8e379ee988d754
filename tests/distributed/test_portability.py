"""A checkpoint of one layout continues under another: a sample of scripts/portability_matrix.py."""

from __future__ import annotations

import pytest
from portability import run_pairs

#: fp32 to fp32: at most this far from the source's own loss curve, relative.
CLOSE = 1e-5
PAIRS = (
    ("tp2 fp32, 2", "zero1 fp32, 2"),
    ("zero1 fp32, 2", "pp2 fp32, 2"),
    ("pp2 fp32, 2", "tp2 fp32, 2"),
    ("zero1 fp32, 2", "zero1 fp32, 2"),
    ("tp2 fp32, 2", "gemini sharded bf16, 2"),
    ("gemini sharded bf16, 2", "hybrid ZeRO-1 bf16, 2"),
)
#: 16 bit continues near the source's curve; a state that was lost is ten times further away.
NEAR = 2e-2


@pytest.fixture(scope="module")
def drifts(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], float]:
    return run_pairs(tmp_path_factory.mktemp("portability"), PAIRS, timeout_s=300)


@pytest.mark.slow
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_goes_on_under_another_layout(
    source: str, target: str, drifts: dict[tuple[str, str], float]
) -> None:
    drift = drifts[source, target]
    if source == target:
        assert drift == 0.0
    else:
        assert drift <= (NEAR if "bf16" in source + target else CLOSE)
