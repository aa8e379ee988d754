"""Rooms that build on each other, and the sizes of files: docs/architecture.md shows them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "vit_colossal"

MAX_FILE_LINES = 320
MAX_FUNCTION_LINES = 62
MAX_MODULES_AT_THE_TOP = 8

#: Folders and top-level modules: each imports only those before it.
ROOMS = (
    *("version", "errors", "text", "durable", "hub", "config", "families", "plan"),
    *("runtime", "model", "data", "forecast", "strategies", "checkpoints", "evaluation", "rundir"),
    *("calibration", "trained", "training", "report", "parity", "bench", "doctor", "commands"),
    *("cli", "__main__", "__init__"),
)
#: Rooms of one command: they never import each other.
COMMANDS = ("report", "parity", "bench", "doctor")
#: What validates a run in the process that only spawns others: it must not cost their imports.
LIGHT = ("version", "errors", "text", "durable", "hub", "config", "families", "plan")
HEAVY = ("torch", "transformers", "colossalai", "datasets")
PLUGINS = ("ddp", "zero1", "zero2", "gemini", "hybrid")
#: The only rooms that know ColossalAI.
KNOW_COLOSSALAI = ("runtime", "strategies")


def _name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


FILES = {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def _imports(name: str) -> Iterator[str]:
    """Every imported module, also inside functions and for type checking alone."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            for alias in node.names:
                # A module of a folder, or a name of a module.
                inner = f"{node.module}.{alias.name}".removeprefix(f"{PACKAGE.name}.")
                known = inner in FILES or f"{inner}.__init__" in FILES
                yield f"{PACKAGE.name}.{inner}" if known else node.module or ""


def _inner(name: str) -> set[str]:
    """The modules of this package that a module imports."""
    found = set()
    for imported in _imports(name):
        first, _, rest = imported.partition(".")
        if first == PACKAGE.name:
            found.add(rest if rest in FILES else f"{rest}.__init__".lstrip("."))
    assert found <= FILES.keys(), found - FILES.keys()
    return found - {name}


IMPORTS = {name: _inner(name) for name in FILES}


def _room(name: str) -> str:
    return name.partition(".")[0]


def test_the_modules_are_found() -> None:
    assert "training.job" in IMPORTS["training.run"]
    assert "runtime.__init__" in IMPORTS["doctor.probe"]
    assert "colossalai.booster" in set(_imports("strategies.strategy"))


def test_every_module_has_a_room_and_few_stand_outside() -> None:
    assert {_room(name) for name in FILES} == set(ROOMS)
    assert len([name for name in FILES if "." not in name]) <= MAX_MODULES_AT_THE_TOP


@pytest.mark.parametrize("name", FILES)
def test_imports_only_go_down(name: str) -> None:
    place = {room: index for index, room in enumerate(ROOMS)}
    rooms = {_room(other) for other in IMPORTS[name]}
    assert [room for room in rooms if place[room] > place[_room(name)]] == []
    if _room(name) in COMMANDS:
        assert rooms & set(COMMANDS) <= {_room(name)}


def test_there_is_no_circle() -> None:
    order = list(TopologicalSorter(IMPORTS).static_order())
    assert set(order) == FILES.keys()


def test_sources_know_nothing_of_pixels() -> None:
    """What is found and how it is labelled is decided before anything is decoded."""
    inner = "data.sources."
    beyond = {o for n in FILES if n.startswith(inner) for o in IMPORTS[n] if o.startswith("data.")}
    assert [other for other in beyond if not other.startswith(inner)] == []


def test_only_two_rooms_know_colossalai() -> None:
    knowing = {
        _room(name)
        for name in FILES
        if any(other.partition(".")[0] == "colossalai" for other in _imports(name))
    }
    assert knowing == set(KNOW_COLOSSALAI)


def test_a_plugin_is_named_in_few_places() -> None:
    """In its facts and in the layouts; a strategy does not know its name."""
    named = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in PLUGINS
    }
    assert named == {"config.plugins", "plan.layouts"}


@pytest.mark.parametrize("room", LIGHT)
def test_validation_imports_no_framework(room: str) -> None:
    modules = [f"{PACKAGE.name}.{name}" for name in FILES if _room(name) == room]
    code = f"import sys, {', '.join(modules)}\n".replace(".__init__", "")
    code += f"print(*[name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.split() == []


@pytest.mark.parametrize("name", FILES)
def test_files_and_functions_stay_short(name: str) -> None:
    assert len(FILES[name].read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES
    functions = [
        node
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {name: n for name, n in lengths.items() if n > MAX_FUNCTION_LINES} == {}
