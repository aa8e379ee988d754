"""The two spellings of a ViT's parameters, and the one that every file uses.

transformers 5 renamed the modules (``vit.layers.0.attention.q_proj``), while its files, like those
of all earlier releases, keep the names under which models are published
(``vit.encoder.layer.0.attention.attention.query``). Here every state dict, checkpoint and record
goes by the published names, so that files move between releases; only what touches a module asks
for the module's own.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

#: Module names of transformers 5 and the published ones, as in its own ``conversion_mapping``.
_RENAMED = tuple(
    (re.compile(pattern), published)
    for pattern, published in (
        (r"(^|\.)layers\.(\d+)\.", r"\1encoder.layer.\2."),
        (r"\.attention\.q_proj\.", ".attention.attention.query."),
        (r"\.attention\.k_proj\.", ".attention.attention.key."),
        (r"\.attention\.v_proj\.", ".attention.attention.value."),
        (r"\.attention\.o_proj\.", ".attention.output.dense."),
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
    )
)

#: The modules of a layer whose outputs tensor parallelism cuts, and those whose inputs it cuts
#: (Shoeybi et al. 2019, "Megatron-LM", section 3).
COLUMN_PARALLEL = ("attention.q_proj", "attention.k_proj", "attention.v_proj", "mlp.fc1")
ROW_PARALLEL = ("attention.o_proj", "mlp.fc2")

#: What training wrappers put in front of every name: DistributedDataParallel and DataParallel,
#: torch.compile, Lightning modules.
_WRAPPERS = ("module.", "_orig_mod.", "model.")


def published(name: str) -> str:
    """A parameter's published name; one that is published already stays as it is."""
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    return name


def named_weights(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """A model's parameters with their published names, in the model's order."""
    for name, parameter in model.named_parameters():
        yield published(name), parameter


def wrapper_prefix(names: list[str]) -> str:
    """What training wrappers added in front of all of these names; empty for a plain model."""
    prefix = ""
    while True:
        more = next(
            (w for w in _WRAPPERS if names and all(n.startswith(prefix + w) for n in names)), None
        )
        if more is None:
            return prefix
        prefix += more
