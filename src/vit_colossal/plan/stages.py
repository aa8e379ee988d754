"""How many encoder layers each stage of a pipeline computes."""

from __future__ import annotations

from functools import lru_cache

from vit_colossal.config.train_config import TrainConfig
from vit_colossal.plan.model_spec import ModelSpec
from vit_colossal.text import counted, shown

#: What the embeddings' multiply-adds cost beside a layer's: their input needs no gradient.
#: Measured on ViT-tiny, small and base at 224 px: 0.73 to 0.82 (scripts/stage_cost.py).
_EMBEDDINGS = 0.77
#: The last norm, the classifier and the loss in layers: 0.01 with 10 labels, 0.03 with 1000.
_HEAD = 0.02

_ZERO_BUBBLE = (
    "drops the weight gradients of all but the first micro-batch without apex (upstream's "
    "pipeline/weight_grad_store.py)"
)
#: Why the other schedules of ColossalAI 0.5.0 are not offered, by its names for them and the usual.
_REFUSED = {
    "interleaved": "gains at most 1.06 times at the micro-batches chosen here, and is "
    "not proven equal (docs/strategies.md)",
    "zbv": _ZERO_BUBBLE,
    "zero-bubble": _ZERO_BUBBLE,
}


def layers_of_stages(config: TrainConfig, spec: ModelSpec) -> tuple[int, ...]:
    """What ``--layers-per-stage`` says; else layers in the order of the stages, balanced.

    Args:
        config: validated.
        spec: the model's shape.
    """
    if config.layers_per_stage is not None:
        return tuple(int(count) for count in config.layers_per_stage.split(","))
    return balanced(spec.shape.num_layers, config.pp, embeddings_cost(spec), _HEAD)


@lru_cache(maxsize=1024)
def balanced(num_layers: int, stages: int, embeddings: float, head: float) -> tuple[int, ...]:
    """The counts whose slowest stage is fastest: each layer goes to whoever has least to do.

    Args:
        num_layers: of the encoder, at least one for each stage.
        stages: of the pipeline.
        embeddings: what the first stage computes besides, in layers.
        head: what the last one does.
    """
    counts = [1] * stages
    for _ in range(num_layers - stages):
        costs = [float(count) for count in counts]
        costs[0] += embeddings
        costs[-1] += head
        counts[costs.index(min(costs))] += 1
    return tuple(counts)


def embeddings_cost(spec: ModelSpec) -> float:
    """What the embeddings cost forward and backward, in layers of the encoder."""
    shape, tokens = spec.shape, spec.tokens
    hidden, mlp = shape.hidden_size, (3 if shape.gated else 2) * shape.intermediate_size
    patches = (tokens - shape.extra_tokens) * shape.patch_values * hidden
    products = tokens * (4 * hidden * hidden + hidden * mlp)
    return _EMBEDDINGS * patches / (products + 2 * tokens * tokens * hidden)


def stage_problems(config: TrainConfig, spec: ModelSpec) -> list[str]:
    """Stages that the model does not have, and schedules that are not offered."""
    problems, given = [], config.layers_per_stage
    if config.pp_style != "1f1b":
        reason = _REFUSED.get(config.pp_style, "is none that ColossalAI has")
        problems.append(f"--pp-style {shown(config.pp_style)} {reason}: use 1f1b")
    if given is None:
        return problems
    counts = [int(count) for count in given.split(",")]
    if config.pp == 1:
        problems.append(f"--layers-per-stage {given} needs a pipeline: use --pp {len(counts)}")
    elif len(counts) != config.pp:
        problems.append(
            f"--layers-per-stage {given} names {counted(len(counts), 'stage', 'stages')}, --pp "
            f"{config.pp} has {config.pp}: give a number for each"
        )
    if sum(counts) != spec.shape.num_layers or min(counts) < 1:
        problems.append(
            f"--layers-per-stage {given}: {spec.name} has {spec.shape.num_layers} encoder "
            "layers, and each stage needs one or more"
        )
    return problems
