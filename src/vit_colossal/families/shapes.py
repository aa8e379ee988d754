"""The sizes of a model, read from its configuration, and the arithmetic that follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vit_colossal.errors import ModelError

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Stage:
    """The blocks of a hierarchical model that see images of one size.

    Attributes:
        depth: number of blocks.
        width: channels.
        heads: attention heads; 0 for convolutions.
    """

    depth: int
    width: int
    heads: int = 0


@dataclass(frozen=True)
class Shape:
    """The encoder's sizes.

    Attributes:
        hidden_size: channels, of a hierarchical model those of its first stage.
        num_layers: blocks, of all stages.
        num_heads: of a block.
        intermediate_size: channels inside of the MLP.
        patch_size: pixels.
        channels: of the images.
        extra_tokens: tokens beside the patches: for the class, distillation, registers.
        gated: the MLP multiplies two projections of its input.
        features: channels that the classifier reads.
        window: patches along a side within which a hierarchical model attends; 0 for convolutions.
        stages: of a hierarchical model; empty for a plain encoder.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    patch_size: int
    channels: int = 3
    extra_tokens: int = 1
    gated: bool = False
    features: int = 0
    window: int = 0
    stages: tuple[Stage, ...] = ()

    @property
    def patch_values(self) -> int:
        """Numbers in a patch."""
        return self.channels * self.patch_size**2

    @property
    def attends(self) -> bool:
        """Whether there is attention, or convolutions alone."""
        return not self.stages or self.window > 0

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks of each stage; a plain encoder is one stage."""
        return tuple(stage.depth for stage in self.stages) or (self.num_layers,)


@dataclass(frozen=True)
class Sizes:
    """The sizes in a configuration; each is checked when it is asked for.

    Attributes:
        model: what ``--model`` said.
        values: the keys of the encoder.
        defaults: transformers' own, for keys that are not there.
    """

    model: str
    values: Values
    defaults: Values

    def __getitem__(self, key: str) -> int:
        value = self.raw(key)
        if type(value) is not int or value < 1:
            raise self.wrong(key, value, "must be a positive integer")
        return value

    def raw(self, key: str) -> Any:
        """A value of any kind."""
        return self.values.get(key, self.defaults.get(key))

    def list(self, key: str, length: int | None = None) -> list[int]:
        """Positive integers, as many as asked for.

        Raises:
            ModelError: they are none, or more or fewer.
        """
        value = self.raw(key)
        valid = isinstance(value, (list, tuple)) and all(type(v) is int and v > 0 for v in value)
        if not valid or not value or length not in (None, len(value)):
            raise self.wrong(key, value, f"must be {length or 'some'} positive integers")
        return list(value)

    def ratio(self, key: str) -> float:
        """A positive number."""
        value = self.raw(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e6:
            raise self.wrong(key, value, "must be a positive number")
        return float(value)

    def wrong(self, key: str, value: Any, needed: str) -> ModelError:
        """The error for a value that no model has."""
        return ModelError([f"--model {self.model}: {key} {needed}, got {value!r}"])


def plain(sizes: Sizes, extra_tokens: int = 1) -> Shape:
    """An encoder whose layers are alike, and whose configuration names all sizes."""
    hidden = sizes["hidden_size"]
    return Shape(
        hidden_size=hidden,
        num_layers=sizes["num_hidden_layers"],
        num_heads=sizes["num_attention_heads"],
        intermediate_size=sizes["intermediate_size"],
        patch_size=sizes["patch_size"],
        extra_tokens=extra_tokens,
        features=hidden,
    )


def with_distillation(sizes: Sizes) -> Shape:
    """A class token and one for distillation (Touvron et al. 2021, arXiv:2012.12877)."""
    return plain(sizes, extra_tokens=2)


def without_class_token(sizes: Sizes) -> Shape:
    """Patches alone."""
    return plain(sizes, extra_tokens=0)


def dinov2(sizes: Sizes) -> Shape:
    """The MLP's size is a ratio; a gated one keeps two thirds, in multiples of 8."""
    hidden, gated = sizes["hidden_size"], bool(sizes.raw("use_swiglu_ffn"))
    inner = int(hidden * sizes.ratio("mlp_ratio"))
    registers = sizes["num_register_tokens"] if sizes.raw("num_register_tokens") else 0
    return Shape(
        hidden_size=hidden,
        num_layers=sizes["num_hidden_layers"],
        num_heads=sizes["num_attention_heads"],
        intermediate_size=(int(inner * 2 / 3) + 7) // 8 * 8 if gated else inner,
        patch_size=sizes["patch_size"],
        extra_tokens=1 + registers,
        gated=gated,
        features=2 * hidden,
    )


def dinov3(sizes: Sizes) -> Shape:
    """The MLP's size is that of its inner side, gated or not.

    All that are published have registers. Without them there would be a weight without an element,
    on which Gemini crashes.
    """
    return replace(
        plain(sizes, extra_tokens=1 + sizes["num_register_tokens"]),
        gated=bool(sizes.raw("use_gated_mlp")),
        features=2 * sizes["hidden_size"],
    )


def swin(sizes: Sizes) -> Shape:
    """Each stage has half the side and twice the channels of the one before."""
    width, depths = sizes["embed_dim"], sizes.list("depths")
    heads = sizes.list("num_heads", len(depths))
    stages = tuple(
        Stage(depth, width * 2**index, heads[index]) for index, depth in enumerate(depths)
    )
    for stage in stages:
        if stage.width % stage.heads:
            needed = f"must divide the {stage.width} channels of its stage"
            raise sizes.wrong("num_heads", stage.heads, needed)
    return Shape(
        hidden_size=width,
        num_layers=sum(depths),
        num_heads=heads[0],
        intermediate_size=int(sizes.ratio("mlp_ratio") * width),
        patch_size=sizes["patch_size"],
        extra_tokens=0,
        features=stages[-1].width,
        window=sizes["window_size"],
        stages=stages,
    )


def convnext(sizes: Sizes) -> Shape:
    """Convolutions; each stage has half the side of the one before."""
    depths = sizes.list("depths", sizes["num_stages"])
    widths = sizes.list("hidden_sizes", len(depths))
    return Shape(
        hidden_size=widths[0],
        num_layers=sum(depths),
        num_heads=1,
        intermediate_size=4 * widths[0],
        patch_size=sizes["patch_size"],
        extra_tokens=0,
        features=widths[-1],
        stages=tuple(Stage(*pair) for pair in zip(depths, widths, strict=True)),
    )
