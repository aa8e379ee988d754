"""What is known of each plugin before any framework is imported.

Validation, layouts, parity and bench read these facts; how a plugin trains stands in
``strategies``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PluginFacts:
    """What a configuration may ask of a plugin.

    Attributes:
        has_degrees: ``--tp``, ``--pp`` and ``--zero`` take effect.
        refuses_fp32: it keeps 16-bit weights only.
        autocasts: 16 bits are autocast over fp32 weights, not 16-bit weights with fp32 masters.
        compiles: its layers can be compiled.
    """

    has_degrees: bool = False
    refuses_fp32: bool = False
    autocasts: bool = False
    compiles: bool = True


FACTS = {
    "ddp": PluginFacts(autocasts=True),
    "zero1": PluginFacts(),
    "zero2": PluginFacts(),
    # It replaces what would be compiled.
    "gemini": PluginFacts(refuses_fp32=True, compiles=False),
    "hybrid": PluginFacts(has_degrees=True),
}
DEFAULT_PLUGIN = "ddp"
#: For degrees that the others do not have.
PLUGIN_WITH_DEGREES = next(name for name, facts in FACTS.items() if facts.has_degrees)

#: Names that ColossalAI's own examples use for the same strategies.
ALIASES = {
    "torch_ddp": "ddp",
    "torch_ddp_fp16": "ddp",
    "low_level_zero": "zero1",
    "hybrid_parallel": "hybrid",
}
