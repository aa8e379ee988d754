"""The table of families in docs/models.md is that of the code, under what is let through."""

from __future__ import annotations

from pathlib import Path

import pytest

from vit_colossal.families.refused import REFUSED, type_problem
from vit_colossal.families.table import FAMILIES, family

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
LINES = {
    line.split("|")[2].strip().strip("`"): [cell.strip() for cell in line.split("|")[1:-1]]
    for line in PAGE.splitlines()
    if line.count("|") == 9 and "`" in line.split("|")[2]
}


def test_every_family_has_a_line() -> None:
    assert {key for key in LINES if key != "model_type"} == FAMILIES.keys()


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_line_says_what_runs_and_why_not(model_type: str) -> None:
    row = FAMILIES[model_type]
    title, _, replicated, gemini, hybrid, cut, lora, _ = LINES[model_type]
    assert title == row.title
    assert (replicated, hybrid) == ("yes", "yes")
    assert cut == ("yes" if row.encoder is not None else f"refused: {row.why_whole}")
    assert (row.encoder is None) == bool(row.why_whole)
    assert lora == ("yes, but for `--tp`" if row.encoder is not None else "yes")
    assert row.adapted
    assert (gemini == "yes") != ("convolutions" in row.why_whole)


@pytest.mark.parametrize("model_type", REFUSED)
def test_what_is_refused_is_no_family(model_type: str) -> None:
    assert model_type not in FAMILIES
    assert type_problem({"model_type": model_type}) is not None


def test_a_family_knows_what_lies_below_its_head() -> None:
    row = family("swin")
    assert row.depth_of("swin.embeddings.norm.weight", (2, 3)) == 0
    assert row.depth_of("swin.encoder.layers.0.blocks.1.layernorm_before.bias", (2, 3)) == 2
    assert row.depth_of("swin.encoder.layers.0.downsample.norm.weight", (2, 3)) == 2
    assert row.depth_of("swin.encoder.layers.1.blocks.0.layernorm_before.bias", (2, 3)) == 3
    assert row.depth_of("swin.layernorm.weight", (2, 3)) == 6
    row = family("convnext")
    assert row.depth_of("convnext.encoder.stages.1.downsampling_layer.0.bias", (2, 3)) == 3
    assert family("clip").depth_of("vision_model.pre_layrnorm.weight", (2,)) == 0
    assert family("vit").depth_of("classifier.weight", (12,)) == 13
