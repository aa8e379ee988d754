"""What the command line of ColossalAI's ViT example says otherwise than ours.

Its spellings (`--tp_size`, `--num_epoch` ...) are aliases of the settings; here is what no alias
can say: a switch that takes True or False, and degrees that the example's script takes and its
plugin ignores (`examples/images/vit/vit_train_demo.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from vit_colossal.config.plugins import ALIASES, BUILT_IN

_SWITCH = "--grad_checkpoint"
#: The degrees of its demo script: a person who gives others has thought of them.
_DEGREES = {"--tp_size": "2", "--pp_size": "2"}


def with_plain_switch(arguments: Sequence[str]) -> list[str]:
    """`--grad_checkpoint True` and `False`, also after `=`, as `--[no-]grad-checkpoint`."""
    found: list[str] = []
    for argument in _split(arguments, (_SWITCH, _SWITCH.replace("_", "-"))):
        if found and found[-1].replace("_", "-") == "--grad-checkpoint":
            if argument.lower() == "true":
                continue
            if argument.lower() == "false":
                found[-1] = "--no-grad-checkpoint"
                continue
        found.append(argument)
    return found


def without_idle_degrees(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """The command line without the demo's degrees where the plugin has none, and a line about it.

    Only the example's own spellings and values count, beside a plugin on the same command line:
    `--tp 2` is refused with such a plugin.
    """
    split = _split(arguments, (*_DEGREES, "--plugin"))
    given = dict(pairwise(split))
    plugin = given.get("--plugin", "")
    facts = BUILT_IN.get(ALIASES.get(plugin, plugin))
    idle = [flag for flag, value in _DEGREES.items() if given.get(flag) == value]
    if facts is None or facts.has_degrees or not idle:
        return list(arguments), None
    for flag in idle:
        at = split.index(flag)
        del split[at : at + 2]
    dropped = " and ".join(f"{flag} {_DEGREES[flag]}" for flag in idle)
    return split, (
        f"{dropped}: left out, as ColossalAI's example does with --plugin {plugin}; "
        "--plugin hybrid has these degrees"
    )


def _split(arguments: Sequence[str], flags: Sequence[str]) -> list[str]:
    """The arguments with `FLAG=value` of these flags as two."""
    found: list[str] = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        found += [flag, value] if equals and flag in flags else [argument]
    return found
