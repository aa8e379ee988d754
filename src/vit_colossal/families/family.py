"""What a row of the table says of a family of models."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from vit_colossal.families.shapes import Shape, Sizes, Values, plain


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A plain encoder by the names of its modules: what pipelines and tensor parallelism cut.

    Layers are called with the hidden states and no mask. Names are those in the backbone, or in a
    layer of it.

    Attributes:
        embeddings: makes hidden states of pixels.
        before: a norm between the embeddings and the layers.
        norm: the last norm; None where the classifier reads the last layer's output.
        columns: modules of a layer whose outputs tensor parallelism cuts (Shoeybi et al. 2019,
            "Megatron-LM", section 3).
        rows: modules of a layer whose inputs it cuts.
        dropouts: in the embeddings and in a layer, of what every tensor-parallel rank holds whole.
        pooling: what the classifier reads: the first token, the mean of all or of the patches, or
            the first token beside the mean of the patches.
        rotary: makes, of images of a size, the angles by which each layer turns queries and keys
            (Su et al. 2021, "RoFormer", arXiv:2104.09864); None where positions are embedded.
        heads: how a layer remembers its number of heads, where it does not see it in their sizes.
    """

    embeddings: str = "embeddings"
    before: str | None = None
    norm: str | None
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    dropouts: tuple[str, ...] = ()
    pooling: Literal["first", "mean", "patches", "first and patches"]
    rotary: str | None = None
    heads: str | None = None


