"""A picture of a terminal: run a command on one, and save what it shows as an SVG; the README's:

    python scripts/run_picture.py docs/images/run.svg \\
        python train.py --nproc 2 --config configs/digits_cpu_pp2.yaml --epochs 6

The command runs on a terminal of its own, as it would under a person's hands; nothing is edited. Of
a progress bar the picture has the last state. The exit code is the command's.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import shlex
import struct
import sys
import termios
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

WIDTH = 100
#: rich's picture of a terminal, without the fonts that it would load from the network.
FORMAT = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def on_a_terminal(command: list[str]) -> tuple[int, str]:
    """Run a command on a terminal of ``WIDTH`` columns; its exit code and what it wrote."""
    shown = b""

    def read(descriptor: int) -> bytes:
        nonlocal shown
        chunk = os.read(descriptor, 65536)
        shown += chunk
        return chunk

    pid, master = pty.fork()
    if pid == 0:
        size = struct.pack("HHHH", 60, WIDTH, 0, 0)
        fcntl.ioctl(sys.stdout, termios.TIOCSWINSZ, size)
        os.execvp(command[0], command)
    try:
        while chunk := read(master):
            os.write(sys.stdout.fileno(), chunk)
    except OSError:  # how Linux tells that the other side is closed
        pass
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode(errors="replace")


def draw(command: list[str], shown: str) -> str:
    """The terminal after the command, with its prompt line, as an SVG.

    A carriage return moves to the start of the line, so that what follows it stands there.
    """
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ {shlex.join(command)}", style="bold"))
    lines = (line.rstrip("\r").rsplit("\r", 1)[-1] for line in shown.split("\n"))
    for line in lines:
        console.print(Text.from_ansi(line))
    return console.export_svg(title="vit_colossal", code_format=FORMAT)


def main() -> int:
    picture, *command = sys.argv[1:]
    code, shown = on_a_terminal(command)
    Path(picture).write_text(draw(command, shown.rstrip()), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
