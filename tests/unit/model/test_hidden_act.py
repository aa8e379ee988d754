"""The functions of an MLP that a configuration may name."""

from __future__ import annotations

from transformers.activations import ACT2FN

from vit_colossal.families.activations import ACTIVATIONS


def test_every_function_without_weights_is_known() -> None:
    """``prelu`` and ``xielu`` learn; the second would import what nobody asked for."""
    assert set(ACTIVATIONS) == set(ACT2FN) - {"prelu", "xielu"}
    assert not any(list(ACT2FN[name].parameters()) for name in ACTIVATIONS)
