"""The weights that each rank of a layout holds, from a model that has no memory."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

from vit_colossal.families.family import Family
from vit_colossal.model.adapters import adapt
from vit_colossal.model.configuration import blueprint
from vit_colossal.model.optim import freeze
from vit_colossal.plan.plan import RunPlan


@dataclass(frozen=True)
class Weight:
    """One parameter of a model, whole.

    Attributes:
        name: its module's name for it.
        shape: its sizes.
        trained: it gets a gradient.
        block: the number of the block of a plain encoder that it is in.
        cut: tensor parallelism divides it.
        before: it is used before the first block.
    """

    name: str
    shape: tuple[int, ...]
    trained: bool
    block: int | None = None
    cut: bool = False
    before: bool = False

    @property
    def numel(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True)
class Held:
    """What one rank has of a parameter.

    Attributes:
        numel: elements, of its tensor-parallel slice where it is cut.
        trained: it gets a gradient.
        matrix: it is the factor of a product, of which autocast makes a copy.
    """

    numel: int
    trained: bool
    matrix: bool


@dataclass(frozen=True, eq=False)
class Outline:
    """What memory depends on beside the sizes in ``ModelSpec``.

    Attributes:
        weights: in the model's order.
        activation: transformers' name of the MLP's function.
        dropout, attention_dropout: shares that are dropped.
        first_trained: the first block with a trained weight; as many as there are blocks if none.
        head_alone: nothing else is trained.
    """

    weights: tuple[Weight, ...] = field(repr=False)
    activation: str
    dropout: float
    attention_dropout: float
    first_trained: int
    head_alone: bool

    @property
    def numel(self) -> int:
        return sum(weight.numel for weight in self.weights)


def outline(plan: RunPlan, num_labels: int) -> Outline:
    """Build the model of a plan without its weights, and freeze what the plan freezes.

    Args:
        plan: the run.
        num_labels: of the head.

    Raises:
        ModelError: transformers cannot build it.
    """
    spec, row = plan.spec, plan.spec.family
    model = adapt(blueprint(spec, spec.embedded_size, num_labels), spec, plan.config)
    freeze(model, spec, plan.config)
    config = getattr(model.config, row.nested) if row.nested else model.config
    named = list(model.named_parameters())
    trained = [row.published(name) for name, p in named if p.requires_grad]
    depths = [row.depth_of(name, spec.shape.depths) for name in trained]
    return Outline(
        weights=tuple(_weight(row, name, tuple(p.shape), p.requires_grad) for name, p in named),
        activation=str(getattr(config, "hidden_act", "gelu")),
        dropout=_share(config, "hidden_dropout_prob", "dropout"),
        attention_dropout=_share(config, "attention_probs_dropout_prob", "attention_dropout"),
        # The embeddings are depth 0, the first block 1.
        first_trained=max(0, min(depths, default=spec.shape.num_layers + 1) - 1),
        head_alone=all(row.is_head(name) for name in trained),
    )


def held_by_stage(plan: RunPlan, whole: Outline, stage: int) -> tuple[Held, ...]:
    """What a rank of a pipeline stage holds, in the model's order; of one stage all."""
    return _held(whole, plan.dims.tp, plan.stages if plan.dims.pp > 1 else (), stage)


@lru_cache(maxsize=1024)
def _held(whole: Outline, tp: int, stages: tuple[int, ...], stage: int) -> tuple[Held, ...]:
    start = sum(stages[:stage])
    blocks = range(start, start + stages[stage]) if stages else None
    return tuple(
        Held(each.numel // (tp if each.cut else 1), each.trained, _is_matrix(each))
        for each in whole.weights
        if blocks is None or _on_stage(each, blocks, stage, len(stages) - 1)
    )


def layers_of(plan: RunPlan, stage: int) -> range:
    """The numbers of a stage's blocks."""
    if plan.dims.pp == 1:
        return range(plan.spec.shape.num_layers)
    start = sum(plan.stages[:stage])
    return range(start, start + plan.stages[stage])


def _on_stage(weight: Weight, blocks: range, stage: int, last: int) -> bool:
    """As ``strategies.policy`` deals the modules out."""
    if weight.block is not None:
        return weight.block in blocks
    return stage == (0 if weight.before else last)


def _weight(row: Family, name: str, shape: tuple[int, ...], trained: bool) -> Weight:
    """Where it stands, by the names of its family's modules."""
    encoder, inner = row.encoder, name.removeprefix(f"{row.backbone}.")
    if encoder is None:
        return Weight(name, shape, trained)
    found = re.match(rf"{re.escape(row.blocks)}\.(\d+)\.", inner)
    if found is None:
        first = [f"{each}." for each in (encoder.embeddings, encoder.before) if each is not None]
        return Weight(name, shape, trained, before=inner.startswith(tuple(first)))
    module, _, kind = name.rpartition(".")
    # A row-parallel layer's bias is whole.
    names = (*encoder.columns, *(encoder.rows if kind == "weight" else ()))
    cut = module.endswith(tuple(f".{each}" for each in names))
    return Weight(name, shape, trained, int(found[1]), cut)


def _is_matrix(weight: Weight) -> bool:
    return weight.name.endswith(".weight") and len(weight.shape) > 1


def _share(config: object, *names: str) -> float:
    return next((float(getattr(config, n)) for n in names if hasattr(config, n)), 0.0)
