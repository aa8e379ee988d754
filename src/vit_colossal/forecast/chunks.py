"""How Gemini lays weights out in chunks, counted without building any.

By ColossalAI 0.5.0: ``zero/gemini/chunk/search_utils.py`` chooses the size, ``manager.py`` fills
one chunk after the other. All weights take part in the choice, the trained ones are laid out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, pstdev

import numpy as np

from vit_colossal.config.train_config import TrainConfig
from vit_colossal.forecast.outline import Held

_MEGA = 2**20
#: Upstream's step of the search where no hidden size is given.
_STEP = 1024


@dataclass(frozen=True)
class Chunk:
    """Elements of a chunk, how many of them are used, and whether every replica has all of it."""

    size: int
    used: int
    whole: bool

    def on_rank(self, index: int, replicas: int) -> tuple[int, int]:
        """Elements that one replica keeps, and how many of them are used."""
        if self.whole:
            return self.size, self.used
        share = self.size // replicas
        return share, max(0, min(share, self.used - index * share))


def chunks_of(held: Sequence[Held], config: TrainConfig, replicas: int) -> list[Chunk]:
    """The chunks of a model.

    Args:
        held: all parameters, in the model's order.
        config: with Gemini's settings.
        replicas: that divide them.
    """
    sizes = [each.numel for each in held]
    whole = sum(sizes) < round(config.gemini_min_chunk_m * _MEGA)
    size = sum(sizes) if whole else _best_size(sizes, config, replicas)
    found: list[Chunk] = []
    for numel in (each.numel for each in held if each.trained):
        last = found[-1] if found else None
        if last is not None and last.used + numel <= last.size:
            found[-1] = Chunk(last.size, last.used + numel, whole)
        else:  # a parameter that is larger has a chunk of its own
            own = size if numel <= size else numel + -numel % replicas
            found.append(Chunk(own, numel, whole))
    return found


def _best_size(sizes: list[int], config: TrainConfig, replicas: int) -> int:
    """The size of those searched that leaves the fewest elements unused."""
    limit = fmean(sizes) + 3 * pstdev(sizes)
    usual = tuple(size for size in sizes if size <= limit)
    step = config.gemini_hidden_dim or _STEP
    smallest = max(round(config.gemini_min_chunk_m * _MEGA), max(usual))
    start = math.ceil(smallest / step) * step
    best = _fullest(usual, start, round(config.gemini_search_range_m * _MEGA), step)
    return best + -best % replicas


@lru_cache
def _fullest(sizes: tuple[int, ...], start: int, search_range: int, step: int) -> int:
    """The first of those chunk sizes that leaves least unused, all tried at once."""
    chunks = np.arange(start, start + search_range + 1, step)
    unused, left = np.zeros_like(chunks), np.zeros_like(chunks)
    for size in sizes:
        full = size > left
        unused += np.where(full, left, 0)
        left = np.where(full, chunks, left) - size
    return int(chunks[np.argmin(unused + left)])
