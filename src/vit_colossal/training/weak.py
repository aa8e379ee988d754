"""Runs that cannot be expected to end well, said before and after."""

from __future__ import annotations

from vit_colossal.plan.plan import RunPlan

#: Training images below which a transformer without pretrained weights learns little of photos. A
#: rule of thumb; the built-in digits, small and alike, are learned from fewer.
ENOUGH_FROM_SCRATCH = 2000


def weakness(plan: RunPlan, dataset: str, images: int) -> str | None:
    """One line on why not to expect much; None where nothing speaks against it.

    Args:
        plan: the run.
        dataset: name of its data.
        images: of its training split.
    """
    if plan.spec.pretrained or images >= ENOUGH_FROM_SCRATCH or dataset == "digits":
        return None
    return (
        f"warning: {plan.config.model} begins without pretrained weights, and {images} training "
        f"images are few for that (photos need about {ENOUGH_FROM_SCRATCH:,} or more): expect a "
        "weak model, or give --model a pretrained one"
    )
