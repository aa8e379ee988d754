"""The functions between the two products of an MLP, by transformers' names (``ACT2FN``).

Left out are ``prelu`` and ``xielu``, which have weights of their own: tensor parallelism would
train them apart on each rank.
"""

from __future__ import annotations

from difflib import get_close_matches

from vit_colossal.text import shown

ACTIVATIONS = (
    *("gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python"),
    *("gelu_python_tanh", "gelu_pytorch_tanh", "hardswish", "laplace", "leaky_relu", "linear"),
    *("mish", "quick_gelu", "relu", "relu2", "relu6", "sigmoid", "silu", "sqrtsoftplus", "swish"),
    "tanh",
)


def activation_problem(value: object) -> str:
    """What to take instead of a ``hidden_act`` that no model is built with; empty for others."""
    if value in ACTIVATIONS:
        return ""
    near = get_close_matches(str(value).lower(), ACTIVATIONS) or ACTIVATIONS
    return (
        f"hidden_act is {shown(value)}, no function without weights that transformers has: take "
        f"one of {', '.join(near)}"
    )
