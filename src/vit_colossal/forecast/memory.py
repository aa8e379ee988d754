"""The most memory that a rank will take, by kind, before there is a process group or a weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vit_colossal.config.plugins import facts_of
from vit_colossal.forecast.activations import Activations, activation_bytes, covers
from vit_colossal.forecast.devices import FRAMEWORK
from vit_colossal.forecast.outline import Held, Outline, held_by_stage
from vit_colossal.forecast.state import StateBytes, element_size, state_bytes, zero_stage
from vit_colossal.plan.plan import RunPlan

#: What a rank's memory is made of, by the attributes of ``Memory``; the framework stands apart.
KINDS = ("weights", "gradients", "masters", "moments", "average", "activations", "buffers")
_SINGLE, _HALF = 4, 2
#: Chunks that Gemini has gathered at a time: the one in use, and the next or the one reduced.
_GATHERED_CHUNKS = 2

_MIB = 2**20
#: What libraries take in the first steps, whatever the layout. Fitted on ViT-small, as the next.
_LIBRARIES = 65 * _MIB
#: What glibc keeps of freed tensors for later, in pieces that fit less and less: bytes, and a share
#: of what is counted. Nothing with ``--grad-checkpoint``, see ``runtime.memory``.
_HEAP, _HEAP_SHARE = 85 * _MIB, 0.08
#: The same where gradients come between activations. Fitted on ViT-small with 16 and 48 images and
#: ViT-base with 8 and 24, zero1, zero2 and tp 2.
_SCATTERED_SHARE = 0.21


@dataclass(frozen=True)
class Memory:
    """Bytes of the rank that takes the most.

    A step is at its fullest in one of two moments: where the backward pass begins or ends, or in
    the update, when no activation is left. So the peak is less than the sum of the kinds.

    Attributes:
        weights, gradients, masters, moments, average: its state, see ``StateBytes``.
        activations: kept for the backward pass, with the images and a block's own use.
        buffers: of communication, autocast's copies of weights, temporaries of the update, and on
            a CPU an allowance for the libraries' own and what the heap keeps.
        framework: an allowance for the process itself.
        peak: all that stands at the fullest moment.
        moment: which one that is.
        stage: the rank's pipeline stage.
    """

    weights: int
    gradients: int
    masters: int
    moments: int
    average: int
    activations: int
    buffers: int
    framework: int
    peak: int
    moment: str
    stage: int = 0

    @property
    def growth(self) -> int:
        """The peak without the process itself."""
        return self.peak - self.framework


def predicts(plan: RunPlan) -> bool:
    """Whether the plugin's facts and the model's family say enough."""
    return zero_stage(plan.config) is not None and covers(plan)


def predict(plan: RunPlan, whole: Outline) -> Memory:
    """The rank that takes the most memory.

    Args:
        plan: one that is predicted, see :func:`predicts`.
        whole: its model.
    """
    return max(predict_stages(plan, whole), key=lambda memory: memory.peak)


def predict_stages(plan: RunPlan, whole: Outline) -> list[Memory]:
    """The fullest rank of each pipeline stage."""
    return [_of_stage(plan, whole, stage) for stage in range(plan.dims.pp)]


def _of_stage(plan: RunPlan, whole: Outline, stage: int) -> Memory:
    held = held_by_stage(plan, whole, stage)
    state, activations = state_bytes(plan, held), activation_bytes(plan, whole, stage)
    buffers, update = _backward_buffers(plan, held), _update_buffers(plan, held, state)
    copies = _autocast_copies(plan, held)
    moments = {
        "backward": state.kept + _backward(plan, held, state, activations, buffers) + copies,
        "update": state.kept + state.gradients + update,
    }
    if plan.device.kind == "cpu":  # the model is built whole, in fp32, before it is divided
        moments["start"] = _SINGLE * whole.numel + state.masters
    fullest = max(moments, key=lambda name: moments[name])
    own = _own(plan, moments[fullest])
    framework = FRAMEWORK[plan.device.kind]
    return Memory(
        weights=state.weights,
        gradients=state.gradients,
        masters=state.masters,
        moments=state.moments,
        average=state.average,
        activations=activations.total,
        buffers=max(buffers + copies, update) + own,
        framework=framework,
        peak=moments[fullest] + own + framework,
        moment=fullest,
        stage=stage,
    )


def _own(plan: RunPlan, counted: int) -> int:
    """What comes on top of all that is counted; on CUDA it was not measured."""
    if plan.device.kind != "cpu":
        return 0
    if plan.config.grad_checkpoint:
        return _LIBRARIES
    heap = _HEAP + round(_HEAP_SHARE * counted)
    if _scatters(plan):
        heap = max(heap, round(_SCATTERED_SHARE * counted))
    return _LIBRARIES + heap


def _scatters(plan: RunPlan) -> bool:
    """Whether gradients are new in each step, and take what room the activations left; DDP's stay
    in their buckets, and Gemini's in chunks."""
    zero = zero_stage(plan.config)
    return zero in (1, 2) or (zero == 0 and plan.dims.tp * plan.dims.pp > 1)


