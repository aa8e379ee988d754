"""The parity command: green where nothing is wrong, red for every planted error, with its step."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from faulty_worker import DEATH, FAULT_STEP, FAULTS
from PIL import Image

from launching import environment, run, warm, warm_programs
from vit_colossal.parity.case import Case
from vit_colossal.parity.compare import compare_cases
from vit_colossal.parity.config import ParityConfig
from vit_colossal.parity.references import References
from vit_colossal.parity.row import Row
from vit_colossal.runtime.spawn import Program

WORKER = Path(__file__).with_name("faulty_worker.py")
STEPS = 12
LAYOUTS = "zero1,gemini,hybrid dp2,hybrid pp2,hybrid tp2"

#: The first step at which each planted error can show: in the gradients or the loss of the step
#: itself, or in the loss of the step after the update that it spoils.
FIRST_STEP = {
    "scale_gradient": FAULT_STEP,
    "skip_reduction": FAULT_STEP,
    "repeat_sample": FAULT_STEP,
    "drop_sample": FAULT_STEP,
    "wrong_lr_on_one_rank": FAULT_STEP + 1,
    "layer_not_updated": FAULT_STEP + 1,
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    """On two processes, every case but the first does something wrong; one breaks the launch."""
    folder = tmp_path_factory.mktemp("parity")
    config = ParityConfig(max_steps=STEPS, nproc=2)
    job = config.job(plugin="ddp", precision="fp32")
    cases = [Case(name, None, 2, job, folder / name) for name in FAULTS]
    (folder / "die").mkdir()
    (folder / "die/trace.json").write_text("of an earlier comparison in the same folder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(warm_programs() / "python"))
        rows = compare_cases(References(config, folder), cases, folder, faulty)
    return {row.name: row for row in rows}


def faulty(file: Path) -> Program:
    """What runs a file of cases."""
    return Program((str(WORKER), str(file)))


def test_a_sound_run_is_the_plain_loop_bit_for_bit(rows: dict[str, Row]) -> None:
    sound = rows["none"]
    assert sound.problems == []
    assert sound.difference is not None
    assert sound.difference.identical_steps == STEPS
    assert sound.difference.weights == 0.0


@pytest.mark.parametrize("fault", FIRST_STEP)
def test_planted_error_is_caught_with_its_step(rows: dict[str, Row], fault: str) -> None:
    row = rows[fault]
    assert not row.passed
    steps = [
        int(text.split("from step ")[1].split(":")[0]) for text in row.problems if "step" in text
    ]
    assert min(steps) == FIRST_STEP[fault], row.problems


def test_a_run_that_fails_takes_no_other_with_it(rows: dict[str, Row]) -> None:
    lost = rows["die"]
    assert lost.problems == [f"the run failed with exit code {DEATH}: see its messages above"]
    assert [name for name, row in rows.items() if row.difference is None] == ["die"]
    assert [row.name for row in rows.values()] == list(FAULTS)


def test_who_is_asked_to_end_starts_no_other_run(tmp_path: Path) -> None:
    config = ParityConfig(max_steps=1)
    cases = [Case(name, None, 1, config.job(), tmp_path / name) for name in ("one", "two")]
    started = tmp_path / "started"

    def ended(file: Path) -> Program:
        code = "import sys; open(sys.argv[1], 'a').write('started '); sys.exit(130)"
        return Program(("-c", code, str(started)))

    with pytest.raises(SystemExit) as stopped:
        compare_cases(References(config, tmp_path), cases, tmp_path, ended)
    assert stopped.value.code == 130
    assert started.read_text() == "started "


@pytest.mark.slow
def test_command_compares_layouts_and_trainer(tmp_path: Path) -> None:
    command = [
        *warm("-m", "vit_colossal", "parity", "--nproc", "2", "--max-steps", "4"),
        *("--layouts", LAYOUTS, "--output-dir", str(tmp_path / "out")),
    ]
    finished = run(command, timeout_s=400, env=environment(), cwd=tmp_path)
    assert finished.returncode == 0, finished.output
    assert finished.left_over == []
    report = json.loads((tmp_path / "out/parity.json").read_text())
    names = {
        (row["name"], row["precision"], row["clip"], row["processes"]) for row in report["rows"]
    }
    assert names == {
        *(
            (name, "fp32", clip, 2)
            for name in ("zero1", "hybrid dp2", "hybrid pp2", "hybrid tp2")
            for clip in (0, 1)
        ),
        *((name, "bf16", 0, 2) for name in LAYOUTS.split(",")),
        *(
            (f"transformers.Trainer {optim}", "fp32", clip, n)
            for optim in ("adamw_torch", "adamw_torch_fused")
            for n in (1, 2)
            for clip in (0, 1)
        ),
    }
    assert all(row["passed"] for row in report["rows"])
    by_name = {row["name"]: row["difference"] for row in report["rows"] if row["clip"] == 0}
    assert by_name["transformers.Trainer adamw_torch"]["identical_steps"] == 4
    clipped = {row["name"]: row["difference"] for row in report["rows"] if row["clip"]}
    for name in ("zero1", "hybrid dp2", "hybrid pp2"):
        assert clipped[name]["identical_steps"] == 4, name
        assert clipped[name]["weights"] == 0.0, name
    assert "| zero1 | fp32 | off | 2 | 4/4 |" in (tmp_path / "out/parity.md").read_text()
    with Image.open(tmp_path / "out/parity.png") as image:
        assert image.width > 600


def test_unknown_layout_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vit_colossal.cli import main

    flags = ["--nproc", "2", "--layouts", "zero3", "--output-dir", str(tmp_path / "out")]
    assert main(["parity", *flags]) == 2
    assert "--layouts zero3: not one of" in capsys.readouterr().err
