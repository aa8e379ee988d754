"""What torchrun and ``colossalai run`` start; the same as ``vit-colossal train``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "src"))

from vit_colossal.commands.run import run_command, show_life
from vit_colossal.runtime.interpreter import leave

if __name__ == "__main__":
    show_life("train", sys.argv[1:])
    leave(run_command("train", sys.argv[1:], prog="train.py"))