def _backward(
    plan: RunPlan,
    held: Sequence[Held],
    state: StateBytes,
    activations: Activations,
    buffers: int,
) -> int:
    """Activations with gradients, at the fullest."""
    if _keeps_gradients(plan):
        return activations.total + state.gradients + buffers
    # Gradients come as activations go. A bucket is full when its share of them is gone.
    trained = sum(each.numel for each in held if each.trained)
    left = 1 - _bucket(plan, held) / max(1, trained)
    sending = round(left * activations.kept) + activations.working + buffers
    return max(activations.total, sending, state.gradients + activations.working)


def _keeps_gradients(plan: RunPlan) -> bool:
    """Whether they are there already when activations are at their fullest.

    DDP's buckets stay from step to step; else those of earlier micro-batches.
    """
    in_buckets = zero_stage(plan.config) == 0 and plan.dims.pp == 1
    return in_buckets or plan.batches.accumulation * plan.batches.num_microbatches > 1


def _bucket(plan: RunPlan, held: Sequence[Held]) -> int:
    """Elements that are sent at once, at the most: a weight is not cut."""
    trained = [each.numel for each in held if each.trained]
    return min(max([plan.bucket_elements, *trained]), sum(trained))


def _backward_buffers(plan: RunPlan, held: Sequence[Held]) -> int:
    """Of communication: ZeRO flattens a bucket of gradients; Gemini gathers chunks."""
    stage, size, dp = zero_stage(plan.config), element_size(plan.config), plan.dims.dp
    bucket = size * _bucket(plan, held)
    if stage == 1:
        return bucket if dp > 1 else 0
    if stage == 2:  # the gradients, one after the other; a rank's sums; gloo's copy
        copies = 2 if plan.device.kind == "cuda" else 3
        return copies * bucket + bucket // dp
    return _GATHERED_CHUNKS * _HALF * state_bytes(plan, held).largest_chunk if stage == 3 else 0


def _autocast_copies(plan: RunPlan, held: Sequence[Held]) -> int:
    """Of weights, which its cache keeps for a forward pass."""
    autocasts = facts_of(plan.config.plugin).autocasts and plan.config.precision != "fp32"
    copies = sum(each.numel for each in held if each.matrix and each.trained)
    return _HALF * copies if autocasts else 0


def _update_buffers(plan: RunPlan, held: Sequence[Held], state: StateBytes) -> int:
    """fp32 copies of 16-bit gradients and a list of temporaries; or what is gathered afterwards."""
    facts, stage, dp = facts_of(plan.config.plugin), zero_stage(plan.config), plan.dims.dp
    size, updated = element_size(plan.config), state.updated
    copies = _SINGLE * updated if size < _SINGLE else 0
    # PyTorch's fused kernel has none; on a CPU, and in SGD, operations run on lists of tensors.
    listed = plan.device.kind == "cpu" or plan.config.optimizer == "sgd"
    temporaries = _SINGLE * updated if listed and not facts.adamw_only else 0
    bucket = min(_bucket(plan, held), updated)
    if stage in (1, 2):
        times = 2 if plan.device.kind == "cpu" and dp > 1 else 1  # gloo makes copies of both
        return max(copies + temporaries, times * size * (dp + 1) * bucket)
    averaged = size * bucket if plan.dims.pp > 1 and dp > 1 else 0
    return max(copies + temporaries, averaged)
