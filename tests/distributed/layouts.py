"""The table of layouts, the variants of a run that each is tried with, and their references."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet
from plain_loop import MODEL, Recipe

from launching import Case

STEPS = 14  # 200 images make 12 steps and one of 8 images: the second epoch is entered

#: AdamW as people use it. Its steps hardly depend on the gradients' scale.
ADAM = Recipe(steps=STEPS, lr=1e-3)
#: With a large epsilon they do, and small gradients are no longer blown up: for clipping and
#: accumulation, where a wrong scale has to show.
SCALED = Recipe(steps=STEPS, lr=0.1, adam_eps=0.1)

CLIP = 0.1
SIZES = (1, 5, 129, 133)


@dataclass(frozen=True)
class Variant:
    """A recipe and the flags that say the same to ``train.py``; when to evaluate."""

    recipe: Recipe
    flags: tuple[str, ...] = ()
    evaluate: tuple[tuple[int, int], ...] = ()
    after: tuple[int, ...] = ()
    export: bool = False


VARIANTS = {
    "plain": Variant(ADAM, after=SIZES, export=True),
    "evaluated": Variant(ADAM, evaluate=((0, 5), (1, 1), (3, 5), (5, 129), (7, 133), (13, 1))),
    "checkpointed": Variant(ADAM, ("--grad-checkpoint",)),
    "one_group": Variant(replace(ADAM, decay_all=True), ("--decay-all",)),
    "clipped": Variant(replace(SCALED, clip_grad_norm=CLIP), ("--clip-grad-norm", str(CLIP))),
    "accumulated": Variant(SCALED, ("--grad-accumulation", "2")),
    "clipped_accumulated": Variant(
        replace(SCALED, clip_grad_norm=CLIP),
        ("--clip-grad-norm", str(CLIP), "--grad-accumulation", "2"),
    ),
    "recipe": Variant(
        replace(
            SCALED,
            clip_grad_norm=CLIP,
            mixup=0.8,
            cutmix=1.0,
            smoothing=0.1,
            erasing=0.5,
            layer_decay=0.7,
            trained_from=2,
            ema=0.8,
        ),
        (
            *("--clip-grad-norm", str(CLIP), "--mixup", "0.8", "--cutmix", "1"),
            *("--label-smoothing", "0.1", "--random-erasing", "0.5", "--layer-decay", "0.7"),
            *("--freeze-layers", "1", "--ema", "0.8"),
        ),
        evaluate=((3, 5), (7, 133)),
        after=(133,),
        export=True,
    ),
    "probe": Variant(
        replace(SCALED, clip_grad_norm=CLIP, probe=True, mixup=0.4),
        (
            *("--clip-grad-norm", str(CLIP), "--freeze", "backbone", "--mixup", "0.4"),
            *("--grad-accumulation", "2"),
        ),
    ),
    "sgd": Variant(
        Recipe(steps=STEPS, lr=0.05, optimizer="sgd", schedule="cosine-restarts"),
        ("--optimizer", "sgd", "--lr-schedule", "cosine-restarts"),
    ),
    "cooldown": Variant(
        replace(SCALED, schedule="constant-cooldown"),
        ("--lr-schedule", "constant-cooldown"),
    ),
}
#: Launches: processes of each.
GROUPS = {"one": 1, "two": 2, "two-half": 2, "four": 4}
LABELS = 11

SCHEDULES = ("sgd", "cooldown")
ALL = tuple(name for name in VARIANTS if name not in ("probe", *SCHEDULES))
PROBED = (*ALL, "probe")
ONE = ("plain", "clipped_accumulated")
SOME = ("plain", "clipped", "accumulated")
GEMINI = ("--gemini-min-chunk-m", "0.03", "--gemini-search-range-m", "0.05")
GEMINI += ("--gemini-hidden-dim", "64")  # several sharded chunks, instead of one replicated


@dataclass(frozen=True)
class Band:
    """Largest relative distances allowed: of any step's loss, of the weights' whole movement."""

    losses: float
    movement: float


@dataclass(frozen=True)
class Layout:
    """One row of the table: what it is called, the launch it belongs to, its flags."""

    name: str
    group: str
    flags: str
    precision: str = "fp32"
    variants: tuple[str, ...] = ALL

    @property
    def loop_precision(self) -> str:
        """The plain loop that rounds alike: ddp's bf16 is autocast, the others' 16-bit weights."""
        is_autocast = self.precision == "bf16" and "--plugin ddp" in self.flags
        return "autocast" if is_autocast else self.precision

    @property
    def reference_precision(self) -> str:
        """The plain loop to compare with: without a loss scaler, its own fp16 would underflow."""
        return "fp32" if self.precision == "fp16" else self.loop_precision

    @property
    def exact(self) -> bool:
        """Whether it computes in fp32, where only the order of sums tells layouts apart."""
        return self.precision == "fp32"

    @property
    def slow(self) -> bool:
        return self.group in ("four", "two-half")

    def case(self, variant: str, dataset: Path) -> Case:
        """The run of a variant under this layout."""
        chosen = VARIANTS[variant]
        return Case(
            name=f"{self.name}.{variant}",
            flags=[
                *self.flags.split(),
                *(GEMINI if "gemini" in self.flags else ()),
                *("--precision", self.precision),
                *common_flags(dataset, chosen.recipe),
                *chosen.flags,
            ],
            evaluate=dict(chosen.evaluate),
            after=list(chosen.after),
            export=chosen.export,
        )


LAYOUTS = [
    Layout("ddp", "two", "--plugin ddp", variants=(*ALL, *SCHEDULES)),
    Layout("zero1", "two", "--plugin zero1", variants=(*PROBED, *SCHEDULES)),
    Layout("zero2", "two", "--plugin zero2"),
    Layout("gemini", "two", "--plugin gemini", "bf16", PROBED),
    Layout("tp2", "two", "--plugin hybrid --tp 2", variants=(*ALL, *SCHEDULES)),
    Layout(
        *("pp2", "two", "--plugin hybrid --pp 2 --num-microbatches 4"),
        variants=(*PROBED, *SCHEDULES),
    ),
    Layout(
        *("pp2-uneven", "two", "--plugin hybrid --pp 2 --layers-per-stage 2,1"),
        variants=("plain",),
    ),
    Layout("dp2-zero1", "two", "--plugin hybrid --zero 1", "bf16", (*ALL, *SCHEDULES)),
    Layout(
        *("pp2-zero1", "two", "--plugin hybrid --pp 2 --zero 1 --microbatch-size 4", "bf16"),
        variants=PROBED,
    ),
    Layout("tp2-pp2", "four", "--plugin hybrid --tp 2 --pp 2 --num-microbatches 2"),
    Layout("pp2-dp2", "four", "--plugin hybrid --pp 2 --num-microbatches 2"),
    Layout(
        *("pp2-dp2-zero1", "four", "--plugin hybrid --pp 2 --zero 1", "bf16"),
        variants=(*SOME, "recipe", "probe"),
    ),
    Layout("ddp-4", "four", "--plugin ddp"),
    Layout("gemini-4", "four", "--plugin gemini", "bf16", SOME),
    Layout("ddp-1", "one", "--plugin ddp", variants=ONE),
    Layout("zero1-1", "one", "--plugin zero1", variants=ONE),
    Layout("zero2-1", "one", "--plugin zero2", variants=ONE),
    Layout("gemini-1", "one", "--plugin gemini", "bf16", ONE),
    Layout("hybrid-1", "one", "--plugin hybrid", variants=ONE),
]
LAYOUTS += [
    Layout(f"{name}-{precision}", "two-half", f"--plugin {flags}", precision, SOME)
    for precision in ("bf16", "fp16")
    for name, flags in (
        ("ddp", "ddp"),
        ("zero1", "zero1"),
        ("zero2", "zero2"),
        ("gemini", "gemini"),
        ("tp2", "hybrid --tp 2"),
        ("pp2", "hybrid --pp 2"),
    )
    if (name, precision) != ("gemini", "bf16")  # above
]


def common_flags(dataset: Path, recipe: Recipe) -> list[str]:
    """Model, data and optimization as the plain loop has them."""
    model = [f"--model-config={key}={value}" for key, value in MODEL.items()]
    return [
        *("--device", "cpu", "--model", "vit-micro", *model, "--dataset", str(dataset)),
        *("--global-batch-size", str(recipe.global_batch_size), "--seed", str(recipe.seed)),
        *("--max-steps", str(recipe.steps), "--warmup-ratio", str(recipe.warmup_ratio)),
        *("--lr", str(recipe.lr)),
        *(("--adam-eps", str(recipe.adam_eps)) if recipe.optimizer == "adamw" else ()),
        *("--weight-decay", str(recipe.weight_decay)),
    ]


def cases(group: str, dataset: Path) -> list[Case]:
    """All cases of one launch."""
    members = [layout for layout in LAYOUTS if layout.group == group]
    return [layout.case(variant, dataset) for layout in members for variant in layout.variants]


def table(variant: str = "plain", *, exact: bool | None = None) -> list[ParameterSet]:
    """The layouts that run a variant, for ``parametrize``; the longer launches are slow.

    Args:
        variant: a key of ``VARIANTS``.
        exact: only those in fp32, or only those in 16 bits.
    """
    return [
        pytest.param(layout, id=layout.name, marks=pytest.mark.slow if layout.slow else ())
        for layout in LAYOUTS
        if variant in layout.variants and exact in (None, layout.exact)
    ]
