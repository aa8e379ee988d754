"""Runs that were moved, copied or killed, without the model and the folder they began with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from moved_runs import JOB, LABELS, contents, draw, invoke, save_base

from vit_colossal import TrainConfig
from vit_colossal.cli import main
from vit_colossal.errors import ConfigError
from vit_colossal.plan.plan import RunPlan
from vit_colossal.rundir.segments import read_segments
from vit_colossal.runtime.group import Topology
from vit_colossal.trained.saved import load_model, locate
from vit_colossal.trained.split import open_split
from vit_colossal.training.run import plan_run

pytestmark = pytest.mark.slow

TRAIN = ("train", *JOB, "--dataset", "ph", "--model", "./base", "--output-dir", "runs/one")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run of two epochs was trained; its checkpoints are of steps 4, 8 and 12."""
    home = tmp_path_factory.mktemp("home")
    draw(home / "ph" / "train", LABELS, 12, seed=1)
    draw(home / "ph" / "validation", LABELS, 5, seed=2)
    save_base(home / "base")
    flags = [*TRAIN, "--epochs", "2", "--save-every", "4", "--keep-last", "9"]
    (trained,) = invoke(home, (home, flags))
    assert trained.code == 0, trained.output
    return home


def killed(home: Path, place: Path, step: int) -> Path:
    """A copy of the run as it lay when it was killed behind a checkpoint."""
    run_dir = place / "run"
    shutil.copytree(home / "runs" / "one", run_dir, symlinks=True)
    for name in ("model", "predictions.parquet", "thumbnails"):
        path = run_dir / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    (run_dir / "metrics.jsonl").write_text("\n".join(kept) + '\n{"event": "tr')
    for checkpoint in (run_dir / "checkpoints").glob("step-*"):
        if int(checkpoint.name[5:]) > step:
            shutil.rmtree(checkpoint)
    for link in ("last", "best"):
        (run_dir / "checkpoints" / link).unlink(missing_ok=True)
    return run_dir


