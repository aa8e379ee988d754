"""The garbage collector during imports and after them, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import gc
from vit_colossal.runtime.interpreter import without_collecting
before = gc.get_freeze_count()  # Python 3.12 begins with some
try:
    with without_collecting():
        {body}
except ModuleNotFoundError:
    pass
print(gc.isenabled(), gc.get_freeze_count() > before)
"""


@pytest.mark.parametrize(
    ("body", "frozen"),
    [
        ("import wave", True),
        ("import wave; import no_such_module", True),
        ("import gc", False),
    ],
)
def test_what_is_imported_is_left_alone_for_good(body: str, frozen: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(body=body)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == ["True", str(frozen)]
