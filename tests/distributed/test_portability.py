"""A checkpoint of one layout continues under another: a sample of scripts/portability_matrix.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from portability import HALF, LAYOUTS, STEPS, run_folder, run_pairs
from safetensors.torch import load_file

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


#: What else a checkpoint has to carry: an average, frozen weights without moments, many groups.
WITH_AVERAGE = "--ema 0.9 --freeze-layers 0 --layer-decay 0.8 --mixup 0.8 --clip-grad-norm 1"
AVERAGED = (
    ("zero1 fp32, 2", "zero1 fp32, 2"),
    ("pp2 fp32, 2", "pp2 fp32, 2"),
    ("gemini sharded bf16, 2", "gemini sharded bf16, 2"),
    ("zero1 fp32, 2", "tp2 fp32, 2"),
    ("tp2 fp32, 2", "pp2 fp32, 2"),
    ("pp2 fp32, 2", "hybrid ZeRO-1 bf16, 2"),
    ("gemini sharded bf16, 2", "zero2 fp32, 2"),
)


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("averaged")
    run_pairs(folder, AVERAGED, timeout_s=300, flags=WITH_AVERAGE)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("source", "target"), AVERAGED)
def test_the_average_goes_on_under_another_layout(source: str, target: str, averaged: Path) -> None:
    """To the bit under the same one; else as near as one step of rounded weights."""
    last = f"checkpoints/step-{STEPS:06d}"
    ours, theirs = (run_folder(averaged, *names) / last for names in ((source, target), (source,)))
    states = [load_file(folder / "ema.safetensors") for folder in (ours, theirs)]
    start = load_file(theirs.parent / f"step-{HALF:06d}" / "ema.safetensors")
    assert states[0].keys() == states[1].keys() == start.keys()
    assert not [name for name in start if "embeddings" in name]
    for name, average in states[0].items():
        assert not average.equal(start[name]), name
        tolerance = 2e-3 if "bf16" in source + target else 2e-5
        if name.endswith("key.bias"):
            tolerance *= 10  # its gradient is rounding alone, which Adam takes for a direction
        assert (average - states[1][name]).abs().max() <= tolerance, name
    if source == target:
        for file in ("weights", "moments", "ema"):
            names = [folder / f"{file}.safetensors" for folder in (ours, theirs)]
            assert names[0].read_bytes() == names[1].read_bytes(), file


#: It keeps other moments than AdamW, or none.
SGD = ("--optimizer sgd --lr 0.05", "--optimizer sgd --momentum 0 --lr 0.05")
CARRIED = (
    ("zero1 fp32, 2", "zero1 fp32, 2"),
    ("pp2 fp32, 2", "pp2 fp32, 2"),
    ("zero1 fp32, 2", "pp2 fp32, 2"),
    ("pp2 fp32, 2", "zero1 fp32, 2"),
)


@pytest.mark.slow
@pytest.mark.parametrize("flags", SGD)
def test_sgd_goes_on(flags: str, tmp_path: Path) -> None:
    """To the bit under the same layout: losses, weights and moments."""
    drifts = run_pairs(tmp_path, CARRIED, timeout_s=300, flags=flags)
    for (source, target), drift in drifts.items():
        assert drift <= (0.0 if source == target else CLOSE), (source, target)
        if source == target:
            last = f"checkpoints/step-{STEPS:06d}"
            runs = run_folder(tmp_path, source), run_folder(tmp_path, source, target)
            for file in ("weights", "moments"):
                ours, theirs = (run / last / f"{file}.safetensors" for run in runs)
                assert ours.read_bytes() == theirs.read_bytes(), file


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


DROPOUT = "--model-config hidden_dropout_prob=0.1,attention_probs_dropout_prob=0.1"
WITH_DROPOUT = tuple(
    (name, name)
    for name, layout in LAYOUTS.items()
    if layout.processes == 2 or name == "ddp fp32, 1"
)


@pytest.fixture(scope="module")
def dropped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dropped")
    run_pairs(folder, WITH_DROPOUT, timeout_s=300, flags=DROPOUT)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, _ in WITH_DROPOUT])
def test_dropout_goes_on_to_the_bit(name: str, dropped: Path) -> None:
    last = f"checkpoints/step-{STEPS:06d}"
    whole, resumed = (run_folder(dropped, *names) / last for names in ((name,), (name, name)))
    for file in ("weights", "moments", "rng"):
        names = [folder / f"{file}.safetensors" for folder in (whole, resumed)]
        assert names[0].read_bytes() == names[1].read_bytes(), file
