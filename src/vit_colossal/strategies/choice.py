"""The strategy of a plugin. How one is added: docs/plugins.md."""

from __future__ import annotations

from inspect import isabstract

from vit_colossal.config.plugins import facts_of, load
from vit_colossal.errors import ConfigError
from vit_colossal.strategies.strategy import Strategy


def strategy_of(plugin: str) -> Strategy:
    """The strategy that the facts of a plugin name.

    Raises:
        ConfigError: it cannot be imported, or is no whole strategy.
    """
    location = facts_of(plugin).strategy
    kind = load(location, f"--plugin {plugin}")
    if not (isinstance(kind, type) and issubclass(kind, Strategy)):
        raise ConfigError([f"--plugin {plugin}: {location} is no subclass of Strategy"])
    if isabstract(kind):
        missing = ", ".join(sorted(kind.__abstractmethods__))
        raise ConfigError([f"--plugin {plugin}: {location} does not define {missing}"])
    return kind()
