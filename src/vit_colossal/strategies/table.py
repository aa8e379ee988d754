"""The strategy of each plugin's name."""

from __future__ import annotations

from vit_colossal.strategies.ddp import DDP
from vit_colossal.strategies.gemini import Gemini
from vit_colossal.strategies.hybrid import Hybrid
from vit_colossal.strategies.strategy import Strategy
from vit_colossal.strategies.zero import Zero

STRATEGIES: dict[str, Strategy] = {
    "ddp": DDP(),
    "zero1": Zero(stage=1),
    "zero2": Zero(stage=2),
    "gemini": Gemini(),
    "hybrid": Hybrid(),
}