@pytest.fixture
def orphan(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A killed run in another folder, beside the data, with the base model replaced."""
    shutil.copytree(home / "ph", tmp_path / "ph")
    run_dir = killed(home, tmp_path / "far", 8)
    monkeypatch.chdir(tmp_path)
    record = json.loads((run_dir / "data.json").read_text())
    record["path"] = str(tmp_path / "ph")
    (run_dir / "data.json").write_text(json.dumps(record))
    return run_dir


def test_a_run_is_whole_from_its_start(home: Path) -> None:
    run_dir = home / "runs" / "one"
    assert not list(run_dir.rglob(".*unfinished*"))
    record = json.loads((run_dir / "data.json").read_text())
    assert (record["dataset"], record["path"]) == ("ph", str(home / "ph"))
    assert record["labels"] == list(LABELS)
    assert record["evaluation"] == {
        "name": "validation", "images": 15, "labels": dict.fromkeys(LABELS, 5)
    }  # fmt: skip
    base = json.loads((run_dir / "base" / "config.json").read_text())
    assert list(base["id2label"].values()) == list(LABELS)
    own, model = (run_dir / name / "preprocessor_config.json" for name in ("base", "model"))
    assert own.read_bytes() == model.read_bytes()


def test_a_killed_run_is_used_from_anywhere_without_its_base(orphan: Path, tmp_path: Path) -> None:
    """Here is no base model, and the name ph means what it meant."""
    assert main(["export", str(orphan), "out", "--checkpoint", "last"]) == 0
    assert locate("out").labels == LABELS
    flags = ["ph/validation", "--checkpoint", "last", "--device", "cpu"]
    assert main(["predict", str(orphan), *flags]) == 0
    link = tmp_path / "ein Link"
    link.symlink_to(orphan)
    saved = locate(str(link), "last")
    assert saved.step == 8 and load_model(saved).config.num_labels == 3
    assert len(open_split(TrainConfig(), saved).samples) == 15
    assert main(["report", str(link)]) == 0
    assert main(["push", str(link), "a/b", "--dry-run", "--checkpoint", "last"]) == 0


def test_a_killed_run_is_continued_to_the_bit(home: Path, orphan: Path, tmp_path: Path) -> None:
    """From its own config.yaml, in another working folder, with neither base nor data beside."""
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    copy = tmp_path / "copy"
    shutil.copytree(orphan, copy, symlinks=True)
    before = contents(orphan)
    (result,) = invoke(
        tmp_path,
        (elsewhere, ["train", "--config", str(copy / "config.yaml"), "--resume", "auto"]),
    )
    assert result.code == 0, result.output
    assert f"taking {tmp_path / 'ph'}, where the run began" in result.output
    assert "same layout, so bit-exact" in result.output
    assert "no longer the same run" not in result.output
    whole = home / "runs" / "one"
    for name in ("model/model.safetensors", "model/preprocessor_config.json", "model/config.json"):
        assert (copy / name).read_bytes() == (whole / name).read_bytes(), name
    # The copy alone was written to.
    assert contents(orphan) == before
    assert not list(elsewhere.iterdir())


def test_another_model_s_processor_is_no_continuation(orphan: Path, tmp_path: Path) -> None:
    save_base(tmp_path / "other", mean=0.7)
    config = TrainConfig(
        device="cpu", global_batch_size=6, dataset="ph", model="./other", epochs=2, save_every=4,
        output_dir=orphan, resume="auto",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="image processor is not the run's: image_mean"):
        plan_run(config, Topology())


def continuing(run_dir: Path, **settings: Any) -> RunPlan:
    """The plan of going on, in the folder that the data and the other models lie in."""
    values = {"dataset": "ph", "model": "./base", "epochs": 2, "resume": "auto", **settings}
    config = TrainConfig(
        device="cpu", global_batch_size=6, save_every=4, output_dir=run_dir, **values
    )
    return plan_run(config, Topology())[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "relu"),
        ("layer_norm_eps", 1e-3),
        ("hidden_dropout_prob", 0.3),
        ("attention_probs_dropout_prob", 0.3),
        ("initializer_range", 0.5),
    ],
)
def test_another_model_s_configuration_is_no_continuation(
    key: str, value: object, orphan: Path, tmp_path: Path
) -> None:
    save_base(tmp_path / "other")
    path = tmp_path / "other" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(ConfigError, match=f"its configuration is not the run's: {key}: "):
        continuing(orphan, model="./other")


@pytest.mark.parametrize("asked", ["flag", "config.yaml"])
def test_a_model_that_is_not_read_is_not_written_down(
    asked: str, orphan: Path, tmp_path: Path
) -> None:
    """Its weights are others; the run is still of those that it began with."""
    save_base(tmp_path / "other")
    path = orphan / "config.yaml"
    path.write_text(path.read_text().replace("model: ./base", "model: ./other"))
    plan = continuing(orphan, model="./other")
    assert plan.config.model == "./base"
    note = next(note for note in plan.notes if "--model ./other is not read" in note)
    assert "this stays the run of ./base" in note
    assert {part.settings["model"] for part in plan.segments} == {"./base"}


@pytest.mark.parametrize("size", [8, 12, 20, 32, 64])
def test_another_image_size_is_no_continuation(size: int, orphan: Path, home: Path) -> None:
    shutil.copytree(home / "base", orphan.parents[1] / "base")
    with pytest.raises(ConfigError, match=f"model.image_size: 16 in the checkpoint, {size} here"):
        continuing(orphan, image_size=size)


def test_the_run_s_own_image_size_changes_nothing(orphan: Path) -> None:
    plan = continuing(orphan, image_size=16)
    assert plan.spec.image_size == 16
    assert not any("interpolated" in note for note in plan.notes)


@pytest.mark.parametrize("which", ["step-000004", "checkpoints/step-000004"])
def test_a_checkpoint_is_called_by_its_name_in_the_run(which: str, orphan: Path) -> None:
    name = which if "/" not in which else str(orphan / which)
    checkpoint = continuing(orphan, resume=name).checkpoint
    assert checkpoint is not None and checkpoint.step == 4
    assert locate(str(orphan), name).step == 4


@pytest.mark.parametrize("which", ["", "checkpoints", "4", "step-000005", "checkpoints/step-4"])
def test_what_is_no_checkpoint_is_answered_with_those_there_are(which: str, orphan: Path) -> None:
    name = str(orphan / which) if which in ("", "checkpoints") or "/" in which else which
    for ask in (lambda: continuing(orphan, resume=name), lambda: locate(str(orphan), name)):
        with pytest.raises(ConfigError, match="has step-000008, step-000006, step-000004"):
            ask()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learning_rat: 3", "learning_rat: no such setting"),
        ("lr: fast", "--lr fast: "),
        ("epochs: 0", "--epochs 0: "),
        ("plugin: [1]", "--plugin "),
        ("- 1", "expected 'key: value' lines"),
        ("", "expected 'key: value' lines"),
    ],
)
def test_an_edited_configuration_is_told_what_is_wrong(text: str, words: str, orphan: Path) -> None:
    (orphan / "config.yaml").write_text(text)
    found = refused(orphan)
    assert "config.yaml: not the configuration of a run" in found and words in found


def test_a_finished_model_is_not_lost_unasked(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    run_dir = tmp_path / "run"
    shutil.copytree(home / "runs" / "one", run_dir, symlinks=True)
    shutil.rmtree(run_dir / "checkpoints")
    with pytest.raises(ConfigError, match="has a model and no checkpoint to go on from"):
        continuing(run_dir)
    assert continuing(run_dir, overwrite=True).checkpoint is None
    for settings in ({"overwrite": True, "resume": None}, {}):
        with pytest.raises(ConfigError, match=r"lies in --output-dir .*, which is begun anew"):
            continuing(run_dir, model=str(run_dir / "model"), **settings)


def evaluated(run_dir: Path, **settings: Any) -> tuple[int, str]:
    """How many images an evaluation has, and what it says; nothing is computed."""
    split = open_split(TrainConfig(**settings), locate(str(run_dir), "last"))
    return len(split.samples), "\n".join(split.notes)


def refused(run_dir: Path, **settings: Any) -> str:
    with pytest.raises(ConfigError) as found:
        evaluated(run_dir, **settings)
    return str(found.value)


def test_the_data_of_a_run_are_found_or_missed(orphan: Path, tmp_path: Path) -> None:
    (tmp_path / "ph").rename(tmp_path / "weg")
    text = refused(orphan)
    assert f"were at {tmp_path / 'ph'} (given as ph), which is not there" in text
    assert "--dataset PATH" in text
    count, notes = evaluated(orphan, dataset="weg")
    assert (count, notes) == (15, "")
    assert evaluated(orphan, dataset="weg", eval_split="train") == (36, "")


def test_the_same_data_beside_the_person_are_found(
    orphan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "ph").rename(tmp_path / "here" / "ph")
    monkeypatch.chdir(tmp_path / "here")
    count, notes = evaluated(orphan)
    assert count == 15
    assert "the same were found at" in notes


@pytest.mark.parametrize("change", ["another", "fewer", "changed", "relabelled", "renamed", "more"])
def test_other_data_of_the_same_name_are_said(change: str, orphan: Path, tmp_path: Path) -> None:
    validation = tmp_path / "ph" / "validation"
    photo = validation / "Äpfel" / "Bild 000.png"
    if change == "another":
        shutil.rmtree(tmp_path / "ph")
        draw(tmp_path / "ph" / "train", LABELS, 4, seed=8)
        draw(tmp_path / "ph" / "validation", LABELS, 2, seed=9)
    elif change == "fewer":
        photo.unlink()
    elif change == "changed":
        photo.write_bytes((validation / "dog" / "Bild 000.png").read_bytes())
    elif change == "relabelled":
        photo.rename(validation / "dog" / "Bild 900.png")
    elif change == "renamed":
        photo.rename(photo.with_name("ein Bild.png"))
    else:
        draw(tmp_path / "ph" / "train", LABELS[2:], 13, seed=3)
    words = {
        "another": "evaluation images 15 -> 6",
        "fewer": "evaluation images 15 -> 14 ('Äpfel' 5 -> 4)",
        "changed": "but the content or the name of a file",
        "relabelled": "evaluation images 15 -> 15 ('dog' 5 -> 6, 'Äpfel' 5 -> 4)",
        "renamed": "but the content or the name of a file",
        "more": "training images 36 -> 37 ('Äpfel' 12 -> 13)",
    }[change]
    text = refused(orphan)
    assert "holds other data than the run was evaluated on" in text
    assert words in text
    assert f"--dataset {tmp_path / 'ph'} evaluates on these" in text
    # A part of it is no better, however it is asked for.
    assert words in refused(orphan, max_eval_samples=3)
    # Named, it is evaluated, and said to be something else.
    _, notes = evaluated(orphan, dataset="ph")
    assert "not the data that" in notes and words in notes and "cannot be compared" in notes


def test_a_part_of_the_labels_is_matched_by_name(orphan: Path, tmp_path: Path) -> None:
    draw(tmp_path / "zwei", LABELS[1:], 3, seed=5)
    draw(tmp_path / "eins", LABELS[1:2], 4, seed=5)
    saved = locate(str(orphan), "last")
    two = open_split(TrainConfig(dataset="zwei"), saved)
    assert sorted(set(two.samples.labels.tolist())) == [1, 2]
    assert "2 of the model's 3 labels" in two.notes[-1] and "'dog'" in two.notes[-1]
    one = open_split(TrainConfig(dataset="eins"), saved)
    assert one.samples.labels.tolist() == [1] * 4
    draw(tmp_path / "fremd", ("Birnen", "dog"), 3, seed=5)
    assert "'Birnen'" in refused(orphan, dataset="fremd")


def test_a_checkpoint_of_another_run_is_refused(orphan: Path, tmp_path: Path) -> None:
    """It was copied into the folder of this one, and has the same shapes."""
    step = orphan / "checkpoints" / "step-000008"
    manifest = json.loads((step / "MANIFEST.json").read_text())
    from vit_colossal.checkpoints.files import _sha256_of

    for key, value in (("labels", ["a", "b", "c"]), ("data", "0" * 64)):
        changed = {**manifest, "identity": {**manifest["identity"], key: value}}
        changed["sha256"] = _sha256_of(changed)
        (step / "MANIFEST.json").write_text(json.dumps(changed))
        with pytest.raises(ConfigError, match=f"belongs to another run than .*: {key}"):
            locate(str(orphan), "last")


def test_a_run_of_an_earlier_version_keeps_working(home: Path, orphan: Path) -> None:
    for name in ("data.json", "segments.jsonl"):
        (orphan / name).unlink()
    shutil.rmtree(orphan / "base")
    with pytest.raises(ConfigError, match="has no base/, as earlier versions wrote none"):
        locate(str(orphan), "last")
    shutil.copytree(home / "base", orphan.parents[1] / "base")
    assert evaluated(orphan) == (15, "")
    (orphan.parents[1] / "ph" / "validation" / "dog" / "Bild 001.png").unlink()
    assert "counts then were not written down" in refused(orphan)


def test_settings_that_change_on_the_way(orphan: Path, tmp_path: Path) -> None:
    """Continued twice, then asked for less, then for nothing more; one process."""
    config = ["train", "--config", str(orphan / "config.yaml"), "--resume", "auto"]
    commands = (
        [*config, "--epochs", "3", "--lr", "5e-4", "--mixup", "0.2", "--save-every", "6"],
        [*config, "--epochs", "2"],
        [*config, "--max-steps", "17"],
        [*config, "--lr", "1e-2"],
        [*config, "--global-batch-size", "4"],
        ["check", str(orphan), "--record", "x", "--command", "y", "--references", "own.yaml"],
        ["report", str(orphan)],
        ["push", str(orphan), "a/b", "--dry-run"],
    )
    results = invoke(tmp_path, *((tmp_path, flags) for flags in commands))
    other, fewer, fewer_steps, nothing, batch, recorded, report, card = results
    assert other.code == 0, other.output
    line = next(x for x in other.output.splitlines() if "no longer the same run" in x)
    assert "--mixup none -> 0.2, --epochs 2 -> 3, --lr 0.0002 -> 0.0005: settings changed" in line
    assert "--save-every 4 -> 6: the steps are the same" in other.output
    assert "now spans 18 steps instead of 12" in other.output
    assert "--lr" not in other.output.replace(line, "")
    values = yaml.safe_load((orphan / "config.yaml").read_text())
    # What nothing was trained with is not what the run was trained with.
    assert (values["lr"], values["epochs"], values["mixup"]) == (5e-4, 3, 0.2)
    assert [part.first_step for part in read_segments(orphan)] == [0, 8]
    assert (fewer.code, fewer_steps.code) == (2, 2)
    assert "--epochs 2 (12 steps) is less than was trained" in fewer.output
    assert "has 18 steps (3 epochs): give --epochs 3 or more" in fewer.output
    assert "--max-steps 17 is less than was trained" in fewer_steps.output
    assert nothing.code == 0 and "nothing is left to train: all 18 steps" in nothing.output
    assert "without effect, as nothing is trained: --lr 0.0005 -> 0.01" in nothing.output
    assert batch.code == 2 and "global batch size: 6 in the checkpoint, 4 here" in batch.output
    assert "--global-batch-size 6 -> 4" in batch.output
    assert recorded.code == 2 and "changed on the way" in recorded.output
    assert report.code == 0
    page = (orphan / "report.html").read_text()
    assert "settings changed on the way, from step 8:" in page and "18 of 18 steps" in page
    assert (
        card.code == 0
        and "| changed on the way | from step 8: --mixup none -> 0.2, --epochs" in card.output
    )


def test_going_back_to_an_earlier_checkpoint(home: Path, tmp_path: Path) -> None:
    """What lay behind it is of other settings: it must not stand for what is trained now."""
    run_dir = tmp_path / "run"
    # As tools copy that know no links.
    shutil.copytree(home / "runs" / "one", run_dir)
    old = (run_dir / "checkpoints" / "step-000012" / "weights.safetensors").read_bytes()
    config = ["train", "--config", str(run_dir / "config.yaml"), "--lr", "3e-4"]
    config += ["--resume", str(run_dir / "checkpoints" / "step-000004")]
    commands = (home, config), (home, [*config[:-2], "--resume", "auto"])
    back, again = invoke(tmp_path, *commands)
    assert back.code == 0, back.output
    assert f"deleted {run_dir / 'checkpoints' / 'step-000012'}" in back.output
    assert (run_dir / "checkpoints" / "last").is_symlink()
    step = run_dir / "checkpoints" / "step-000012"
    assert (run_dir / "checkpoints" / "last").resolve() == step.resolve()
    assert (step / "weights.safetensors").read_bytes() != old
    assert [part.first_step for part in read_segments(run_dir)] == [0, 4]
    assert again.code == 0 and "nothing is left to train" in again.output


def test_a_model_that_the_run_has_left_behind_is_said(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import logging

    monkeypatch.setattr(logging.getLogger("vit_colossal"), "propagate", True)
    run_dir = tmp_path / "run"
    shutil.copytree(home / "runs" / "one", run_dir, symlinks=True)
    assert locate(str(run_dir)).labels == LABELS
    assert caplog.text == ""
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"event": "start", "step": 12, "epoch": 2, "elapsed": 9}\n')
    locate(str(run_dir))
    assert "has gone on since its model was saved" in caplog.text
