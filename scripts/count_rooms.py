"""Count what docs/architecture.md says about the package, and write it there.

python scripts/count_rooms.py
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "vit_colossal"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- counted: begin -->\n", "<!-- counted: end -->"


def hops() -> list[str]:
    """The calls from the command line to the backward pass, as one process made them."""
    code = """
import sys, traceback
sys.path.insert(0, "src")
from vit_colossal.commands.run import run_command
from vit_colossal import runtime
runtime.activate("cpu")
from colossalai.booster import Booster
def stop(*args, **options):
    frames = traceback.extract_stack()
    found = [f.name for f in frames if "vit_colossal" in f.filename and not f.name.startswith("<")]
    print("HOPS", *found)
    raise SystemExit(0)
Booster.backward = stop
run_command("train", sys.argv[1:], prog="train.py")
"""
    flags = ["--dataset", "digits", "--device", "cpu", "--max-steps", "1", "--dry-run"][:-1]
    done = subprocess.run(
        [sys.executable, "-c", code, *flags, "--save-every", "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("HOPS")]
    if not lines:
        raise SystemExit(done.stdout + done.stderr)
    return lines[0].split()[1:]


def main() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    modules = [path for path in files if path.parent == PACKAGE]
    folders = {path.parent for path in files if path.parent.parent == PACKAGE}
    functions = [
        (node.end_lineno or 0) - node.lineno + 1
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lines = [len(path.read_text(encoding="utf-8").splitlines()) for path in files]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    calls = hops()
    rows = {
        "modules and folders at package level": f"{len(modules)} and {len(folders)}",
        "files, lines": f"{len(files)}, {sum(lines):,}",
        "longest file, longest function, median function": (
            f"{max(lines)}, {max(functions)}, {median(functions):g} lines"
        ),
        "calls from the command to the backward pass": f"{len(calls)}: {' → '.join(calls)}",
        "commit": commit,
    }
    table = "| | |\n|---|---|\n" + "".join(f"| {k} | {v} |\n" for k, v in rows.items())
    text = PAGE.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}{table}{END}{rest.split(END)[1]}", encoding="utf-8")
    print(table, end="")


if __name__ == "__main__":
    main()
