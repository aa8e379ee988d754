"""The last, smaller batch, weighted labels and balanced draws: as a plain loop does them.

The loop pads nothing: it trains on the images that there are. One image, on two or four ranks and
several micro-batches, leaves most of these with padding alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
from layouts import CLIP, GEMINI, LABELS, LAYOUTS, SCALED, Band, Layout, common_flags
from plain_loop import Images, PlainRun, Recipe, movement, spread, train_plain
from test_layouts import distance

from conftest import EXACT
from launching import Case, Launch, run, warm

STEPS, BATCH = 9, 16

Launches = Callable[[int], Launch]
Plain = Callable[..., PlainRun]


@dataclass(frozen=True)
class Variant:
    """A recipe, the flags that say the same, and the number of training images."""

    recipe: dict[str, object]
    flags: str
    images: int


VARIANTS = {
    # Three batches of 16 and one of a single image.
    "one": Variant({"clip_grad_norm": CLIP}, f"--clip-grad-norm {CLIP} --grad-accumulation 2", 49),
    # The last has 5, which are mixed among themselves.
    "mixed": Variant(
        {"mixup": 0.8, "cutmix": 1.0, "smoothing": 0.1},
        "--mixup 0.8 --cutmix 1 --label-smoothing 0.1",
        53,
    ),
    # Less than one batch.
    "few": Variant({}, "", 3),
    "weighted": Variant(
        {"class_weights": True, "smoothing": 0.1},
        "--class-weights balanced --label-smoothing 0.1 --grad-accumulation 2",
        49,
    ),
    "drawn": Variant({"sampler": "balanced"}, "--sampler balanced", 49),
}
ON_TWO = ("ddp", "zero1", "zero2", "gemini", "tp2", "pp2", "dp2-zero1", "pp2-zero1")
ON_FOUR = ("tp2-pp2", "pp2-dp2", "pp2-dp2-zero1", "ddp-4")
GROUPS = {2: ON_TWO, 4: ON_FOUR}
TABLE = [
    pytest.param(processes, name, id=name, marks=pytest.mark.slow if processes > 2 else ())
    for processes, names in GROUPS.items()
    for name in names
]


def layout_of(name: str) -> Layout:
    return next(layout for layout in LAYOUTS if layout.name == name)


def recipe_of(variant: str, **changes: object) -> Recipe:
    wanted = VARIANTS[variant].recipe | {"steps": STEPS, "global_batch_size": BATCH} | changes
    return replace(SCALED, **wanted)


@pytest.fixture(scope="module")
def launch(eleven: Path, tmp_path_factory: pytest.TempPathFactory) -> Launches:
    """All cases of a number of processes; the first question launches them."""

    @cache
    def start(processes: int) -> Launch:
        cases = []
        for layout in map(layout_of, GROUPS[processes]):
            for name, variant in VARIANTS.items():
                flags = [*layout.flags.split(), "--precision", layout.precision]
                flags += GEMINI if "gemini" in layout.flags else ()
                flags += [*common_flags(eleven, recipe_of(name)), *variant.flags.split()]
                flags += ["--max-train-samples", str(variant.images), "--max-eval-samples", "2"]
                cases.append(Case(f"{layout.name}.{name}", flags))
        return Launch(tmp_path_factory.mktemp("last-batch"), processes, cases)

    return start


@pytest.fixture(scope="module")
def plain(train_images: Images) -> Plain:
    """The plain loop's run of a variant."""

    @cache
    def train(variant: str, precision: str, parts: int = 1) -> PlainRun:
        count = VARIANTS[variant].images
        data = Images(train_images.pixels[:count], train_images.labels[:count])
        return train_plain(data, recipe_of(variant, precision=precision, parts=parts), LABELS)

    return train


@pytest.mark.parametrize(("processes", "name"), TABLE)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_layout_follows_the_plain_loop(
    processes: int, name: str, variant: str, launch: Launches, plain: Plain
) -> None:
    layout, run = layout_of(name), launch(processes).outcome(f"{name}.{variant}")
    expected, allowed = plain(variant, layout.reference_precision), EXACT
    if not layout.exact:
        several = [plain(variant, layout.loop_precision, parts) for parts in (1, 2, 4)]
        losses, moved = spread([*several, expected])
        allowed = Band(3 * losses, 3 * moved)
    assert len(run.losses) == STEPS
    assert distance(run.losses, expected.losses) <= allowed.losses
    start = expected.weights[0]
    moved, wanted = movement(run.weights, start), movement(expected.weights[-1], start)
    assert float((moved - wanted).norm() / wanted.norm()) <= allowed.movement


@pytest.mark.parametrize(
    ("variant", "without"),
    [
        ("weighted", {"class_weights": False}),
        ("drawn", {"sampler": "shuffle"}),
        ("mixed", {"mixup": 0.0, "cutmix": 0.0}),
    ],
)
def test_what_was_left_out_would_be_found(
    variant: str, without: dict[str, object], plain: Plain, train_images: Images
) -> None:
    count = VARIANTS[variant].images
    data = Images(train_images.pixels[:count], train_images.labels[:count])
    other = train_plain(data, replace(recipe_of(variant), **without), LABELS)
    assert distance(other.losses, plain(variant, "fp32").losses) > 1e-3


@pytest.mark.slow
def test_a_run_is_continued_within_an_epoch_under_another_layout(
    eleven: Path, plain: Plain, tmp_path: Path
) -> None:
    """Four steps an epoch; after the second one of the second epoch."""
    flags = [*common_flags(eleven, recipe_of("drawn")), *VARIANTS["drawn"].flags.split()]
    flags += ["--max-train-samples", "49", "--max-eval-samples", "2", "--log-every", "1"]
    flags += ["--nproc", "2", "--save-every", "3", "--no-tensorboard"]
    checkpoint = str(tmp_path / "one/checkpoints/step-000006")
    for name, more in (
        ("one", ["--plugin", "zero1"]),
        ("two", ["--plugin", "hybrid", "--pp", "2", "--resume", checkpoint]),
    ):
        command = warm("-m", "vit_colossal", "train", *flags, *more)
        finished = run([*command, "--output-dir", str(tmp_path / name)], timeout_s=200)
        assert finished.returncode == 0, finished.output
    assert "this is no longer the same run" not in finished.output
    assert "the last has 1 image; drawn with replacement" in finished.output
    expected = plain("drawn", "fp32").losses
    for name, first in (("one", 0), ("two", 6)):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses = [event["loss"] for event in map(json.loads, lines) if event["event"] == "train"]
        assert losses[-STEPS + first :] == pytest.approx(expected[first:], rel=2e-6)
