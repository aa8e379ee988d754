"""How ColossalAI divides layers among the stages of a pipeline."""

from __future__ import annotations


def test_colossalai_gives_every_stage_a_layer_and_so_both_parameter_groups() -> None:
    from colossalai.pipeline.stage_manager import PipelineStageManager

    for pp in range(1, 9):
        manager = object.__new__(PipelineStageManager)
        manager.num_layers_per_stage, manager.is_interleave = None, False
        manager.num_model_chunks = 1
        for num_layers in range(pp, 40):
            layers = manager.distribute_layers(num_layers, num_stages=pp)
            assert sum(layers) == num_layers and len(layers) == pp
            assert min(layers) >= 1 and max(layers) - min(layers) <= 1