@dataclass(frozen=True, kw_only=True)
class Family:
    """One row of the table: what is special about a ``model_type`` of transformers.

    Attributes:
        title: its name in messages and documents.
        classifier: the class that ``AutoModelForImageClassification`` builds.
        module: where that class is: of a family without one, this project's own.
        backbone: the classifier's module that holds all but the head.
        flops: multiply-adds of a forward pass, by shape, image size and labels.
        measure: reads the shape.
        defaults: transformers' own for keys that a configuration may leave out.
        nested: the key of the configuration under which the encoder's keys stand.
        renamed: patterns of module names and how files write them, in the order of application.
        fused: weights that files keep as one, by its name: those that it is made of, in order.
        blocks: the list of blocks, by its name in the backbone; of a hierarchical model the list of
            stages, a star, and the list in a stage.
        layer: pattern of a block's published name: its number, or stage and number in it.
        first_in_block: the published name of a weight in each block, to show in messages.
        between: pattern of what joins a stage to its neighbour, and whether it comes after it.
        stem: what of the backbone, beside ``embeddings``, comes before the first block.
        unused: published names, or their beginnings, of what the classifier does not read: no
            gradient comes there.
        key_bias: how the name of a key's bias ends. Softmax ignores a constant added to all keys'
            scores, so its true gradient is zero. None where there is no such bias.
        positions: published name of position embeddings that are interpolated once, at loading;
            None where there are none, or where the model interpolates by itself.
        sizes: which image sizes it takes: others where its position embeddings are interpolated at
            loading; others, as it interpolates them in each forward pass; any; or only its own.
        whole_windows: its last stage has to be as large as a window.
        drop_path: its configuration has a rate of dropped residual paths, and its default.
        switched_off: keys of the configuration by which each process would draw something of its
            own in training: they are set to None.
        layer_scale: each residual path is multiplied by learned factors (Touvron et al. 2021,
            arXiv:2103.17239), for whose gradients its value is kept.
        averages_slices: its class refuses ``num_items_in_batch``, so that Trainer averages over the
            batches of an update, be one of them short; else every image counts alike.
        checkpoints_layers: its layers' activations can be computed again.
        encoder: what pipelines and tensor parallelism cut; None where they cannot.
        linear: where there is no ``encoder``, the linear layers of a block.
        why_whole: the reason, if ``encoder`` is None.
    """

    title: str
    classifier: str
    module: str = "transformers"
    backbone: str
    flops: Callable[[Shape, int, int], int]
    measure: Callable[[Sizes], Shape] = plain
    defaults: Values = field(default_factory=dict)
    nested: str | None = None
    renamed: tuple[tuple[str, str], ...] = ()
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    blocks: str
    layer: str
    first_in_block: str
    between: tuple[str, bool] | None = None
    stem: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    key_bias: str | None = None
    positions: str | None = None
    sizes: Literal["interpolated", "interpolates", "any", "own"] = "interpolated"
    whole_windows: bool = False
    drop_path: float | None = None
    switched_off: tuple[str, ...] = ()
    layer_scale: bool = False
    averages_slices: bool = False
    checkpoints_layers: bool = True
    encoder: Encoder | None = None
    linear: tuple[str, ...] = ()
    why_whole: str = ""

    #: The module that becomes new for other labels, in all families.
    head = "classifier"

    @property
    def in_transformers(self) -> bool:
        """Whether transformers builds the classifier, or the backbone alone."""
        return self.module == "transformers"

    def encoder_values(self, values: Values) -> Values:
        """The part of a configuration that has the encoder's keys."""
        if not self.nested:
            return values
        # The first CLIP models have all twice, and transformers takes the keys of this spelling.
        older = values.get(f"{self.nested}_dict")
        found = older if isinstance(older, Mapping) else values.get(self.nested)
        return found if isinstance(found, Mapping) else {}

    def with_values(self, values: Values, changes: Values) -> dict[str, Any]:
        """A configuration with other keys of the encoder."""
        if not self.nested:
            return {**values, **changes}
        others = {key: value for key, value in values.items() if key != f"{self.nested}_dict"}
        return {**others, self.nested: {**self.encoder_values(values), **changes}}

    def shape_of(self, model: str, values: Values) -> Shape:
        """The sizes in a configuration.

        Args:
            model: what ``--model`` said.
            values: the whole configuration.

        Raises:
            ModelError: a size is none.
        """
        sizes = Sizes(model, self.encoder_values(values), {"num_channels": 3, **self.defaults})
        return replace(self.measure(sizes), channels=sizes["num_channels"])

    def image_size_of(self, model: str, values: Values) -> int:
        """The side of the images that a model's weights are for, in pixels.

        Raises:
            ModelError: it is no size.
        """
        return Sizes(model, self.encoder_values(values), self.defaults)["image_size"]

    @property
    def adapted(self) -> tuple[str, ...]:
        """The linear layers of a block, beside which adapters stand."""
        encoder = self.encoder
        return self.linear if encoder is None else (*encoder.columns, *encoder.rows)

    @cached_property
    def _patterns(self) -> tuple[tuple[re.Pattern[str], str], ...]:
        return tuple((re.compile(pattern), written) for pattern, written in self.renamed)

    def published(self, name: str) -> str:
        """A parameter's published name; one that is published already stays as it is."""
        for pattern, written in self._patterns:
            name = pattern.sub(written, name)
        return name

    def is_head(self, name: str) -> bool:
        """Whether a parameter is the classifier's."""
        return name.startswith(f"{self.head}.")

    def is_unused(self, name: str) -> bool:
        """Whether the classifier computes nothing with a parameter."""
        return name.removeprefix(f"{self.backbone}.").startswith(self.unused)

    def depth_of(self, name: str, depths: tuple[int, ...]) -> int:
        """Where a parameter stands: 0 in the embeddings, i + 1 in block i, then the rest.

        Args:
            name: its published name.
            depths: blocks of each stage.
        """
        inner = name.removeprefix(f"{self.backbone}.")
        if inner.startswith(("embeddings.", *self.stem)):
            return 0
        found = re.match(self.layer, inner)
        if found is not None:
            *stage, block = map(int, found.groups())
            return sum(depths[: stage[0]] if stage else ()) + block + 1
        if self.between is not None and (joint := re.match(self.between[0], inner)):
            before, after = sum(depths[: int(joint[1])]), sum(depths[: int(joint[1]) + 1])
            return after if self.between[1] else before + 1
        return sum(depths) + 1
