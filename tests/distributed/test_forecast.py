"""The predicted state of every layout beside the bytes that its tensors take, on each rank."""

from __future__ import annotations

import json
from typing import Any

import pytest

from launching import HERE, forked, run

pytestmark = pytest.mark.slow

RANKS = 2
#: Odd sizes, which two ranks cannot share without padding.
ODD = ("--model-config", "hidden_size=63,num_attention_heads=3")
SHARDED = (
    *("--gemini-min-chunk-m", "0.03", "--gemini-search-range-m", "0.05"),
    *("--gemini-hidden-dim", "64"),
)
LAYOUTS = {
    "ddp": ("--plugin", "ddp"),
    "ddp bf16, a part": ("--plugin", "ddp", "--precision", "bf16", "--freeze-layers", "2"),
    "zero1, padded": ("--plugin", "zero1", *ODD),
    "zero1 bf16, averaged": ("--plugin", "zero1", "--precision", "bf16", "--ema", "0.9", *ODD),
    "zero2 bf16, padded": ("--plugin", "zero2", "--precision", "bf16", *ODD),
    "zero1, sgd": ("--plugin", "zero1", "--optimizer", "sgd", "--lr", "0.1"),
    "gemini, whole": ("--plugin", "gemini"),
    "gemini, sharded": ("--plugin", "gemini", *SHARDED, *ODD, "--ema", "0.9"),
    "gemini, accumulated": (
        *("--plugin", "gemini", *SHARDED),
        *("--grad-accumulation", "2", "--freeze-layers", "1"),
    ),
    "tp": ("--plugin", "hybrid", "--tp", "2"),
    "tp bf16": ("--plugin", "hybrid", "--tp", "2", "--precision", "bf16"),
    "pp bf16": (
        *("--plugin", "hybrid", "--pp", "2", "--precision", "bf16"),
        *("--layers-per-stage", "1,3"),
    ),
    "hybrid with zero": ("--plugin", "hybrid", "--zero", "1", "--precision", "bf16"),
}
SMALL = ("--dataset", "digits", "--max-train-samples", "64", "--max-eval-samples", "16")
RUN = (*SMALL, "--global-batch-size", "16", "--device", "cpu")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """By rank and layout."""
    folder = tmp_path_factory.mktemp("state")
    cases = folder / "cases.json"
    cases.write_text(json.dumps({name: [*flags, *RUN] for name, flags in LAYOUTS.items()}))
    worker = HERE / "distributed" / "state_worker.py"
    result = run(forked(RANKS, str(worker), str(cases), str(folder)), timeout_s=300)
    assert result.returncode == 0, result.output
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(RANKS)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_state_is_predicted_to_the_byte(found: list[dict[str, Any]], layout: str) -> None:
    for rank in found:
        assert rank[layout]["predicted"] == rank[layout]["held"]


def test_all_kinds_were_there(found: list[dict[str, Any]]) -> None:
    for kind in ("weights", "gradients", "masters", "moments", "average"):
        assert any(each["held"][kind] > 0 for each in found[0].values())
