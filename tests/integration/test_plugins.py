"""A plugin of another distribution, made by following docs/plugins.md to the letter."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from launching import ROOT, environment, run, torchrun, warm
from vit_colossal.checkpoints.files import newest_valid

PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
JOB = ["--dataset", "digits", "--max-train-samples", "128", "--max-eval-samples", "64"]
JOB += ["--global-batch-size", "16", "--max-steps", "12", "--log-every", "1", "--device", "cpu"]
JOB += ["--precision", "bf16", "--clip-grad-norm", "0.5", "--save-every", "4"]
JOB += ["--keep-last", "9"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the page."""
    folder = tmp_path_factory.mktemp("small-buckets")
    files = re.findall(r"^`([\w./]+)`[^\n]*:\n\n```\w+\n(.*?)```", PAGE, re.M | re.S)
    assert len(files) == 3
    for name, text in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def installed(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which pip has installed it."""
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run(
        [*pip, "--no-build-isolation", "--target", str(target), str(sources)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return with_path(target)


def with_path(folder: Path) -> dict[str, str]:
    env = environment()
    return env | {"PYTHONPATH": f"{env['PYTHONPATH']}:{folder}"}


def vit_colossal(*arguments: str) -> list[str]:
    return warm("-m", "vit_colossal", *arguments)


@pytest.fixture(scope="module")
def trained(installed: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    flags = [*JOB, "--plugin", "small_buckets", "--nproc", "2", "--output-dir", str(folder)]
    finished = run(vit_colossal("train", *flags), timeout_s=300, env=installed)
    assert finished.returncode == 0, finished.output
    assert "layout: small_buckets, dp 2" in finished.stdout
    return folder


def losses(folder: Path) -> dict[int, float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    return {event["step"]: event["loss"] for event in events if event["event"] == "train"}


@pytest.mark.slow
def test_it_is_resumed_bit_for_bit_under_torchrun_by_its_location(
    sources: Path, trained: Path, tmp_path: Path
) -> None:
    """Not installed, named by where it stands: it continues what the installed one began."""
    checkpoint = trained / "checkpoints" / "step-000004"
    folder = tmp_path / "run"
    flags = [*JOB, "--plugin", "small_buckets:FACTS", "--resume", str(checkpoint)]
    command = torchrun(2, str(ROOT / "train.py"), *flags, "--output-dir", str(folder))
    finished = run(command, timeout_s=300, env=with_path(sources))
    assert finished.returncode == 0, finished.output
    whole = losses(trained)
    assert losses(folder) == {step: whole[step] for step in range(5, 13)}
    weights = [path / "model" / "model.safetensors" for path in (trained, folder)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.slow
def test_its_run_is_used_without_it(trained: Path, tmp_path: Path) -> None:
    newest, skipped = newest_valid(trained / "checkpoints")
    assert newest is not None and newest.step == 12 and not skipped
    for command in (
        ["export", str(trained), str(tmp_path / "exported"), "--checkpoint", "last"],
        ["eval", str(trained), "--device", "cpu"],
        ["report", str(trained)],
    ):
        finished = run(vit_colossal(*command), timeout_s=120)
        assert finished.returncode == 0, finished.output


@pytest.mark.slow
def test_parity_and_bench_have_it(installed: dict[str, str], tmp_path: Path) -> None:
    flags = ["--nproc", "2", "--layouts", "small_buckets"]
    folder = tmp_path / "parity"
    command = ["parity", *flags, "--peers", "none", "--max-steps", "4", "--output-dir", str(folder)]
    finished = run(vit_colossal(*command), timeout_s=300, env=installed)
    assert finished.returncode == 0, finished.output
    assert "small_buckets" in finished.stdout
    bench = ["bench", *flags, "--steps", "3", "--warmup-steps", "1", "--repetitions", "1"]
    bench += ["--profile-steps", "0", "--output-dir", str(tmp_path / "bench")]
    finished = run(vit_colossal(*bench), timeout_s=300, env=installed)
    assert finished.returncode == 0, finished.output
    assert "small_buckets bf16" in finished.stdout


def problem(env: dict[str, str], *flags: str) -> str:
    """The one line of a configuration that is refused."""
    finished = run(vit_colossal("train", *JOB, *flags), timeout_s=60, env=env)
    assert finished.returncode == 2, finished.output
    lines = [line for line in finished.stderr.splitlines() if line]
    assert len(lines) == 1, finished.output
    return lines[0]


def test_its_facts_are_kept_to(installed: dict[str, str]) -> None:
    text = problem(installed, "--plugin", "small_buckets", "--precision", "fp32")
    assert "--plugin small_buckets refuses --precision fp32" in text


def offered(folder: Path, name: str, value: str) -> dict[str, str]:
    """An environment with the metadata of a distribution that offers one plugin."""
    place = folder / "other-1.0.dist-info"
    place.mkdir()
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (place / "entry_points.txt").write_text(f"[vit_colossal.plugins]\n{name} = {value}\n")
    return with_path(folder)


@pytest.mark.parametrize(
    ("name", "value", "module", "text"),
    [
        ("ddp", "other:FACTS", "", "other offers one of this name too"),
        ("other", "missing.module:FACTS", "", "No module named 'missing'"),
        ("other", "other:FACTS", "", "has no attribute 'FACTS'"),
        ("other", "other:FACTS", "FACTS = 1", "of type int, not PluginFacts"),
        (
            "other",
            "other:FACTS",
            "from vit_colossal.config.plugins import PluginFacts\n"
            "FACTS = PluginFacts(strategy='other:X', interface=9)",
            "written for interface 9",
        ),
        (
            "other",
            "other:FACTS",
            "from vit_colossal.config.plugins import PluginFacts\n"
            "X = dict\nFACTS = PluginFacts(strategy='other:X')",
            "no subclass of Strategy",
        ),
        (
            "other",
            "other:FACTS",
            "from vit_colossal.config.plugins import PluginFacts\n"
            "FACTS = PluginFacts(strategy='vit_colossal.strategies.strategy:Strategy')",
            "does not define plugin",
        ),
    ],
)
def test_one_that_cannot_be_used_is_one_line(
    name: str, value: str, module: str, text: str, tmp_path: Path
) -> None:
    (tmp_path / "other.py").write_text(module)
    assert text in problem(offered(tmp_path, name, value), "--plugin", name)


def test_the_name_of_one_that_is_not_imported_is_known(tmp_path: Path) -> None:
    env = offered(tmp_path, "other", "missing.module:FACTS")
    finished = run(vit_colossal("train", "--plugin", "othre"), timeout_s=60, env=env)
    assert "did you mean other?" in finished.stderr


def test_files_name_no_code(trained: Path, tmp_path: Path) -> None:
    """A hostile run folder: ``os.system`` would be found, and is never looked for."""
    config = trained / "config.yaml"
    before = config.read_text()
    hostile = tmp_path / "hostile.yaml"
    hostile.write_text(before.replace("plugin: small_buckets", "plugin: os:system"))
    assert "plugin: os:system" in hostile.read_text()
    text = problem(environment(), "--config", str(hostile), "--output-dir", str(tmp_path / "x"))
    assert "os:system would be imported and run" in text
    try:
        config.write_text(hostile.read_text())
        for command in (["report", str(trained)], ["eval", str(trained), "--device", "cpu"]):
            finished = run(vit_colossal(*command), timeout_s=120)
            assert finished.returncode == 0, finished.output
    finally:
        config.write_text(before)
