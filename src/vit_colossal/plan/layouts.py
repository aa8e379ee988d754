"""Which strategies fit a number of processes: what parity and bench run side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vit_colossal.config.plugins import facts_of, plugin_names
from vit_colossal.errors import ConfigError
from vit_colossal.plan.model_spec import ModelSpec


@dataclass(frozen=True)
class Layout:
    """A strategy, its degrees and its precision.

    Attributes:
        name: as tables show it and ``--layouts`` selects it, without the precision.
        flags: the configuration fields that make it.
        processes: how many processes run it.
    """

    name: str
    flags: dict[str, Any]
    processes: int

    @property
    def precision(self) -> str:
        return str(self.flags["precision"])

    def __str__(self) -> str:
        return f"{self.name} {self.precision}"


#: By which of the plugins the plain loop is set up: for 16 bits by autocast, or for 16-bit weights
#: with fp32 masters.
AUTOCAST, MASTERS = "ddp", "zero1"

#: Plugins whose layouts need more than their name.
_LAST = ("gemini", "hybrid")

#: Chunks this small make Gemini really shard a small model, as its defaults do a large one.
SMALL_CHUNKS = {
    "gemini_min_chunk_m": 0.03,
    "gemini_search_range_m": 0.05,
    "gemini_hidden_dim": 64,
}


def fitting_layouts(processes: int, spec: ModelSpec) -> list[Layout]:
    """Every layout of ``processes`` processes that the model allows, fp32 where there is one."""
    layouts = []
    for plugin in plugin_names():
        if plugin not in _LAST:
            for precision in ("bf16",) if facts_of(plugin).refuses_fp32 else ("fp32", "bf16"):
                flags = {"plugin": plugin, "precision": precision}
                layouts.append(Layout(plugin, flags, processes))
    gemini = {"plugin": "gemini", "precision": "bf16", **SMALL_CHUNKS}
    if spec.shape.attends:
        layouts.append(Layout("gemini", gemini, processes))
    for tp, pp in _degrees(processes, spec):
        dp = processes // (tp * pp)
        name = _hybrid_name(dp, pp, tp)
        base = {"plugin": "hybrid", "tp": tp, "pp": pp}
        layouts.append(Layout(name, {**base, "precision": "fp32"}, processes))
        layouts.append(Layout(name, {**base, "precision": "bf16"}, processes))
        if dp > 1:
            zero = {**base, "zero": 1, "precision": "bf16"}
            layouts.append(Layout(f"{name}+zero1", zero, processes))
    return layouts


def select(layouts: list[Layout], wanted: str, precision: str | None) -> list[Layout]:
    """Those that were asked for.

    Args:
        layouts: that fit.
        wanted: names with commas between them, or ``all``.
        precision: in which they compute; None is any.

    Raises:
        ConfigError: a name that none of them has.
    """
    layouts = [layout for layout in layouts if precision in (None, layout.precision)]
    if wanted == "all":
        return layouts
    names = {name.strip() for name in wanted.split(",")}
    known = {layout.name for layout in layouts}
    if unknown := sorted(names - known):
        fitting = ", ".join(sorted(known))
        raise ConfigError([f"--layouts {name}: not one of {fitting}" for name in unknown])
    return [layout for layout in layouts if layout.name in names]


def _degrees(processes: int, spec: ModelSpec) -> list[tuple[int, int]]:
    """(tp, pp) pairs that divide the processes, the heads and the layers."""
    sizes = [n for n in range(1, processes + 1) if processes % n == 0]
    if spec.family.encoder is None:
        return [(1, 1)]
    return [
        (tp, pp)
        for tp in sizes
        for pp in sizes
        if processes % (tp * pp) == 0
        and spec.shape.num_heads % tp == 0
        and spec.shape.intermediate_size % tp == 0
        and spec.shape.num_layers >= pp
    ]


def _hybrid_name(dp: int, pp: int, tp: int) -> str:
    degrees = [f"{kind}{n}" for kind, n in (("tp", tp), ("pp", pp), ("dp", dp)) if n > 1]
    return "hybrid " + "x".join(degrees or ["dp1"])
