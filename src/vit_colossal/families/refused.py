"""Which models are of no family here, and what to take instead."""

from __future__ import annotations

from vit_colossal.families.shapes import Values
from vit_colossal.families.table import FAMILIES

#: Types that people ask for and that are not trained: why, and the nearest that is.
REFUSED = {
    "siglip2": (
        "it takes patches of images of any shape, with masks: the SigLIP 2 models of a fixed size, "
        "such as google/siglip2-base-patch16-224, are trained"
    ),
    "dinov3_convnext": (
        "transformers has no image classifier of it; the nearest that are trained are "
        "facebook/dinov3-vits16-pretrain-lvd1689m and facebook/convnextv2-tiny-22k-224"
    ),
    "siglip_vision_model": "name the whole model, of which the vision tower is read",
    "clip_vision_model": "name the whole model, of which the vision tower is read",
}
#: The same by class, where a family's own type says too little.
REFUSED_CLASSES = {
    "DeiTForImageClassificationWithTeacher": (
        "a DeiT with a teacher has two classifiers and no loss: a plain one, such as "
        "facebook/deit-small-patch16-224, is trained"
    ),
}


def type_problem(values: Values) -> str | None:
    """Why a configuration is of no family here; None if it is of one."""
    model_type = values.get("model_type")
    classes = values.get("architectures")
    for name in classes if isinstance(classes, list) else []:
        if name in REFUSED_CLASSES:
            return REFUSED_CLASSES[name]
    if isinstance(model_type, str) and model_type in FAMILIES:
        return None
    if isinstance(model_type, str) and model_type in REFUSED:
        return f"is of type {model_type!r}: {REFUSED[model_type]}"
    known = ", ".join(row.title for row in FAMILIES.values())
    return f"is of type {model_type!r}: one of these is needed: {known}"
