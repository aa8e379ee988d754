"""A run that no machine has the memory for ends before anything of it is built."""

from __future__ import annotations

import pytest

from launching import environment, run, warm

pytestmark = pytest.mark.slow

#: 161 billion parameters; as a model without memory it is there in a moment.
HUGE = "hidden_size=8192,num_hidden_layers=200,num_attention_heads=64,intermediate_size=32768"


def test_it_is_refused() -> None:
    flags = ["--dataset", "digits", "--model", "vit-micro", "--model-config", HUGE]
    flags += ["--max-train-samples", "64", "--device", "cpu", "--global-batch-size", "16"]
    result = run(warm("-m", "vit_colossal", "train", *flags), timeout_s=200, env=environment())
    assert result.returncode == 2, result.output
    assert "--plugin ddp would take about" in result.stderr
    assert "use more devices, a smaller model or --global-batch-size" in result.stderr
    assert "--no-memory-check" in result.stderr
