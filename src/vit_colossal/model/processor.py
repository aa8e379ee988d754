"""A model's image processor: read, made to fit the model, and turned into what is computed here.

``fit`` is the one place that decides. Training applies what the processor of the model asks for,
or, where no fixed size comes of that or none that the model takes, something nearby, which is
then what is saved with the trained model.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_colossal.errors import ModelError
from vit_colossal.model.preprocessing import Frame, Preprocessing
from vit_colossal.plan.model_files import processor_folder
from vit_colossal.plan.model_spec import ModelSpec

if TYPE_CHECKING:
    from transformers import ViTImageProcessorPil

#: PIL's bilinear filter, what ViT processors use.
BILINEAR = 2
#: And the one of ConvNeXt's.
BICUBIC = 3
#: The mean and the deviation where a model has no processor, and where a ConvNeXt's names none.
_HALF = 0.5

_SWITCHES = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_pad")


def build_processor(spec: ModelSpec) -> ViTImageProcessorPil:
    """The processor that training applies and that is saved with the model.

    Raises:
        ModelError: it cannot be fetched, or is none that images can be prepared with.
    """
    return _fitted(spec)[0]


def preprocessing_of(spec: ModelSpec) -> Preprocessing:
    """The same as pixels and arithmetic, with notes on where it is not the model's own.

    Raises:
        ModelError: see :func:`build_processor`.
    """
    processor, notes = _fitted(spec)
    factor = processor.rescale_factor if processor.do_rescale else 1.0
    channels, normalizes = spec.shape.channels, processor.do_normalize
    size = _size_of(processor)
    assert size is not None  # what `fit` is for
    return Preprocessing(
        size=size,
        resample=int(processor.resample),
        cut_from=_frame(processor) if processor.do_center_crop else None,
        divisor=1 / factor,
        mean=tuple(processor.image_mean) if normalizes else (0.0,) * channels,
        std=tuple(processor.image_std) if normalizes else (1.0,) * channels,
        notes=tuple(notes),
    )


def _fitted(spec: ModelSpec) -> tuple[ViTImageProcessorPil, list[str]]:
    from transformers import ViTImageProcessorPil

    folder = processor_folder(spec.name) if spec.pretrained else None
    if folder is not None:
        processor, unknown = _read(spec, folder)
        processor, change = fit(processor, spec)
        notes = (unknown, change, _keep_channels(processor, spec.shape.channels))
        return processor, [f"image processor: {note}" for note in notes if note]
    size = {"height": spec.image_size, "width": spec.image_size}
    half = [_HALF] * spec.shape.channels
    processor = ViTImageProcessorPil(size=size, resample=BILINEAR, image_mean=half, image_std=half)
    note = (
        f"{spec.name} has no preprocessor_config.json: images are resized to {spec.image_size} x "
        f"{spec.image_size} px, and normalized with mean 0.5 and standard deviation 0.5"
    )
    return processor, [note] if spec.pretrained else []


def fit(processor: ViTImageProcessorPil, spec: ModelSpec) -> tuple[ViTImageProcessorPil, str]:
    """The processor as it is where it gives what the model takes; else one that does, and why.

    A size that is not the model's is scaled, and what is cut off with it, so that the same part of
    an image is seen. Where no fixed size comes out, images are resized to the model's.

    Args:
        processor: as read.
        spec: the model.

    Returns:
        The processor, and what is not as its file says; empty if all is.
    """
    from transformers import ViTImageProcessorPil

    side, size, frame = spec.image_size, _size_of(processor), _frame(processor)
    given = f"gives {size[0]} x {size[1]} px, the model takes {side} x {side}" if size else ""
    if size == (side, side) and not processor.do_pad:
        return processor, ""
    if size and size[0] == size[1] and frame != "as it is" and not processor.do_pad:
        _scale(processor, side / size[0], side)
        asked = size[0] == spec.weights_image_size  # by --image-size, of which the plan tells
        return processor, "" if asked else f"it {given}: its sizes are scaled, and saved so"
    plain = ViTImageProcessorPil(
        size={"height": side, "width": side},
        resample=processor.resample,
        do_rescale=bool(processor.do_rescale),
        rescale_factor=processor.rescale_factor,
        do_normalize=bool(processor.do_normalize),
        image_mean=processor.image_mean,
        image_std=processor.image_std,
    )
    reason = given or f"{_named_size(processor)} leaves the size open"
    if processor.do_pad:
        reason = "do_pad adds borders"
    return plain, f"{reason}: images are resized to {side} x {side} px, and it is saved so"


def _keep_channels(processor: ViTImageProcessorPil, channels: int) -> str:
    """Let it make no RGB for a model of other channels, and say so where it did."""
    if channels == 3 or not processor.do_convert_rgb:
        return ""
    processor.do_convert_rgb = False
    return f"do_convert_rgb would make 3 channels of {channels}: it is off, and saved so"


def _named_size(processor: ViTImageProcessorPil) -> str:
    """The setting that leaves the size open."""
    if not processor.do_resize:
        return "do_resize: false"
    return f"size {json.dumps(dict(processor.size))}"


def _frame(processor: ViTImageProcessorPil) -> Frame | None:
    """What images are resized to; None for a way that is not known here."""
    if not processor.do_resize:
        return "as it is"
    size = processor.size
    if size.height and size.width:
        return size.height, size.width
    return size.shortest_edge if size.shortest_edge and not size.longest_edge else None


def _size_of(processor: ViTImageProcessorPil) -> tuple[int, int] | None:
    """Height and width of what comes out; None if that depends on the image, or is not known."""
    frame = _frame(processor)
    if processor.do_center_crop and frame is not None:
        return processor.crop_size.height, processor.crop_size.width
    return frame if isinstance(frame, tuple) and not processor.do_center_crop else None


def _scale(processor: ViTImageProcessorPil, factor: float, side: int) -> None:
    """Make ``side`` x ``side`` pixels come out, of the same part of an image."""
    from transformers.image_utils import SizeDict

    square = SizeDict(height=side, width=side)
    if not processor.do_center_crop:
        processor.size = square
        return
    sizes = {key: max(1, round(value * factor)) for key, value in dict(processor.size).items()}
    processor.size = SizeDict(**sizes)
    processor.crop_size = square


def _read(spec: ModelSpec, folder: Path) -> tuple[ViTImageProcessorPil, str]:
    """The processor of a model, and a word on one whose steps may be others than those known here.

    The one that resizes with Pillow, as all before transformers 5 did: that of torchvision gives
    pixels that depend on the CPU's instruction set (docs/data.md). Both save the same file.
    """
    from transformers import ViTImageProcessorPil

    try:
        values, _ = ViTImageProcessorPil.get_image_processor_dict(folder)
        kind = values.get("image_processor_type") or values.get("feature_extractor_type")
        known = _plain_class(kind or "ViTImageProcessor")
        if _base_name(kind) == "ConvNextImageProcessor":
            known, values = ViTImageProcessorPil, as_plain_steps(values)
        fractions = _OF_FRACTIONS.get(_base_name(kind))
        applied = known or ViTImageProcessorPil
        # Other keys would become attributes, even in the place of methods, and be saved with the
        # trained model; and the file may be a link to one of this machine that is nobody's to see.
        keys = applied.valid_kwargs.__annotations__.keys() & values.keys()
        own = {key: values[key] for key in keys}
        processor = applied.from_dict({**(fractions or {}), **own})
    except Exception as error:  # whatever an odd file leads the library to
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError([f"--model {spec.name}: no image processor: {reason}"]) from None
    channels = spec.shape.channels
    for key in ("image_mean", "image_std"):
        value = getattr(processor, key)
        if _is_number(value):  # one for all channels
            setattr(processor, key, (value,) * channels)
    problems = [
        f"--model {spec.name}: preprocessor_config.json: {key} is "
        f"{json.dumps(value, default=repr)}: {needed}"
        for key, value, needed in _wrong(processor, channels)
    ]
    if problems:
        raise ModelError(problems)
    note = f"a {str(kind)[:80]}, read and saved as a ViTImageProcessor"
    note += ": it resizes bytes in place of fractions, within 1 of 255" if fractions else ""
    return processor, "" if known else note


def _plain_class(kind: Any) -> type[ViTImageProcessorPil] | None:
    """The class of a processor that does nothing but resize, crop, rescale and normalize.

    Args:
        kind: its name, of any release: ``ViTImageProcessorFast``, ``DeiTFeatureExtractor`` …
    """
    import transformers
    from transformers.image_processing_backends import PilBackend

    name = _base_name(kind)
    if not (name.isidentifier() and name.endswith("ImageProcessor")):
        return None
    found = getattr(transformers, f"{name}Pil", None)
    if not (isinstance(found, type) and issubclass(found, PilBackend)):
        return None
    own = {key for part in found.__mro__[: found.__mro__.index(PilBackend)] for key in vars(part)}
    return None if own & _STEPS and name not in _OF_MAPS else found


def _base_name(kind: Any) -> str:
    name = str(kind).removesuffix("Fast").removesuffix("Pil")
    return name.replace("FeatureExtractor", "ImageProcessor")


def as_plain_steps(values: dict[str, Any]) -> dict[str, Any]:
    """The settings of a ConvNeXt processor as steps that all processors have; the same pixels.

    It resizes the shorter edge to more than its size, by ``crop_pct``, and cuts the center out;
    from 384 px on it resizes to the square.
    """
    side = values.get("size", 384)
    side = side.get("shortest_edge") if isinstance(side, dict) else side
    share = values.get("crop_pct", 224 / 256)
    if type(side) is not int or not _is_number(share) or not 0 < share <= 1:
        raise ValueError(f"size {values.get('size')!r} with crop_pct {share!r} is none")
    kept = {k: v for k, v in values.items() if k not in ("crop_pct", "size", "crop_size")}
    kept = {"image_mean": _HALF, "image_std": _HALF, "resample": BICUBIC, **kept}
    square = {"height": side, "width": side}
    if side >= 384:
        return {**kept, "do_center_crop": False, "size": square}
    frame = {"shortest_edge": int(side / share)}
    return {**kept, "do_center_crop": True, "size": frame, "crop_size": square}


#: Processors whose own steps concern maps of labels alone.
_OF_MAPS = ("BeitImageProcessor",)
#: Processors that divide before they resize, which Pillow cannot: they resize by torchvision alone.
#: With what their files may leave out.
_OF_FRACTIONS = {
    "DINOv3ViTImageProcessor": {
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
}
#: The methods with which a processor would do something of its own.
_STEPS = {"preprocess", "_preprocess", "process_image", "_preprocess_image_like_inputs"} | {
    *("convert_to_rgb", "resize", "center_crop", "rescale", "normalize", "pad"),
    *("_standardize_kwargs", "_prepare_image_like_inputs", "__call__"),
}


def _wrong(processor: ViTImageProcessorPil, channels: int) -> list[tuple[str, Any, str]]:
    """Settings that images cannot be prepared with: name, value, what is needed."""
    wrong: list[tuple[str, Any, str]] = [
        (name, getattr(processor, name), "true or false is needed")
        for name in _SWITCHES
        if getattr(processor, name) not in (True, False, None)
    ]
    factor, filter_number = processor.rescale_factor, processor.resample
    if processor.do_rescale and not (_is_number(factor) and 1e-12 < factor < 1e12):
        wrong.append(("rescale_factor", factor, "a positive number is needed"))
    if not (isinstance(filter_number, int) and 0 <= filter_number <= 5):
        wrong.append(("resample", filter_number, "a number from 0 to 5 is needed"))
    if processor.do_normalize:
        mean, std = processor.image_mean, processor.image_std
        numbers = "1 number is" if channels == 1 else f"{channels} numbers are"
        if not _are_numbers(mean, channels):
            wrong.append(("image_mean", mean, f"{numbers} needed"))
        if not (_are_numbers(std, channels) and min(std) > 0):
            wrong.append(("image_std", std, f"{numbers} needed, all positive"))
    for name in ("size", "crop_size") if processor.do_center_crop else ("size",):
        sizes = dict(getattr(processor, name) or {})
        valid = sizes and all(type(v) is int and 0 < v <= 65535 for v in sizes.values())
        if name == "crop_size":
            valid = valid and {"height", "width"} <= sizes.keys()
        if not valid and (processor.do_resize or name == "crop_size"):
            wrong.append((name, sizes, "a height and a width in pixels are needed"))
    return wrong


def _are_numbers(value: Any, count: int) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == count and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
