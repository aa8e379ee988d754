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
    from collections.abc import Iterable, Iterator

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

#: What training wrappers put in front of every name: DistributedDataParallel, DataParallel and
#: averaged models; Lightning modules.
_IN_FRONT = ("module.", "model.")
#: What stands in the middle as well: torch.compile, FullyShardedDataParallel, checkpointing.
_ANYWHERE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


def published(name: str) -> str:
    """A parameter's published name; one that is published already stays as it is."""
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    return name


def named_weights(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """A model's parameters with their published names, in the model's order."""
    for name, parameter in model.named_parameters():
        yield published(name), parameter


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Stored names without what training wrappers added, by the name that is stored.

    Raises:
        ValueError: two of them are then the same.
    """
    stored = list(names)
    plain = [_without(name, _ANYWHERE) for name in stored]
    while prefix := next((p for p in _IN_FRONT if plain and _all_begin(plain, p)), None):
        plain = [name.removeprefix(prefix) for name in plain]
    found: dict[str, str] = {}
    for old, new in zip(stored, plain, strict=True):
        if new in found:
            raise ValueError(f"{found[new]} and {old} are both {new}: keep one of the models")
        found[new] = old
    return {old: new for new, old in found.items()}


def _all_begin(names: list[str], prefix: str) -> bool:
    return all(name.startswith(prefix) for name in names)


def _without(name: str, parts: tuple[str, ...]) -> str:
    for part in parts:
        name = name.replace(part, "")
    return name
