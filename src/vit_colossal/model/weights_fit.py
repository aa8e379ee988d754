"""Whether a pretrained model's weights are those that its configuration promises."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vit_colossal.errors import ModelError
from vit_colossal.families.family import Family
from vit_colossal.families.names import plain_names, split_shapes
from vit_colossal.hub import is_lfs_pointer
from vit_colossal.model.configuration import blueprint
from vit_colossal.plan.model_files import model_folder, weight_files
from vit_colossal.plan.model_spec import ModelSpec

_FLOATS = ("F64", "F32", "F16", "BF16")
#: Numbers of positions, which earlier releases wrote beside the weights and today's count anew.
_COUNTED = (".position_ids", ".relative_position_index", ".relative_coords_table")


def check_weights(spec: ModelSpec) -> None:
    """Read a pretrained model's weights and compare them with its configuration.

    A loader would fill what is missing with random numbers, leave out what it does not know, and
    take numbers that are none.

    Raises:
        ModelError: weights are missing, of another shape or type, not finite, or unreadable.
    """
    if not spec.pretrained:
        return
    wrong = _wrong(spec, stored_shapes(spec.name, spec.family))
    if wrong:
        more = f" (and {len(wrong) - 2} more)" if len(wrong) > 2 else ""
        raise ModelError(
            [
                f"--model {spec.name}: its weights do not fit its config.json: "
                f"{'; '.join(wrong[:2])}{more}: fetch both from one place"
            ]
        )
    _require_finite(spec.name)


def stored_shapes(name: str, row: Family) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's stored weights, from the headers alone.

    Args:
        name: what ``--model`` said.
        row: its family.

    Returns:
        By published name, without what a training wrapper put in front.

    Raises:
        ModelError: weights are unreadable, of another type, or two have one name.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    files: dict[str, str] = {}
    for file in weight_files(name, model_folder(name)):
        with _opened(name, file) as weights:
            for key in weights.keys():  # noqa: SIM118 - it is no mapping
                part = weights.get_slice(key)
                if key.endswith(_COUNTED):
                    continue
                if files.setdefault(key, file.name) != file.name:
                    reason = f"{key} is in {files[key]} and in {file.name}: save the model again"
                    raise ModelError([f"--model {name}: {reason}"])
                if part.get_dtype() not in _FLOATS:
                    kind = part.get_dtype()
                    reason = f"{key} is of type {kind}, not one of {', '.join(_FLOATS)}"
                    raise ModelError([f"--model {name}: {file.name}: {reason}"])
                shapes[key] = tuple(part.get_shape())
    try:
        plain = {new: shapes[key] for key, new in plain_names(shapes).items()}
    except ValueError as error:
        raise ModelError([f"--model {name}: its weights: {error}"]) from None
    return split_shapes(row, {row.published(name): shape for name, shape in plain.items()})


def _require_finite(name: str) -> None:
    for file in weight_files(name, model_folder(name)):
        with _opened(name, file) as weights:
            for key in weights.keys():  # noqa: SIM118 - it is no mapping
                if key.endswith(_COUNTED):
                    continue
                tensor = weights.get_tensor(key)
                bad = tensor.numel() - int(tensor.isfinite().sum())
                if bad:
                    reason = f"{key} has {bad} of {tensor.numel()} numbers that are not finite"
                    raise ModelError(
                        [f"--model {name}: {file.name}: {reason}: take another checkpoint of it"]
                    )


@contextmanager
def _opened(name: str, file: Path) -> Iterator[Any]:
    """A file of weights, mapped into memory."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as weights:
            yield weights
    except (OSError, SafetensorError) as error:
        reason = f"{file.name} cannot be read ({error}): fetch it again"
        if is_lfs_pointer(file):
            reason = f"{file.name} is a pointer of git LFS: run git lfs pull in that folder"
        raise ModelError([f"--model {name}: {reason}"]) from None


def _wrong(spec: ModelSpec, stored: dict[str, tuple[int, ...]]) -> list[str]:
    """How the weights differ from the configuration, half a sentence each."""
    row = spec.family
    prefix = f"{row.backbone}."
    shapes = {key.removeprefix(prefix): shape for key, shape in stored.items()}
    blocks = {match[0] for key in shapes if (match := re.match(row.layer, key))}
    # Their number first: a configuration may promise more than can be built.
    if blocks and len(blocks) != spec.shape.num_layers:
        named = "its stages have" if spec.shape.stages else "num_hidden_layers is"
        return [f"they have {len(blocks)} layers, {named} {spec.shape.num_layers}"]
    if not blocks:
        return [
            f"they are named like {_in_a_block(row, stored)!r}, where a {row.title}'s are "
            f"named like {_example(row)!r}"
        ]
    try:
        expected = expected_shapes(spec)
    except ModelError as error:
        return [line.removeprefix(f"--model {spec.name}: ") for line in error.problems]
    return [
        f"{key} is {list(shapes[key]) if key in shapes else 'missing'}, not {list(shape)}"
        for key, shape in expected.items()
        if shapes.get(key, shape if row.is_unused(prefix + key) else ()) != shape
    ] + [
        f"they have {key}, which a {row.title} of this config.json has not"
        for key in shapes.keys() - expected.keys()
        if re.match(rf"{row.layer}|embeddings\.(?!mask_token)", key)
    ]


def _in_a_block(row: Family, stored: dict[str, tuple[int, ...]]) -> str:
    """The stored name that is most like one in a block."""
    return next((key for key in stored if re.search(row.layer, key)), next(iter(stored), "nothing"))


def _example(row: Family) -> str:
    """How a weight of the first block is named."""
    block = row.layer.replace(r"(\d+)", "0").replace("\\", "")
    return row.published(f"{row.backbone}.{block}{row.first_in_block}")


def expected_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Every weight of a model's backbone, by the published name inside of it.

    Of a model without memory, which transformers builds from the configuration.
    """
    row = spec.family
    prefix = f"{row.backbone}."
    model = blueprint(spec, spec.weights_image_size)
    return {
        row.published(name).removeprefix(prefix): tuple(parameter.shape)
        for name, parameter in model.named_parameters()
        if name.startswith(prefix)
    }
