"""These tests import no framework, so that they take seconds; a session of them alone holds it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

HEAVY = ("torch", "transformers", "colossalai", "datasets")


@pytest.fixture(scope="session", autouse=True)
def light(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails the last test when one of them has imported a framework."""
    alone = all("tests/pure/" in item.nodeid for item in request.session.items)
    yield
    assert not (alone and [name for name in HEAVY if name in sys.modules])
