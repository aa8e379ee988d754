"""Adapters train in every layout that takes them as `peft` trains them in a plain loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import peft
import pytest
import torch
from family_loop import BATCH, CLIP, DECAY, LR, SEED, STEPS, Run, read_split, train
from safetensors.torch import load_file
from test_families import DIGITS, EVALUATED, LAYOUTS, LOSS, WEIGHTS, apart
from transformers import AutoModelForImageClassification

from families import TINY
from launching import Case, Launch

RANK = 4
#: A plain encoder under all, one with a head that is not read, one of this project's own classes,
#: and one of stages.
RUNS = [("vit", layout) for layout in ("ddp", "zero1", "zero2", "gemini", "pp2")]
RUNS += [("siglip", "pp2"), ("dinov3_vit", "pp2"), ("swin", "zero2")]
ADAPTED = list(dict.fromkeys(name for name, _ in RUNS))
#: Layouts of the first whose layers are compiled, adapters and all.
COMPILED = ("ddp", "zero2", "pp2")


Reference = Callable[[str, bool, int], Run]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    for name in ADAPTED:
        replace(TINY[name], labels=DIGITS).save(folder / name)
    return folder


def case(root: Path, dataset: Path, name: str, layout: str, *more: str) -> Case:
    """A run with adapters."""
    flags = [
        *("--model", str(root / name), "--dataset", str(dataset), "--device", "cpu"),
        *("--global-batch-size", str(BATCH), "--max-steps", str(STEPS), "--lr", str(LR)),
        *("--weight-decay", str(DECAY), "--seed", str(SEED), "--warmup-ratio", "0.1"),
        *("--clip-grad-norm", str(CLIP), *LAYOUTS[layout][1].split()),
        *("--lora-rank", str(RANK), "--lora-alpha", str(2 * RANK), *more),
    ]
    flags += ["--drop-path", "0"] if name == "swin" else []
    return Case(f"{name}.{layout}", flags, after=[EVALUATED], export=True)


@pytest.fixture(scope="module")
def launch(root: Path, eleven: Path) -> Launch:
    return Launch(root / "runs", 2, [case(root, eleven, *run) for run in RUNS])


@pytest.fixture(scope="module")
def compiled(root: Path, eleven: Path) -> Launch:
    cases = [case(root, eleven, "vit", layout, "--compile") for layout in COMPILED]
    return Launch(root / "compiled", 2, cases)


@pytest.fixture(scope="module")
def reference(root: Path, eleven: Path) -> Reference:
    @cache
    def run(name: str, bf16: bool, parts: int) -> Run:
        splits = [read_split(eleven, split, root / name) for split in ("train", "validation")]
        return train(root / name, *splits, bf16=bf16, parts=parts, rank=RANK)

    return run


@pytest.mark.parametrize(("name", "layout"), RUNS)
def test_it_trains_as_peft_does(
    name: str, layout: str, launch: Launch, reference: Reference
) -> None:
    run, bf16 = launch.outcome(f"{name}.{layout}"), layout == "gemini"
    expected = reference(name, bf16, 1)
    if bf16:
        # Three times what the loop differs from itself by, summed in 2 and 4 parts.
        spread = max(apart(reference(name, True, n).losses, expected.losses) for n in (2, 4))
        assert apart(run.losses, expected.losses) <= max(3 * spread, 2**-8)
        return
    assert apart(run.losses, expected.losses) <= LOSS
    assert apart([norm or 0.0 for norm in run.grad_norms], expected.norms) <= 1e-4
    assert run.after[0]["correct"] == expected.correct
    merged = load_file(run.export / "model.safetensors")
    assert merged.keys() == expected.weights.keys()
    for key, tensor in merged.items():
        assert float((tensor - expected.weights[key]).abs().max()) <= WEIGHTS, key


@pytest.mark.slow
@pytest.mark.parametrize("layout", COMPILED)
def test_compiled_layers_train_alike(layout: str, launch: Launch, compiled: Launch) -> None:
    run, plain = (each.outcome(f"vit.{layout}") for each in (compiled, launch))
    assert apart(run.losses, plain.losses) <= LOSS
    assert run.after[0]["correct"] == plain.after[0]["correct"]
    ours, theirs = (load_file(each.export / "model.safetensors") for each in (run, plain))
    assert ours.keys() == theirs.keys()
    assert all(float((ours[key] - theirs[key]).abs().max()) <= WEIGHTS for key in ours)


@pytest.mark.parametrize("name", ADAPTED)
def test_peft_alone_loads_the_adapter_beside_the_base(
    name: str, root: Path, launch: Launch
) -> None:
    run = launch.outcome(next(f"{n}.{layout}" for n, layout in RUNS[::-1] if n == name))
    merged = AutoModelForImageClassification.from_pretrained(run.export)
    base = AutoModelForImageClassification.from_pretrained(root / name)
    adapted = peft.PeftModel.from_pretrained(base, run.export.with_name("adapter"))
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        plain, expected = base.eval()(pixels).logits, merged.eval()(pixels).logits
        found = adapted.eval()(pixels).logits
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.equal(plain, found)  # the base is adapted in place
    untouched = AutoModelForImageClassification.from_pretrained(root / name).eval()
    with torch.inference_mode():
        assert not torch.allclose(untouched(pixels).logits, expected, atol=1e-2)


@pytest.mark.parametrize("name", ADAPTED)
def test_of_the_base_only_adapted_layers_and_the_head_move(
    name: str, root: Path, launch: Launch
) -> None:
    run = launch.outcome(next(f"{n}.{layout}" for n, layout in RUNS if n == name))
    before = load_file(root / name / "model.safetensors")
    after = load_file(run.export / "model.safetensors")
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    bases = {key for key in run.weights if key.endswith(".base_layer.weight")}
    assert moved == {key.replace(".base_layer.", ".") for key in bases} | {
        "classifier.weight",
        "classifier.bias",
    }
