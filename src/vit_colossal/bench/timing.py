"""What the ways of timing need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def around_calls(
    owner: Any, method: str, watch: Callable[[], AbstractContextManager[None]]
) -> Iterator[None]:
    """Inside, every call of one object's method happens inside of ``watch()``."""
    own = vars(owner).get(method)
    call: Callable[..., Any] = getattr(owner, method)

    def watched(*args: Any, **options: Any) -> Any:
        with watch():
            return call(*args, **options)

    setattr(owner, method, watched)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, method)
        else:
            setattr(owner, method, own)
