"""`vit-colossal predict` on real files: every format, and what cannot be read."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from launching import environment, run
from vit_colossal import ConfigError, predict
from vit_colossal.cli import main

LABELS = [*(f"digit {digit}" for digit in range(10)), "inverted"]


def last_evaluation(run_dir: Path) -> dict[str, float]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == "eval"][-1]


def picture(pictures: Path, number: int) -> Path:
    return next(pictures.rglob(f"{number:03d}-*.png"))


def records(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_it_labels_as_training_evaluated(trained: Path, pictures: Path) -> None:
    """The same preprocessing: of the same images as many are right."""
    result = predict(trained, pictures, device="cpu")
    assert len(result.predictions) == 133
    assert result.unreadable == []
    right = 0
    for prediction in result.predictions:
        label = int(Path(prediction.file).stem.partition("-")[2])
        right += prediction.label == LABELS[label]
        scores = [score for _, score in prediction.top]
        assert scores == sorted(scores, reverse=True)
        assert len(scores) == 5
    assert right == last_evaluation(trained)["correct"]


def test_batches_and_labels_do_not_change_a_prediction(trained: Path, pictures: Path) -> None:
    first = predict(trained, pictures, device="cpu", top_k=99, batch_size=64).predictions
    second = predict(trained / "model", pictures, device="cpu", top_k=1, batch_size=7).predictions
    assert [p.file for p in first] == [p.file for p in second]
    assert [p.label for p in first] == [p.label for p in second]
    assert {len(p.top) for p in first} == {11}
    for prediction in first:
        assert sum(score for _, score in prediction.top) == pytest.approx(1, abs=1e-5)


def test_a_checkpoint_predicts_as_the_model_that_ended_there(trained: Path, pictures: Path) -> None:
    final = predict(trained, pictures, device="cpu").predictions
    last = predict(trained, pictures, device="cpu", checkpoint="last").predictions
    assert last == final


def test_opened_images_and_paths_mix(trained: Path, pictures: Path) -> None:
    file = picture(pictures, 1)
    with Image.open(file) as image:
        broken = Image.fromarray(np.full((4, 4), np.nan, np.float32))
        result = predict(trained, [image, file, broken], device="cpu")
    assert [p.file for p in result.predictions] == ["image 0", str(file)]
    assert result.predictions[0].top == result.predictions[1].top
    assert [u.file for u in result.unreadable] == ["image 2"]


def test_one_opened_image_is_enough(trained: Path, pictures: Path) -> None:
    with Image.open(picture(pictures, 1)) as image:
        [alone] = predict(trained, image, device="cpu").predictions
        [listed] = predict(trained, [image], device="cpu").predictions
    assert alone == listed
    [none] = predict(trained, [3], device="cpu").unreadable  # type: ignore[list-item]
    assert none.reason == "of type int, neither a path nor an opened image"


@pytest.fixture
def mixed(pictures: Path, tmp_path: Path) -> Path:
    """Two good images among what is none; the names are awkward."""
    folder = tmp_path / "mixed [1]"
    (folder / ".hidden").mkdir(parents=True)
    good = (picture(pictures, 0), picture(pictures, 1))
    for number, name in ((0, "größe 1.png"), (1, "b;,\"'.png"), (0, ".hidden/c.png")):
        (folder / name).write_bytes(good[number].read_bytes())
    (folder / "empty.png").touch()
    (folder / "page.jpg").write_text("<html>404</html>")
    (folder / "half.png").write_bytes(good[0].read_bytes()[:60])
    (folder / "notes.txt").write_text("not looked at")
    return folder


def test_what_cannot_be_read_is_listed_and_not_fatal(
    trained: Path, mixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(mixed), "gone.png", "*.nothing", "https://example.org/cat.jpg"]
    assert main(["predict", str(trained), *names, "--device", "cpu"]) == 0
    output = capsys.readouterr()
    found = records(output.out)
    assert [Path(str(row["file"])).name for row in found] == ["b;,\"'.png", "größe 1.png"]
    lines = output.err.splitlines()
    assert lines[-1] == "2 images labelled, 6 not read"
    for part in ("gone.png: no such file", "*.nothing: no file matches", "not fetched"):
        assert sum(part in line for line in lines) == 1, part
    for part in ("empty.png", "page.jpg", "half.png"):
        assert sum(part in line for line in lines) == 1, part
    assert "Traceback" not in output.err


def test_only_bad_images_are_a_failure(
    trained: Path, mixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(trained), str(mixed / "empty.png"), "--device", "cpu"]) == 1
    assert "0 images labelled, 1 not read" in capsys.readouterr().err


def test_the_formats_say_the_same(
    trained: Path, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", str(trained), str(mixed), "--device", "cpu", "--top-k", "3"]

    def printed(*flags: str) -> str:
        assert main([*command, *flags]) == 0
        return capsys.readouterr().out

    rows = records(printed("--format", "jsonl"))
    assert json.loads(printed("--format", "json")) == rows
    table = list(csv.reader(io.StringIO(printed("--format", "csv"))))
    assert table[0] == ["file", "label", "score", "label_2", "score_2", "label_3", "score_3"]
    for cells, row in zip(table[1:], rows, strict=True):
        pairs = list(zip(cells[1::2], map(float, cells[2::2]), strict=True))
        expected = [(top["label"], top["score"]) for top in row["predictions"]]  # type: ignore[attr-defined]
        assert (cells[0], pairs) == (row["file"], expected)
    lines = printed("--format", "table").splitlines()
    assert lines[0].split() == ["file", "label", "score", "then"]
    assert str(rows[0]["predictions"][0]["label"]) in lines[1]  # type: ignore[index]
    printed("--output", str(tmp_path / "out.csv"))
    assert list(csv.reader((tmp_path / "out.csv").open(newline=""))) == table


def test_an_output_file_is_complete_or_absent_and_not_replaced(
    trained: Path, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "found.json"
    file.write_text("mine")
    command = ["predict", str(trained), str(mixed), "--device", "cpu", "--output", str(file)]
    assert main(command) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert file.read_text() == "mine"
    assert main([*command, "--overwrite"]) == 0
    assert len(json.loads(file.read_text())) == 2
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_refusals(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {
        (str(tmp_path / "no"), "x.png"): "no such model",
        ("vit-micro", "x.png"): "a preset without weights",
        (str(trained / "model"), "x.png", "--checkpoint", "last"): "is no run",
        (str(trained), "x.png", "--checkpoint", "step-9"): "no checkpoint at",
        (str(trained), "x.png", "--top-k", "0"): "--top-k 0: input should be greater",
        (str(trained), "x.png", "--output", str(tmp_path / "no" / "x")): "in an existing folder",
    }
    for flags, problem in rows.items():
        assert main(["predict", *flags]) == 2, flags
        assert problem in capsys.readouterr().err
    with pytest.raises(ConfigError, match="batch-size"):
        predict(trained, [], batch_size=0)


def test_a_model_without_its_head_is_no_classifier(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "headless"
    folder.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).write_bytes((trained / "model" / name).read_bytes())
    weights = load_file(trained / "model" / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "classifier" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    assert main(["predict", str(folder), "x.png"]) == 2
    assert "classifier" in capsys.readouterr().err


def test_paths_on_stdin_and_no_colossalai(trained: Path, pictures: Path) -> None:
    """Through the real program, which never needs ColossalAI or a process group for this."""
    script = (
        "import sys\nfrom vit_colossal.cli import main\ncode = main(sys.argv[1:])\n"
        "assert not any(name.startswith('colossalai') for name in sys.modules)\nsys.exit(code)"
    )
    names = [picture(pictures, 0), picture(pictures, 1)]
    finished = subprocess.run(
        [sys.executable, "-c", script, "predict", str(trained), "-", "--device", "cpu"],
        input=b"\n".join([*map(os.fsencode, names), b"", b"not-\xff-there.png"]) + b"\n",
        capture_output=True,
        env=environment(),
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    assert [row["file"] for row in records(finished.stdout.decode())] == [str(n) for n in names]
    assert b"2 images labelled, 1 not read" in finished.stderr
    assert b"it/s" not in finished.stderr


def test_a_reader_that_leaves_early_is_no_crash(trained: Path, pictures: Path) -> None:
    program = f"{sys.executable} -m vit_colossal predict {trained} {pictures} --batch-size 1"
    finished = run(["bash", "-c", f"{program} --device cpu | head -n 1"], timeout_s=120)
    assert len(finished.stdout.splitlines()) == 1
    assert "Traceback" not in finished.stderr
    assert "Exception" not in finished.stderr
