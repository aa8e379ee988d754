"""What is known of each plugin before any framework is imported.

Validation, layouts, parity and bench read these facts; how a plugin trains stands in the strategy
that they name. Plugins of other distributions are found by their entry points; docs/plugins.md
shows how to write one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Literal

from vit_colossal.errors import ConfigError
from vit_colossal.text import did_you_mean, shown

#: The entry points by which other distributions offer plugins.
GROUP = "vit_colossal.plugins"
#: The version of the facts and of `strategies.strategy.Strategy`. It is raised whenever a plugin
#: written for an older one would go wrong.
INTERFACE = 1


@dataclass(frozen=True, kw_only=True)
class PluginFacts:
    """What a configuration may ask of a plugin, and where its strategy stands.

    Attributes:
        strategy: ``package.module:Class``, imported only to train or to evaluate with it.
        interface: that it was written for.
        has_degrees: ``--tp``, ``--pp`` and ``--zero`` take effect.
        refuses_fp32: it keeps 16-bit weights only.
        autocasts: 16 bits are autocast over fp32 weights, not 16-bit weights with fp32 masters.
        compiles: its layers can be compiled.
        frees_weights: it takes weights away between the forward and the backward pass.
        adamw_only: it updates with an optimizer of its own, which is AdamW.
        zero_stage: what its replicas divide, by ZeRO's stages (Rajbhandari et al. 2020): 0 nothing,
            1 masters and moments, 2 the gradients too, 3 the weights too, in chunks. With degrees
            it is what ``--zero`` says. None: it is not told, and no memory is predicted.
    """

    strategy: str
    interface: int = INTERFACE
    has_degrees: bool = False
    refuses_fp32: bool = False
    autocasts: bool = False
    compiles: bool = True
    frees_weights: bool = False
    adamw_only: bool = False
    zero_stage: Literal[0, 1, 2, 3] | None = None


_ROOM = "vit_colossal.strategies"
BUILT_IN = {
    "ddp": PluginFacts(strategy=f"{_ROOM}.ddp:DDP", autocasts=True, zero_stage=0),
    "zero1": PluginFacts(strategy=f"{_ROOM}.zero:Zero1", zero_stage=1),
    "zero2": PluginFacts(strategy=f"{_ROOM}.zero:Zero2", zero_stage=2),
    # Gemini replaces the parameters that compiled code would read.
    "gemini": PluginFacts(
        strategy=f"{_ROOM}.gemini:Gemini",
        refuses_fp32=True,
        compiles=False,
        frees_weights=True,
        adamw_only=True,
        zero_stage=3,
    ),
    "hybrid": PluginFacts(strategy=f"{_ROOM}.hybrid:Hybrid", has_degrees=True, zero_stage=0),
}
DEFAULT_PLUGIN = "ddp"
#: Stands for the one that is chosen before a run begins.
AUTO = "auto"
#: For degrees that the others do not have.
PLUGIN_WITH_DEGREES = next(name for name, facts in BUILT_IN.items() if facts.has_degrees)

#: Names that ColossalAI's own examples use for the same strategies.
ALIASES = {
    "torch_ddp": "ddp",
    "torch_ddp_fp16": "ddp",
    "low_level_zero": "zero1",
    "hybrid_parallel": "hybrid",
}

_LOCATION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_location(name: str) -> bool:
    """Whether a plugin is named by where its facts stand: ``package.module:NAME``."""
    return _LOCATION.fullmatch(name) is not None


def plugin_names() -> list[str]:
    """All that can be named, from the metadata of what is installed; no plugin is imported."""
    return [*BUILT_IN, *sorted({entry.name for entry in _offered()} - BUILT_IN.keys())]


def name_problem(name: str) -> str | None:
    """What is wrong with the name of a plugin; None for one that is installed, or upstream's."""
    names = plugin_names()
    if ALIASES.get(name, name) in names:
        return None
    return f"--plugin {shown(name)}: not one of {', '.join(names)}{did_you_mean(name, names)}"


@cache
def facts_of(name: str) -> PluginFacts:
    """The facts of a plugin; those of another distribution are imported for it.

    Args:
        name: one of :func:`plugin_names`, or a location, which must come from a person: what it
            names is run.

    Raises:
        ConfigError: there is none of this name, or it cannot be used.
    """
    offers = [entry for entry in _offered() if entry.name == name]
    if name in BUILT_IN and offers:
        raise ConfigError(
            [f"--plugin {name}: {_origin(offers[0])} offers one of this name too: uninstall it"]
        )
    if name in BUILT_IN:
        return BUILT_IN[name]
    if len(offers) > 1:
        both = " and ".join(map(_origin, offers))
        raise ConfigError([f"--plugin {name}: offered by {both}: uninstall one"])
    location = offers[0].value if offers else name
    if not is_location(location):
        raise ConfigError([name_problem(name) or f"--plugin {name}: {location!r} is no location"])
    found = load(location, f"--plugin {name}")
    if not isinstance(found, PluginFacts):
        kind = type(found).__name__
        raise ConfigError([f"--plugin {name}: {location} is of type {kind}, not PluginFacts"])
    if found.interface != INTERFACE:
        raise ConfigError(
            [
                f"--plugin {name}: written for interface {found.interface} of vit_colossal, this "
                f"is {INTERFACE}: install a release of the plugin that fits"
            ]
        )
    return found


def load(location: str, subject: str) -> object:
    """What stands at ``package.module:NAME``.

    Args:
        location: where.
        subject: what an error begins with.

    Raises:
        ConfigError: the module cannot be imported or does not have it.
    """
    module, _, attribute = location.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except Exception as error:  # whatever a module of other people raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError([f"{subject}: {location} cannot be imported ({reason})"]) from error


@cache  # reading the metadata of all that is installed takes 10 ms
def _offered() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=GROUP))


def _origin(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value
