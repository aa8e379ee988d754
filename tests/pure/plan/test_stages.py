"""Layers of the stages: as given, or so that the slowest stage is fastest."""

from __future__ import annotations

from itertools import product

import pytest

from vit_colossal import TrainConfig
from vit_colossal.plan.model_spec import read_spec
from vit_colossal.plan.stages import balanced, embeddings_cost, layers_of_stages


@pytest.mark.parametrize("embeddings", [0.0, 0.2, 0.9, 1.7])
@pytest.mark.parametrize("head", [0.0, 0.1, 1.3])
def test_no_other_counts_have_a_faster_slowest_stage(embeddings: float, head: float) -> None:
    def slowest(counts: tuple[int, ...]) -> float:
        return max(counts[0] + embeddings, *counts[1:-1], counts[-1] + head)

    for layers, stages in ((2, 2), (3, 2), (7, 2), (8, 3), (7, 4), (5, 4)):
        found = balanced(layers, stages, embeddings, head)
        others = [c for c in product(range(1, layers), repeat=stages) if sum(c) == layers]
        # With a layer of its own, each stage has parameters of both groups, decayed or not.
        assert sum(found) == layers and min(found) >= 1
        assert slowest(found) == min(map(slowest, others))


def test_the_stage_with_the_embeddings_gets_no_layer_more_than_others() -> None:
    spec = read_spec("vit-tiny", {})
    counts = {pp: layers_of_stages(TrainConfig(pp=pp), spec) for pp in (1, 2, 5)}
    assert counts == {1: (12,), 2: (6, 6), 5: (2, 3, 3, 2, 2)}
    assert layers_of_stages(TrainConfig(pp=2, layers_per_stage="5,7"), spec) == (5, 7)


def test_embeddings_cost_what_was_measured() -> None:
    for name, measured in (("vit-tiny", 0.22), ("vit-small", 0.11), ("vit-base", 0.066)):
        assert embeddings_cost(read_spec(name, {})) == pytest.approx(measured, abs=0.02)
