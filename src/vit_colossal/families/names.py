"""The two spellings of a model's parameters, and the one that every file uses.

transformers 5 renamed the modules (``vit.layers.0.attention.q_proj``), while its files, like those
of all earlier releases, keep the names under which models are published
(``vit.encoder.layer.0.attention.attention.query``). Here every state dict, checkpoint and record
goes by the published names, so that files move between releases; only what touches a module asks
for the module's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vit_colossal.families.table import family

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch

    from vit_colossal.families.family import Family

#: What training wrappers put in front of every name: DistributedDataParallel, DataParallel and
#: averaged models; Lightning modules.
_IN_FRONT = ("module.", "model.")
#: What stands in the middle as well: torch.compile, FullyShardedDataParallel, checkpointing.
_ANYWHERE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


def family_of(model: torch.nn.Module) -> Family:
    """The family of a model of transformers."""
    return family(str(model.config.model_type))  # type: ignore[union-attr]


def named_weights(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """A model's parameters with their published names, in the model's order."""
    row = family_of(model)
    for name, parameter in model.named_parameters():
        yield row.published(name), parameter


def in_files(row: Family, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights by published name as files keep them: those that are one there are put together."""
    import torch

    found = dict(weights)
    for fused, parts in row.fused.items():
        for first in [name for name in weights if f".{parts[0]}." in name]:
            names = [first.replace(parts[0], part) for part in parts]
            whole = torch.cat([found.pop(name) for name in names])
            found[first.replace(parts[0], fused)] = whole
    return found


def split_shapes(row: Family, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The shapes in a file, with those of the parts in place of what files keep as one."""
    found = dict(shapes)
    for fused, parts in row.fused.items():
        for name in [name for name in shapes if f".{fused}." in name]:
            rows, *rest = found.pop(name)
            for part in parts:
                found[name.replace(fused, part)] = (rows // len(parts), *rest)
    return found


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
