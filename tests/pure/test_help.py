"""Help, and the first line of a command, need no framework."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from vit_colossal.commands.names import SUMMARIES

#: Refuses the frameworks, as where they are not installed.
BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "colossalai", "transformers", "datasets"):
            raise ImportError(name)

sys.meta_path.insert(0, Blocker())
from vit_colossal.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("name", SUMMARIES)
def test_the_help_of_a_command_needs_no_framework(name: str) -> None:
    command = [sys.executable, "-c", BLOCKED, name, "--help"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert f"vit-colossal {name}" in result.stdout


def test_a_terminal_shows_life_before_any_framework() -> None:
    terminal, screen = pty.openpty()
    command = [sys.executable, "-c", BLOCKED, "train", "--dataset", "photos"]
    result = subprocess.run(command, stderr=screen, timeout=60, check=False)
    os.close(screen)
    shown = os.read(terminal, 65536).decode().splitlines()
    os.close(terminal)
    assert shown[0] == "loading PyTorch and ColossalAI ..."
    assert result.returncode == 1 and "vit-colossal doctor" in shown[-1]
