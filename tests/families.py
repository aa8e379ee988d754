"""A small model of every family, with the image processor that its models are published with."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from vit_colossal.families.table import FAMILIES
from vit_colossal.model.configuration import classifier_of

SIDE = 32
LABELS = ("Katze groß", "dog", "eel_pout")

_ENCODER = {
    **{"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": SIDE},
    **{"intermediate_size": 64, "patch_size": 8},
}
_DINOV2 = {**_ENCODER, "mlp_ratio": 2, "layerscale_value": 0.5}
_DINOV3 = {**_ENCODER, "layerscale_value": 0.5, "num_register_tokens": 2}
_WINDOWS = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
_WINDOWS |= {"image_size": SIDE, "patch_size": 4}
_CONVOLUTIONS = {"hidden_sizes": [16, 32], "depths": [2, 2], "num_stages": 2, "patch_size": 4}
_SQUARE = {"size": {"height": SIDE, "width": SIDE}}
_CROP = {"do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}}


@dataclass(frozen=True)
class Tiny:
    """A small model.

    Attributes:
        model_type: its row in the table.
        encoder: keys of the encoder's configuration.
        processor: class and settings of its image processor.
        labels: of its head.
    """

    model_type: str
    encoder: dict[str, Any]
    processor: tuple[str, dict[str, Any]] = ("ViTImageProcessorPil", _SQUARE)
    labels: tuple[str, ...] = field(default=LABELS)

    def configuration(self) -> dict[str, Any]:
        """Its ``config.json``, as far as it is not the default."""
        row = FAMILIES[self.model_type]
        names = {"id2label": dict(enumerate(self.labels))}
        names["label2id"] = {name: index for index, name in enumerate(self.labels)}
        return {**row.with_values({}, self.encoder), **names}

    def build(self) -> transformers.PreTrainedModel:
        """The model of transformers with random weights, none of them zero or one."""
        torch.manual_seed(1)
        kind = classifier_of(FAMILIES[self.model_type])
        model = kind(kind.config_class.from_dict(self.configuration()))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
        return model.eval()

    def save(self, folder: Path) -> transformers.PreTrainedModel:
        """Model and processor as a folder that ``--model`` takes."""
        model, row = self.build(), FAMILIES[self.model_type]
        if row.in_transformers:
            model.save_pretrained(folder)
        else:
            self._save_parts(model, folder)
        kind, settings = self.processor
        getattr(transformers, kind)(**settings).save_pretrained(folder)
        return model

    def _save_parts(self, model: transformers.PreTrainedModel, folder: Path) -> None:
        """The backbone as transformers writes it, and the classifier beside it."""
        row, file = FAMILIES[self.model_type], folder / "model.safetensors"
        model.get_submodule(row.backbone).save_pretrained(folder)
        head = model.get_submodule(row.head).state_dict(prefix=f"{row.head}.")
        save_file({**load_file(file), **head}, file, metadata={"format": "pt"})


TINY = {
    "vit": Tiny("vit", _ENCODER),
    "deit": Tiny(
        "deit", _ENCODER, ("DeiTImageProcessorPil", {"size": {"height": 36, "width": 36}, **_CROP})
    ),
    # As published: made for larger images than its processor gives.
    "dinov2": Tiny(
        "dinov2",
        {**_DINOV2, "image_size": 48},
        ("BitImageProcessorPil", {"size": {"shortest_edge": 36}, **_CROP}),
    ),
    "dinov2 gated": Tiny("dinov2", {**_DINOV2, "use_swiglu_ffn": True}),
    "dinov2_with_registers": Tiny(
        "dinov2_with_registers", {**_DINOV2, "image_size": 48, "num_register_tokens": 2}
    ),
    # Its own processor: tests/unit/model/test_dinov3.py.
    "dinov3_vit": Tiny("dinov3_vit", _DINOV3),
    "dinov3_vit gated": Tiny(
        "dinov3_vit",
        {**_DINOV3, "use_gated_mlp": True, "hidden_act": "silu"}
        | {"query_bias": False, "value_bias": False},
    ),
    "siglip": Tiny("siglip", _ENCODER, ("SiglipImageProcessorPil", _SQUARE)),
    "clip": Tiny(
        "clip", _ENCODER, ("CLIPImageProcessorPil", {"size": {"shortest_edge": SIDE}, **_CROP})
    ),
    "beit": Tiny(
        "beit",
        {**_ENCODER, "use_relative_position_bias": True},
        ("BeitImageProcessorPil", {"size": {"height": 36, "width": 36}, **_CROP}),
    ),
    "swin": Tiny("swin", _WINDOWS),
    "swinv2": Tiny("swinv2", _WINDOWS),
    "convnext": Tiny("convnext", _CONVOLUTIONS),
    "convnextv2": Tiny(
        "convnextv2",
        _CONVOLUTIONS,
        ("ConvNextImageProcessorPil", {"size": {"shortest_edge": SIDE}, "crop_pct": 0.875}),
    ),
}

#: So that `AutoModelForImageClassification` takes every family in tests.
transformers.AutoModelForImageClassification.register(
    transformers.DINOv3ViTConfig,
    classifier_of(FAMILIES["dinov3_vit"]),
    exist_ok=True,  # else one of transformers' own configurations is passed over, without a word
)

#: A model of grey images.
GREY = Tiny(
    "vit",
    {**_ENCODER, "num_channels": 1},
    ("ViTImageProcessorPil", {**_SQUARE, "image_mean": [0.4], "image_std": [0.3]}),
)


def edit_config(folder: Path, **values: Any) -> None:
    """Set keys of ``config.json``."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
