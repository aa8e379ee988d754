"""The real ``train.py`` through every way to start it, and what a run leaves on disk."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from layouts import ADAM, LABELS, common_flags
from plain_loop import read_split, train_plain

from launching import ROOT, Finished, run, torchrun, warm

TRAIN = str(ROOT / "train.py")
ACCURACY = re.compile(r"^accuracy (\d\.\d{4}) \((\d+)/(\d+)\)$", re.MULTILINE)
STEPS_PER_EPOCH = 13  # 200 images, batches of 16


def flags(eleven: Path, run_dir: Path, *more: str) -> list[str]:
    return [*common_flags(eleven, ADAM), "--log-every", "1", "--output-dir", str(run_dir), *more]


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def losses(run_dir: Path) -> list[float]:
    return [event["loss"] for event in events(run_dir, "train")]


def well_ended(finished: Finished) -> Finished:
    assert finished.returncode == 0, finished.output
    assert "Traceback" not in finished.output
    assert "Exception ignored" not in finished.output
    assert finished.left_over == []
    return finished


@pytest.fixture(scope="module")
def expected_losses(eleven: Path) -> list[float]:
    return train_plain(read_split(eleven, "train"), ADAM, LABELS).losses


@pytest.fixture(scope="module")
def zero2(eleven: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """One run of two processes through torchrun, from another folder."""
    folder = tmp_path_factory.mktemp("zero2")
    run_dir = folder / "runs" / "first"
    command = torchrun(2, TRAIN, "--plugin", "zero2", *flags(eleven, run_dir))
    return run_dir, well_ended(run(command, timeout_s=180, cwd=folder))


# --- One run --------------------------------------------------------------------------------------


def test_torchrun_trains_as_the_plain_loop_does(
    zero2: tuple[Path, Finished], expected_losses: list[float]
) -> None:
    assert losses(zero2[0]) == pytest.approx(expected_losses, rel=2e-6)


def test_the_run_directory(zero2: tuple[Path, Finished]) -> None:
    run_dir, _ = zero2
    names = {path.name for path in run_dir.iterdir()}
    assert {"config.yaml", "environment.json", "metrics.jsonl", "tensorboard", "model"} <= names
    assert list((run_dir / "tensorboard").iterdir())
    model = {path.name for path in (run_dir / "model").iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= model
    environment = json.loads((run_dir / "environment.json").read_text())
    assert environment["world_size"] == 2
    assert environment["colossalai"] == "0.5.0"
    assert environment["labels"][10] == "inverted"
    assert len(environment["data_fingerprint"]) == 64


def test_the_resolved_configuration_holds_no_unset_choice(zero2: tuple[Path, Finished]) -> None:
    values = yaml.safe_load((zero2[0] / "config.yaml").read_text())
    assert values["plugin"] == "zero2"
    assert values["precision"] == "fp32"
    assert values["device"] == "cpu"
    assert values["global_batch_size"] == 16
    assert values["max_steps"] == ADAM.steps


def test_the_events_of_metrics_jsonl(zero2: tuple[Path, Finished]) -> None:
    run_dir, _ = zero2
    train, evaluations = events(run_dir, "train"), events(run_dir, "eval")
    assert [event["step"] for event in train] == list(range(1, ADAM.steps + 1))
    for event in train:
        assert {"elapsed", "loss", "lr", "images_per_second", "peak_memory_mib"} <= event.keys()
        assert event["epoch"] == pytest.approx(event["step"] / STEPS_PER_EPOCH, abs=1e-4)
        assert 0 <= event["lr"] <= ADAM.lr
        assert event["images_per_second"] > 0
        assert 50 < event["peak_memory_mib"] < 20_000
    assert [event["step"] for event in evaluations] == [STEPS_PER_EPOCH, ADAM.steps]
    for event in evaluations:
        assert event["total"] == 133
        assert event["accuracy"] == event["correct"] / 133
    elapsed = [event["elapsed"] for event in train]
    assert elapsed == sorted(elapsed)
    (end,) = events(run_dir, "end")
    assert end["accuracy"] == evaluations[-1]["accuracy"]


def test_the_printed_accuracy_is_that_of_the_metrics(zero2: tuple[Path, Finished]) -> None:
    run_dir, finished = zero2
    ((accuracy, correct, total),) = ACCURACY.findall(finished.stdout)
    last = events(run_dir, "eval")[-1]
    assert (int(correct), int(total)) == (last["correct"], last["total"])
    assert accuracy == f"{last['accuracy']:.4f}"
    lines = finished.stdout.strip().splitlines()
    final = lines[lines.index(f"accuracy {accuracy} ({correct}/{total})") :]
    final = [line for line in final if not line.startswith("warning: ")]
    assert final[1].startswith("95 % interval 0.") and "always answering '" in final[1]
    assert final[2] == f"model saved to {run_dir / 'model'}"
    assert final[3].startswith("it has the weights of the last step")
    assert final[4] == f"curves, confusions and mistakes: vit-colossal report {run_dir}"


def test_the_log_has_one_voice_and_no_progress_bar(zero2: tuple[Path, Finished]) -> None:
    _, finished = zero2
    assert finished.stdout.count(f"step {ADAM.steps}/{ADAM.steps}") == 1
    assert finished.stdout.count("run directory") == 1
    assert "it/s" not in finished.output


def test_other_libraries_draw_no_bar_either(zero2: tuple[Path, Finished]) -> None:
    assert "Generating" not in zero2[1].stderr


# --- Running it again -----------------------------------------------------------------------------


def test_nproc_and_the_saved_configuration_repeat_the_run_to_the_bit(
    zero2: tuple[Path, Finished], tmp_path: Path
) -> None:
    first, _ = zero2
    again = tmp_path / "again"
    command = [sys.executable, TRAIN, "--nproc", "2", "--config", str(first / "config.yaml")]
    finished = well_ended(run([*command, "--output-dir", str(again)], timeout_s=180))
    assert losses(again) == losses(first)
    assert len(ACCURACY.findall(finished.stdout)) == 1
    old, new = (yaml.safe_load((d / "config.yaml").read_text()) for d in (first, again))
    assert old | {"output_dir": str(again)} == new
    weights = [(d / "model" / "model.safetensors").read_bytes() for d in (first, again)]
    assert weights[0] == weights[1]


def test_a_run_is_not_overwritten(
    zero2: tuple[Path, Finished], capsys: pytest.CaptureFixture[str]
) -> None:
    from vit_colossal.cli import main

    first, _ = zero2
    before = (first / "metrics.jsonl").read_bytes()
    assert main(["train", "--config", str(first / "config.yaml")]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (first / "metrics.jsonl").read_bytes() == before


def test_a_plain_process_and_a_folder_of_its_own(
    eleven: Path, tmp_path: Path, expected_losses: list[float]
) -> None:
    """Without ``--output-dir`` the run is found under ``runs/``."""
    arguments = flags(eleven, tmp_path / "unused")
    place = arguments.index("--output-dir")
    del arguments[place : place + 2]
    well_ended(run(warm(TRAIN, *arguments), timeout_s=120, cwd=tmp_path))
    assert not (tmp_path / "unused").exists()
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert run_dir.name.startswith("eleven")
    assert "-ddp-" in run_dir.name
    assert losses(run_dir) == pytest.approx(expected_losses, rel=2e-6)


def test_the_python_interface(eleven: Path, tmp_path: Path, expected_losses: list[float]) -> None:
    """The same from Python, in a script as a user would write it."""
    script = tmp_path / "mine.py"
    script.write_text(
        "import sys\n"
        "from vit_colossal import TrainConfig, load_config, train\n"
        "config = load_config(sys.argv[1:])\n"
        "assert isinstance(config, TrainConfig)\n"
        "result = train(config.replace(plugin='zero1'))\n"
        "print(result.evaluation, result.steps, result.model_dir)\n"
    )
    run_dir = tmp_path / "api"
    command = warm(str(script), *flags(eleven, run_dir, "--no-tensorboard"))
    finished = well_ended(run(command, timeout_s=120))
    last = events(run_dir, "eval")[-1]
    counts = f"({last['correct']}/133)"
    printed = f"accuracy {last['accuracy']:.4f} {counts} {ADAM.steps} {run_dir / 'model'}"
    assert finished.stdout.splitlines()[-1] == printed
    assert losses(run_dir) == pytest.approx(expected_losses, rel=2e-6)
    assert not (run_dir / "tensorboard").exists()


def test_processes_are_not_started_by_a_call() -> None:
    from vit_colossal import ConfigError, TrainConfig, evaluate, train

    with pytest.raises(
        ConfigError, match=r"--nproc 2: train\(\) runs in the process that calls it"
    ):
        train(TrainConfig(nproc=2))
    with pytest.raises(ConfigError, match=r"--nproc 2: evaluate\(\) runs in the process"):
        evaluate(TrainConfig(nproc=2))


def test_every_public_name_can_be_imported() -> None:
    import vit_colossal

    for name in vit_colossal.__all__:
        assert hasattr(vit_colossal, name), name
    with pytest.raises(AttributeError, match="no_such_name"):
        vit_colossal.no_such_name  # noqa: B018


def test_evaluate_is_the_function_whatever_was_imported_before() -> None:
    import vit_colossal

    assert vit_colossal.Evaluation.__name__ == "Evaluation"
    assert callable(vit_colossal.evaluate)


# --- Evaluation on its own ------------------------------------------------------------------------


def test_eval_finds_what_training_found(zero2: tuple[Path, Finished], eleven: Path) -> None:
    run_dir, _ = zero2
    model = ["--model", str(run_dir / "model"), "--dataset", str(eleven), "--device", "cpu"]
    command = warm("-m", "vit_colossal", "eval", *model)
    before = sorted(run_dir.rglob("*"))
    finished = well_ended(run(command, timeout_s=120, cwd=run_dir))
    last = events(run_dir, "eval")[-1]
    expected = f"loss {last['loss']:.4f}  accuracy {last['accuracy']:.4f} ({last['correct']}/133)"
    assert finished.stdout.splitlines()[-1] == expected
    assert sorted(run_dir.rglob("*")) == before


def test_eval_over_a_pipeline_counts_a_part_of_a_batch(
    zero2: tuple[Path, Finished], eleven: Path
) -> None:
    run_dir, _ = zero2
    model = ["--model", str(run_dir / "model"), "--dataset", str(eleven), "--device", "cpu"]
    layout = ["--nproc", "2", "--plugin", "hybrid", "--pp", "2", "--max-eval-samples", "5"]
    program = shutil.which("vit-colossal", path=str(Path(sys.executable).parent))
    command = [program] if program else [sys.executable, "-m", "vit_colossal"]
    finished = well_ended(run([*command, "eval", *model, *layout], timeout_s=120))
    (line,) = [line for line in finished.stdout.splitlines() if "accuracy" in line]
    assert re.search(r"accuracy \d\.\d{4} \(\d/5\)$", line)


# --- Launchers and failures -----------------------------------------------------------------------


def test_nproc_gives_exit_code_2_before_anything_starts(eleven: Path, tmp_path: Path) -> None:
    command = warm(TRAIN, "--nproc", "2", *flags(eleven, tmp_path / "run"))
    finished = run([*command, "--plugin", "ddp", "--tp", "2", "--pp", "3"], timeout_s=60)
    assert finished.returncode == 2
    assert "Traceback" not in finished.output
    assert finished.stderr.count("--tp 2 has no effect with --plugin ddp") == 1
    assert finished.stderr.count("--pp 3 has no effect with --plugin ddp") == 1
    assert finished.left_over == []
    assert not (tmp_path / "run").exists()


def test_under_torchrun_rank_0_alone_prints_the_problem(eleven: Path, tmp_path: Path) -> None:
    command = torchrun(2, TRAIN, *flags(eleven, tmp_path / "run", "--plugin", "gemini"))
    finished = run([*command, "--precision", "fp32"], timeout_s=90)
    assert finished.returncode == 1  # torchrun's own; the rest of its report too
    assert finished.stderr.count("--plugin gemini refuses --precision fp32") == 1
    assert "vit_colossal" not in finished.stderr.partition("Traceback")[2].partition("=====")[0]
    assert finished.left_over == []
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_colossalai_run_trains_two_stages_and_two_replicas(tmp_path: Path) -> None:
    """The line of the upstream example, with fewer steps: no data named, so the digits."""
    program = shutil.which("colossalai", path=str(Path(sys.executable).parent))
    assert program, "colossalai's command line is not beside this Python"
    run_dir = tmp_path / "run"
    command = [program, "run", "--nproc_per_node", "4", TRAIN, "--plugin", "hybrid", "--pp", "2"]
    more = ["--device", "cpu", "--max-steps", "6", "--log-every", "1", "--output-dir", str(run_dir)]
    finished = run([*command, *more], timeout_s=240)
    assert finished.returncode == 0, finished.output
    assert finished.left_over == []
    environment = json.loads((run_dir / "environment.json").read_text())
    assert environment["layout"] == "dp 2 x pp 2 x tp 1"
    assert len(losses(run_dir)) == 6
    (result,) = ACCURACY.findall(finished.stdout)
    last = events(run_dir, "eval")[-1]
    assert result == (f"{last['accuracy']:.4f}", str(last["correct"]), "360")
    first_line = finished.stdout[finished.stdout.index("no --dataset given") :].splitlines()[0]
    assert "digits" in first_line
