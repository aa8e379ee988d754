"""Run a script in N processes, forked from one that has imported all: ``forked.py N SCRIPT ...``.

As ``--nproc`` does, and several times faster than N processes that import PyTorch each.
"""

from __future__ import annotations

import runpy
import sys
from functools import partial
from importlib import import_module
from pathlib import Path

from vit_colossal import runtime
from vit_colossal.runtime.spawn import launch

STRATEGIES = ("ddp", "zero", "gemini", "hybrid")


def run(script: str) -> int:
    """What each process does."""
    runpy.run_path(script, run_name="__main__")
    return 0


if __name__ == "__main__":
    count, script, *arguments = sys.argv[1:]
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent))
    runtime.activate("cpu")
    for name in STRATEGIES:
        import_module(f"vit_colossal.strategies.{name}")
    import_module("vit_colossal.training.fit")
    sys.exit(launch(partial(run, script), int(count)))
