"""The directions of imports and the sizes of files, as docs/architecture.md describes them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "vit_colossal"

MAX_FILE_LINES = 320
MAX_FUNCTION_LINES = 62

#: Each may import what stands before it. A module that is not named here stands after all others,
#: so it may import any of these, and none of these may import it: `cli` and each command's work.
ORDER = (
    *("errors", "colossalai_pins", "importing"),
    *("settings.base", "settings", "settings.strategy", "settings.data"),
    *("settings.augmentation", "settings.optimization", "settings.output"),
    *("train_config", "config"),
    *(
        "redaction",
        "hub",
        "parallel_dims",
        "model_names",
        "model_files",
        "model_spec",
        "validation",
    ),
    *(
        "runtime.accelerator",
        "runtime.adam",
        "runtime.kernels",
        "runtime.stage_patches",
        "runtime.patches",
        "runtime",
        "runtime.rendezvous",
        "runtime.launch",
    ),
    *("events", "trackers"),
    *("metrics", "data.problems", "data.request", "data.columns", "data.webdataset"),
    *("data.tables", "data.folders", "data.fingerprint", "data.local", "data.splits"),
    *("data.sources", "data.decoding", "data.cache", "data.lazy", "data.streams"),
    *("predictions", "scores"),
    *(
        "data.transforms",
        "data.mixing",
        "data.loaders",
        "model",
        "model_directory",
        "run_data",
        "optim",
        "transfers",
        "vit_policy",
        "plugins",
        "engine",
        "loss",
        "train_step",
        "evaluation",
    ),
    *(
        "weights",
        "checkpoint",
        "parts",
        "memory_use",
        "ema",
        "train_state",
        "checkpointer",
        "stop",
        "resume",
        "loop",
    ),
    *(
        "references",
        "finished_run",
        "saved_model",
        "model_card",
        "regression",
        "trainer",
        "run_record",
        "run_lock",
        "run",
        "launcher",
    ),
)

#: The modules that may import colossalai, in any function.
KNOW_COLOSSALAI = {"runtime", "plugins", "engine", "optim", "evaluation", "weights", "parts"}
KNOW_COLOSSALAI |= {"train_state", "transfers", "vit_policy"}

#: What validates a run in the process that only spawns others: it must not cost their imports.
LIGHT = (
    "errors",
    "train_config",
    "config",
    "parallel_dims",
    "model_spec",
    "validation",
    "data.sources",
)
HEAVY = ("torch", "transformers", "colossalai", "datasets")


def _name(path: Path) -> str:
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path) -> Iterator[str]:
    """Every imported module, also inside functions, but not for type checking alone."""
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == PACKAGE.name:
            yield from (f"{PACKAGE.name}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
        pending += ast.iter_child_nodes(node)


FILES = {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
IMPORTS = {name: set(_imports(path)) for name, path in FILES.items()}


def test_the_modules_are_found() -> None:
    assert {"config", "trainer", "data.sources", "runtime"} <= FILES.keys()
    assert "vit_colossal.training.job" in IMPORTS["run"]
    assert "colossalai.booster" in IMPORTS["plugins"]


def test_imports_point_to_earlier_modules() -> None:
    place = {name: index for index, name in enumerate(ORDER)}
    wrong = []
    for name in place.keys() & FILES.keys():
        inner = {other.removeprefix(f"{PACKAGE.name}.") for other in IMPORTS[name]} & FILES.keys()
        wrong += [
            f"{name} imports {other}"
            for other in inner
            if place.get(other, len(ORDER)) > place[name]
        ]
    assert not sorted(wrong)


def test_the_architecture_page_names_every_module() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`(\w+)/?`", page))
    assert {name for name in FILES if name and name.split(".")[-1] not in told} == set()


def test_only_a_few_modules_know_colossalai() -> None:
    knowing = {
        name
        for name, imported in IMPORTS.items()
        if any(other.split(".")[0] == "colossalai" for other in imported)
    }
    assert {name for name in knowing if name.split(".")[0] not in KNOW_COLOSSALAI} == set()


@pytest.mark.parametrize("module", LIGHT)
def test_validation_imports_no_framework(module: str) -> None:
    code = (
        f"import sys, {PACKAGE.name}.{module}\n"
        f"print(*[name for name in {HEAVY} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.split() == []


@pytest.mark.parametrize("name", FILES)
def test_files_and_functions_stay_short(name: str) -> None:
    text = FILES[name].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    functions = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {name: n for name, n in lengths.items() if n > MAX_FUNCTION_LINES} == {}
