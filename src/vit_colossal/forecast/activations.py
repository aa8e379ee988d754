"""Bytes that a forward pass keeps for the backward pass, by formula.

After Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models"
(arXiv:2205.05198, section 4): of a block with n tokens and h channels both norms' inputs and
outputs, queries, keys, values, what attention gives and the two sides of the MLP's function are
kept. Their 34 bytes a token and channel are those of 16 bits with dropout; here nothing is dropped
as a rule, each kind is counted in its own type, and tensor parallelism of degree t divides what
lies between a block's two norms. How many micro-batches a pipeline's stage holds is that of 1F1B
(Narayanan et al. 2021, arXiv:2104.04473, section 2.2).

What it says of the models that transformers builds is compared with what autograd keeps in
``tests/unit/forecast/test_activations.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from vit_colossal.config.plugins import facts_of
from vit_colossal.forecast.outline import Outline, layers_of
from vit_colossal.forecast.state import element_size
from vit_colossal.plan.plan import RunPlan

#: Copies as large as the MLP's inner side that its function keeps, with its result, which the next
#: product keeps. What stands in it twice is one and the same.
_KEPT_BY_FUNCTION = {"quick_gelu": 3, "gelu_new": 5, "relu": 1}
_USUALLY_KEPT = 2
#: A gated MLP keeps both projections, the gate's function and the product.
_KEPT_GATED = 4


@dataclass(frozen=True)
class Activations:
    """Bytes of one rank, at the fullest.

    Attributes:
        inputs: images of one pass, beside what is kept of them.
        kept: for the backward pass, of all micro-batches in flight.
        working: what comes to that in the backward pass of the last block, where most stands.
    """

    inputs: int
    kept: int
    working: int

    @property
    def total(self) -> int:
        return self.inputs + self.kept + self.working


@dataclass(frozen=True)
class _Sizes:
    """Bytes of one number: in products, and between the blocks."""

    product: int
    residual: int

    @property
    def casts(self) -> bool:
        return self.product != self.residual


def covers(plan: RunPlan) -> bool:
    """Whether the formula is that of the model's blocks: a plain encoder's."""
    return plan.spec.family.encoder is not None


def activation_bytes(plan: RunPlan, whole: Outline, stage: int = 0) -> Activations:
    """What a rank of a pipeline stage keeps.

    Args:
        plan: the run; its model is one that the formula covers.
        whole: the model.
        stage: of the pipeline.
    """
    sizes, spec, pp = _sizes(plan), plan.spec, plan.dims.pp
    tokens, hidden = spec.tokens, spec.shape.hidden_size
    pixels = spec.shape.channels * spec.image_size**2
    in_flight = min(pp - stage, plan.batches.num_microbatches) * plan.batches.microbatch
    one = block_bytes(plan, whole) * plan.batches.microbatch
    border = tokens * hidden * sizes.residual
    kept = sum(
        border if plan.config.grad_checkpoint else block_bytes(plan, whole)
        for layer in layers_of(plan, stage)
        if layer >= whole.first_trained
    )
    if stage == 0 and whole.first_trained == 0:  # the gradient of the patches' weights
        kept += pixels * sizes.product
    if stage == pp - 1:  # the last norm's input and output
        kept += tokens * hidden * sizes.product + (0 if whole.head_alone else border)
    inner = tokens * spec.shape.intermediate_size // plan.dims.tp * sizes.product
    # Behind the last block its gradients stand beside what it has kept: of the hidden states, and
    # of the MLP's inner side.
    working = (inner + border) * plan.batches.microbatch
    if plan.config.grad_checkpoint and whole.first_trained < spec.shape.num_layers:
        # Its input is counted, and what the last norm has kept is gone.
        working = one + (inner - 2 * border) * plan.batches.microbatch
    # Bytes as they were decoded; and fp32 as they are normalized, where what is kept is not that: a
    # pipeline normalizes all of its micro-batches at once.
    number = 1 if whole.first_trained == 0 and pp == 1 else 1 + 4
    inputs = number * pixels * plan.batches.forward_batch if stage == 0 else 0
    return Activations(inputs, kept * in_flight, working)


def block_bytes(plan: RunPlan, whole: Outline) -> int:
    """What one block keeps of one image."""
    sizes, shape, tp = _sizes(plan), plan.spec.shape, plan.dims.tp
    tokens, hidden = plan.spec.tokens, shape.hidden_size
    outputs = 2  # of the norms
    if sizes.casts:  # autocast makes a copy for each product
        outputs = 3 + (2 if shape.gated else 1)
    between = 2 * hidden * sizes.residual + outputs * hidden * sizes.product
    statistics = 2 * 2 * sizes.residual
    attended = 4 * hidden * sizes.product // tp
    functions = _KEPT_BY_FUNCTION.get(whole.activation, _USUALLY_KEPT)
    mlp = (
        (_KEPT_GATED if shape.gated else functions) * shape.intermediate_size * sizes.product // tp
    )
    extra = 2 * hidden * sizes.product if plan.spec.family.layer_scale else 0
    if whole.dropout:  # the masks behind attention and MLP, as large as what they mask
        extra += 2 * hidden * sizes.product
    heads = shape.num_heads // tp
    scores = 4 * heads  # fp32, the logarithm of the sum of each row
    if whole.attention_dropout:  # no fused kernel: scores, mask and their product
        scores = 3 * heads * tokens * sizes.product
    return tokens * (between + statistics + attended + mlp + extra + scores)


def _sizes(plan: RunPlan) -> _Sizes:
    if plan.config.precision == "fp32":
        return _Sizes(4, 4)
    return _Sizes(2, 4 if facts_of(plan.config.plugin).autocasts else element_size(plan.config))
