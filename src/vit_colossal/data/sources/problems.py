"""Long lists of problems, at a length that people read."""

from __future__ import annotations

MAX_LISTED = 100


def listed(problems: list[str]) -> list[str]:
    """The first hundred lines, and how many there are beyond.

    Args:
        problems: One line each.

    Returns:
        At most 101 lines.
    """
    rest = len(problems) - MAX_LISTED
    return problems if rest <= 0 else [*problems[:MAX_LISTED], f"... and {rest:,} more"]
