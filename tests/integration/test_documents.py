"""Every command in the README and the documents runs as it is written.

Long ones run with few steps and few images added behind; what another test or script runs is named
here, so that a command that nobody runs is an error.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from launching import ROOT, Finished, environment, run, warm_programs

pytestmark = pytest.mark.slow

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = ("python ", "torchrun ", "colossalai run", "vit-colossal ", "bash ")

SHORT = "--dataset digits --max-steps 2 --max-train-samples 128 --max-eval-samples 32"
SHORT += " --device cpu --no-tensorboard"

#: What is added to a command so that it takes seconds. The first pattern that fits counts.
ADDED = {
    r"^(\w+=\w+ )?(python|torchrun|colossalai run).*train\.py": SHORT,
    r"^vit-colossal train": SHORT,
    r"^bash scripts/run_demo\.sh": "--epochs 1 --device cpu",
    r"^vit-colossal eval": "--max-eval-samples 32",
    r"^vit-colossal (doctor|plan|predict|report|runs|export|completion|--)": "",
    r"^set -o pipefail": "",
}

#: Commands that are run elsewhere, or are parts of sentences.
ELSEWHERE = {
    r"^bash scripts/test\.sh": "this is running in it",
    r"^torchrun --nnodes": "test_two_hosts.py",
    r"^TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun": "by hand, on two namespaces",
    r"^(printf .*>hostfile|colossalai run --hostfile)": "by hand, on two namespaces with sshd",
    r"^vit-colossal train .*--lora-rank": "test_lora.py",
    r"^vit-colossal train .*num_channels=1": "test_grey_run.py",
    r"^sbatch ": "test_cluster_recipes.py runs the script without Slurm",
    r"^colossalai run .*--pp 2$": "test_train_cli.py",
    r"^python train\.py --nproc 2 --plugin hybrid --pp 2$": "test_train_cli.py",
    r"^pre-commit ": "scripts/check.sh",
    r"^python -m pytest ": "this is running beside it",
    r"^vit-colossal labels": "test_adding.py",
    r"small_buckets": "test_plugins.py",
    r"^python train\.py$": "test_train_cli.py",
    r"--model_name_or_path": "tests/pure/config/test_colossalai_example.py reads its flags",
    r"--check-reference": "test_check.py",
    r"^colossalai run$": "a name, not a command",
    r"^pip install": "scripts/environment.sh",
    r"script\.py": "your own script",
    r"RUN_DIR": "a form, not a command",
    r"PROCESSES|…|\.\.\.|\bN\b": "a form, not a command",
    r"^vit-colossal (plan .*--measure|train .*--plugin auto)": "test_calibration.py",
    r"^vit-colossal plan .*--format json$": "tests/unit/forecast/test_extrapolation.py",
    r"^vit-colossal check": "test_check.py",
    r" moved/run": "test_moved_runs.py",
    r"^vit-colossal parity": "tests/distributed/test_parity.py",
    r"^vit-colossal bench": "test_bench.py",
    r"^vit-colossal push": "the tests of push",
    r"^vit-colossal train$": "a name, not a command",
    r"^(bash|python) (scripts|benchmarks)/": "measured by hand; their pages name the commit",
}


def commands(text: str) -> list[str]:
    """The commands of a page: lines of bash blocks, and code that starts with a program."""
    found = []
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            line = re.sub(r"(^|\s+)#.*$", "", line).strip()
            found += [line] if line else []
    found += [code for code in re.findall(r"`([^`\n]+)`", text) if code.startswith(PROGRAMS)]
    return found


ALL = sorted({command for page in PAGES for command in commands(page.read_text("utf-8"))})
HERE = [one for one in ALL if not any(re.search(pattern, one) for pattern in ELSEWHERE)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the project's root, with a run named NAME and some photos."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("train.py", "scripts", "configs", "src", "setup.py"):
        (folder / name).symlink_to(ROOT / name)
    done = shell(folder, f"python train.py --output-dir runs/NAME {SHORT}")
    assert done.returncode == 0, done.output
    for name in ("A", "B"):
        shutil.copytree(folder / "runs/NAME", folder / "runs" / name)
    (folder / "photos").mkdir()
    for name in ("seven.png", "photos/one.jpg"):
        Image.new("RGB", (40, 30), (90, 120, 30)).save(folder / name)
    return folder


def shell(folder: Path, command: str) -> Finished:
    """That ``python`` and ``vit-colossal`` start by themselves is for tests of commands to show."""
    env = environment(VIT_COLOSSAL_VENV=sys.prefix)
    env["PATH"] = f"{warm_programs()}:{env['PATH']}"
    return run(["bash", "-c", command], timeout_s=300, cwd=folder, env=env)


def test_commands_are_found() -> None:
    assert "bash scripts/run_demo.sh" in ALL
    assert any(command.startswith("colossalai run") for command in ALL)
    assert len(HERE) >= 8


@pytest.mark.parametrize("command", HERE)
def test_it_runs(command: str, project: Path) -> None:
    added = [more for pattern, more in ADDED.items() if re.search(pattern, command)]
    assert added, f"{command!r} is run by nothing: give it a line in ADDED or ELSEWHERE"
    before, pipe, after = command.partition(" 2>&1 |")
    done = shell(project, f"{before} {added[0]}{pipe}{after}")
    assert done.returncode == 0, done.output
    assert "Traceback" not in done.output


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_configuration_reference_is_up_to_date(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from config_reference import reference
    finally:
        sys.path.pop(0)
    page = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    assert page == reference(), "run python scripts/config_reference.py"


def test_quoted_messages_exist() -> None:
    """What docs/troubleshooting.md explains is what the package says."""
    source = "\n".join(path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)  # one message may stand on several lines
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    for message in re.findall(r"^\| `([^`]+)`", page, re.MULTILINE):
        parts = [part.strip() for part in re.split(r"SIG\w+", message) if part.strip()]
        assert all(part in source for part in parts), message
