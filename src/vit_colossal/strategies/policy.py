"""How hybrid cuts an encoder: its layers into stages, and each layer's products among the ranks.

Written once, over the names in the table of families. ColossalAI's own policies are one for each
model, for the module names of transformers 4. This one differs in two more points: the classifier
stays whole on every tensor-parallel rank (upstream cuts it by labels, which fails unless their
number can be divided; its example pads the labels and saves the padding), and a stage runs one
forward instead of two nested ones.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from colossalai.pipeline.stage_manager import PipelineStageManager
from colossalai.shardformer.layer import DropoutForReplicatedInput, Linear1D_Col, Linear1D_Row
from colossalai.shardformer.policies.base_policy import (
    ModulePolicyDescription,
    Policy,
    SubModuleReplacementDescription,
)
from transformers import PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from vit_colossal.model.forward import embed, logits_of, through_layers
from vit_colossal.plan.model_spec import ModelSpec


class EncoderPolicy(Policy):
    """The sharding of a plain encoder's classifier; the degrees come from the plugin."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec, self.family = spec, spec.family

    def config_sanity_check(self) -> None:
        """Nothing: what the degrees need of a model is checked before anything starts."""

    def preprocess(self) -> torch.nn.Module:
        return self.model

    def postprocess(self) -> torch.nn.Module:
        return self.model

    def module_policy(self) -> dict[Any, ModulePolicyDescription]:
        """What is replaced in which modules."""
        policy: dict[Any, ModulePolicyDescription] = {}
        encoder = self.family.encoder
        if encoder is None:  # not cut: its plan has no degrees
            return policy
        if self.shard_config.enable_tensor_parallelism:
            # A dropout of what every rank holds whole has to drop the same elements on each.
            dropouts = [_replaced(n, DropoutForReplicatedInput) for n in encoder.dropouts]
            layer = [*dropouts]
            layer += [_replaced(name, Linear1D_Col) for name in encoder.columns]
            layer += [_replaced(name, Linear1D_Row) for name in encoder.rows]
            embeddings, layers = self._module(encoder.embeddings), self._module(self.family.blocks)
            heads = self.spec.shape.num_heads // self.shard_config.tensor_parallel_size
            policy[type(embeddings)] = ModulePolicyDescription(sub_module_replacement=dropouts)
            policy[type(layers[0])] = ModulePolicyDescription(
                attribute_replacement={encoder.heads: heads} if encoder.heads else None,
                sub_module_replacement=layer,
            )
        if self.pipeline_stage_manager is not None:
            start, end = self._layers_held()
            forward = partial(
                stage_forward,
                spec=self.spec,
                stages=self.pipeline_stage_manager,
                start=start,
                end=end,
            )
            policy[type(self.model)] = ModulePolicyDescription(
                method_replacement={"forward": forward}
            )
        return policy

    def get_held_layers(self) -> list[torch.nn.Module]:
        """The modules whose weights this stage keeps."""
        stages, encoder = self.pipeline_stage_manager, self.family.encoder
        assert encoder is not None
        start, end = self._layers_held()
        held: list[torch.nn.Module] = []
        if stages.is_first_stage():
            names = [encoder.embeddings, encoder.before]
            held += [self._module(name) for name in names if name is not None]
        if encoder.rotary is not None:  # it has no weights, and every stage turns by its angles
            held.append(self._module(encoder.rotary))
        held += self._module(self.family.blocks)[start:end]
        if stages.is_last_stage():
            # With what nobody computes with, so that a checkpoint has all of the model.
            idle = [part.rstrip(".") for part in self.family.unused if part.endswith(".")]
            backbone = self.model.get_submodule(self.family.backbone)
            names = [encoder.norm, *(name for name in idle if hasattr(backbone, name))]
            held += [self._module(name) for name in names if name is not None]
            held.append(self.model.get_submodule(self.family.head))
        return held

    def _module(self, name: str) -> Any:
        return self.model.get_submodule(f"{self.family.backbone}.{name}")

    def _layers_held(self) -> tuple[int, int]:
        stages, layers = self.pipeline_stage_manager, self._module(self.family.blocks)
        start, end = stages.get_stage_index(stages.distribute_layers(len(layers)))
        return start, end


def _replaced(name: str, kind: type[torch.nn.Module]) -> SubModuleReplacementDescription:
    """Where a layer has it: a gated MLP and a plain one stand in the same list of names."""
    return SubModuleReplacementDescription(name, kind, ignore_if_not_exist=True)


def stage_forward(
    model: PreTrainedModel,
    pixel_values: torch.Tensor | None = None,
    labels: torch.Tensor | None = None,
    hidden_states: Any = None,
    *,
    spec: ModelSpec,
    stages: PipelineStageManager,
    start: int,
    end: int,
) -> dict[str, torch.Tensor] | ImageClassifierOutput:
    """The part of a classifier's forward that one stage computes.

    Args:
        model: the model, of which this rank holds a stage.
        pixel_values: [b, C, H, W], on the first stage.
        labels: unused here, as the loss is computed from the logits; the schedule hands them over.
        hidden_states: [b, tokens, hidden] from the stage before, on all but the first.
        spec: what it is, whole.
        stages: where this rank stands.
        start: the first layer of this stage.
        end: the first one of the next stage.

    Returns:
        ``hidden_states`` for the next stage; of the last one, the logits [b, labels].
    """
    if pixel_values is not None and stages.is_first_stage():
        hidden_states = embed(model, spec, pixel_values)
    hidden_states = through_layers(model, spec, hidden_states, start, end)
    if not stages.is_last_stage():
        return {"hidden_states": hidden_states}
    return ImageClassifierOutput(logits=logits_of(model, spec, hidden_states))
