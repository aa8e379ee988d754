"""How hybrid cuts a ViT: its layers into stages, and each layer's products among the ranks.

ColossalAI's own policy is written for the module names of transformers 4 and does not import on
transformers 5. This one differs in two more points: the classifier stays whole on every
tensor-parallel rank (upstream cuts it by labels, which fails unless their number can be divided;
its example pads the labels and saves the padding), and a stage runs one forward instead of two
nested ones.
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
from transformers import ViTForImageClassification
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.models.vit.modeling_vit import ViTEmbeddings, ViTLayer

from vit_colossal.plan.weight_names import COLUMN_PARALLEL, ROW_PARALLEL


class ViTPolicy(Policy):
    """The sharding of ``ViTForImageClassification``; the degrees come from the plugin."""

    def config_sanity_check(self) -> None:
        """Nothing: what the degrees need of a model is checked before anything starts."""

    def preprocess(self) -> torch.nn.Module:
        return self.model

    def postprocess(self) -> torch.nn.Module:
        return self.model

    def module_policy(self) -> dict[Any, ModulePolicyDescription]:
        """What is replaced in which modules."""
        policy: dict[Any, ModulePolicyDescription] = {}
        if self.shard_config.enable_tensor_parallelism:
            # A dropout of what every rank holds whole has to drop the same elements on each.
            dropout = SubModuleReplacementDescription("dropout", DropoutForReplicatedInput)
            replaced = [dropout]
            replaced += [
                SubModuleReplacementDescription(name, Linear1D_Col) for name in COLUMN_PARALLEL
            ]
            replaced += [
                SubModuleReplacementDescription(name, Linear1D_Row) for name in ROW_PARALLEL
            ]
            policy[ViTEmbeddings] = ModulePolicyDescription(sub_module_replacement=[dropout])
            policy[ViTLayer] = ModulePolicyDescription(sub_module_replacement=replaced)
        if self.pipeline_stage_manager is not None:
            start, end = self._layers_held()
            forward = partial(
                stage_forward, stages=self.pipeline_stage_manager, start=start, end=end
            )
            policy[ViTForImageClassification] = ModulePolicyDescription(
                method_replacement={"forward": forward}
            )
        return policy

    def get_held_layers(self) -> list[torch.nn.Module]:
        """The modules whose weights this stage keeps."""
        stages, vit = self.pipeline_stage_manager, self.model.vit
        start, end = self._layers_held()
        held: list[torch.nn.Module] = [vit.embeddings] if stages.is_first_stage() else []
        held += vit.layers[start:end]
        if stages.is_last_stage():
            held += [vit.layernorm, self.model.classifier]
        return held

    def _layers_held(self) -> tuple[int, int]:
        stages = self.pipeline_stage_manager
        start, end = stages.get_stage_index(stages.distribute_layers(len(self.model.vit.layers)))
        return start, end


def stage_forward(
    model: ViTForImageClassification,
    pixel_values: torch.Tensor | None = None,
    labels: torch.Tensor | None = None,
    hidden_states: torch.Tensor | None = None,
    *,
    stages: PipelineStageManager,
    start: int,
    end: int,
) -> dict[str, torch.Tensor] | ImageClassifierOutput:
    """The part of ``ViTForImageClassification.forward`` that one stage computes.

    Args:
        model: the model, of which this rank holds a stage.
        pixel_values: [b, 3, H, W], on the first stage.
        labels: unused here, as the loss is computed from the logits; the schedule hands them over.
        hidden_states: [b, tokens, hidden] from the stage before, on all but the first.
        stages: where this rank stands.
        start: the first encoder layer of this stage.
        end: the first one of the next stage.

    Returns:
        ``hidden_states`` for the next stage; of the last one, the logits [b, labels].
    """
    vit = model.vit
    if pixel_values is not None and stages.is_first_stage():
        weight = vit.embeddings.patch_embeddings.projection.weight
        hidden_states = vit.embeddings(pixel_values.to(weight.dtype))
    for layer in vit.layers[start:end]:
        hidden_states = layer(hidden_states)
    if not stages.is_last_stage():
        return {"hidden_states": hidden_states}
    return ImageClassifierOutput(logits=model.classifier(vit.layernorm(hidden_states)[:, 0, :]))
