"""``vit-colossal report`` on run directories of every kind, as text; a browser looks elsewhere."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from run_directories import make_run, pictures, predict
from vit_colossal.checkpoints import files as checkpoint
from vit_colossal.cli import main
from vit_colossal.data.originals import Originals
from vit_colossal.evaluation import predictions
from vit_colossal.evaluation.predictions import Predictions
from vit_colossal.report.classes import class_view
from vit_colossal.report.figures import MAX_POINTS, Series, draw, thinned
from vit_colossal.report.page import size
from vit_colossal.text import duration, in_millions

LABELS = tuple(f"digit {index}" for index in range(10))
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "{{ 7 * 7 }}",
    "Ärger & Co",
)


def report(*arguments: object) -> str:
    """Write a report through the command line; the page."""
    flags = [str(argument) for argument in arguments]
    assert main(["report", *flags]) == 0
    path = Path(flags[-1]) if "--output" in flags else Path(flags[0]) / "report.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "finished", LABELS, plugin="hybrid", pp=2)


def test_a_finished_run_is_shown_whole(finished: Path) -> None:
    page = report(finished)
    found = predictions.load(finished)
    assert found is not None
    right, wrong = int(found.right.sum()), int((~found.right).sum())
    assert f"{right}/{len(found)}" in page
    assert f"{right} right and {wrong} wrong" in page
    for title in ("Loss", "Accuracy", "Learning rate", "Images per second", "Peak memory"):
        assert f'<span class="chart-title">{title}' in page
    assert page.count('src="data:image/jpeg;base64,') == min(wrong, 72) + 24
    assert "finished after step 200" in page
    assert page.index("No reference to judge it by") > page.index(">Setup<")
    assert len(page) < 2_000_000


def test_only_what_is_not_the_default_is_in_view(finished: Path) -> None:
    shown, folded = report(finished).split("Configuration, defaults")[:2]
    names = re.findall(r"<code>(\w+)</code></th>", shown.split("what is not the default")[1])
    assert {"plugin", "pp"} <= set(names)
    assert not {"model_config", "lr_schedule"} & set(names)  # the first has an alias
    assert "<code>model_config</code>" in folded


def test_the_page_loads_nothing(finished: Path) -> None:
    page = report(finished)
    loaded = re.findall(r"""(?:src|href|action|poster)\s*=\s*["']?([^"'\s>]+)""", page)
    assert loaded
    assert {target for target in loaded if not target.startswith(("#", "data:"))} == set()
    assert not re.search(r"@import|url\((?!#)", page)


def test_every_picture_and_drawing_has_words(finished: Path) -> None:
    page = report(finished)
    assert all(re.search(r'alt="[^"]{8,}"', tag) for tag in re.findall(r"<img[^>]*>", page))
    drawings = re.findall(r'role="img" aria-label="([^"]*)"', page)
    assert len(drawings) == page.count("<svg")
    assert "evaluation: 2 at step 50, 0.5 at step 200" in drawings[0]
    assert len(re.findall(r"<table", page)) == len(re.findall(r"<caption", page))


def test_ids_are_unique(finished: Path) -> None:
    ids = re.findall(r'\sid="([^"]*)"', report(finished))
    # matplotlib names a marker by its content: two alike in one drawing are the same.
    assert [
        one for one in ids if ids.count(one) > 1 and not re.search(r"-m[0-9a-f]{10}$", one)
    ] == []


def test_labels_are_text_and_never_markup(tmp_path: Path) -> None:
    page = report(make_run(tmp_path / "<b>run</b>", HOSTILE))
    assert page.count("<script") == 1
    assert "<img src=x" not in page
    assert "<b>run" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7 * 7 }}" in page
    assert "Ärger &amp; Co" in page


def test_a_run_that_died_is_shown_as_far_as_it_got(tmp_path: Path) -> None:
    run = make_run(tmp_path / "died", LABELS, ended=False)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"event": "train", "ste')
    page = report(run)
    assert "no end: at step 150" in page
    assert "as a killed run leaves them: 1" in page
    assert "no predictions.parquet" in page
    assert "Confusion matrix" not in page
    assert '<span class="chart-title">Loss' in page


def drop(*names: str) -> Callable[[Path], None]:
    return lambda run: [(run / name).unlink() for name in names] and None


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda run: (run / name).write_text(text) and None


BROKEN = {
    "no configuration": (drop("config.yaml"), "config.yaml is missing"),
    "no environment": (drop("environment.json"), "environment.json is missing"),
    "no metrics": (drop("metrics.jsonl"), "metrics.jsonl is missing"),
    "empty metrics": (write("metrics.jsonl", ""), "no event yet"),
    "metrics of something else": (
        write("metrics.jsonl", "[1]\n{}\n"),
        "as a killed run leaves them: 2",
    ),
    "a configuration of something else": (write("config.yaml", "- 1"), "no names and values"),
    "an environment cut off": (write("environment.json", "{"), "environment.json is unreadable"),
    "predictions cut off": (write("predictions.parquet", "PAR1"), "not the predictions of a run"),
    "older metrics": (
        write(
            "metrics.jsonl",
            '{"event":"eval","step":1,"epoch":1,"elapsed":1,"accuracy":0.5,'
            '"correct":1,"total":2}\n',
        ),
        "predictions.parquet is of another evaluation",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_missing_or_broken_is_said_and_the_rest_is_shown(what: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", LABELS)
    spoil, message = BROKEN[what]
    spoil(run)
    page = report(run)
    assert message in page
    assert "<h3" in page


def test_losses_that_are_not_finite_are_gaps(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", LABELS)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines[5:8]:
        line["loss"] = float("nan")
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    points = json.loads(re.findall(r'data-points="([^"]*)"', report(run))[0].replace("&#34;", '"'))
    assert len(points[0]["at"]) == 20 - sum(line["event"] == "train" for line in lines[5:8])


def test_several_runs_stand_side_by_side_with_what_differs(finished: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", LABELS, seed=3, plugin="zero1", global_batch_size=64)
    page = report(finished, other, "--output", tmp_path / "deep" / "both.html")
    differing = page[page.index("Settings that differ") :].split("</table>")[0]
    rows = dict(re.findall(r"<code>(\w+)</code></th>((?:<td>.*?</td>)+)", differing))
    assert {"plugin", "pp", "seed", "global_batch_size"} == rows.keys()
    assert re.findall(r"<code>(.*?)</code>", rows["plugin"]) == ["hybrid", "zero1"]
    assert page.count('<details class="run"') == 2


def test_a_run_without_a_name_of_its_own_is_told_by_its_path(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name / "run", LABELS) for name in ("a", "b")]
    page = report(*runs, "--output", tmp_path / "both.html")
    assert all(f"<h2>{run}</h2>" in page for run in runs)


def test_checkpoints_are_verified(tmp_path: Path) -> None:
    import torch

    run = make_run(tmp_path / "run", LABELS)
    tensors = {name: {"x": torch.zeros(4)} for name in checkpoint.TENSORS}
    for step in (50, 100):
        checkpoint.write(run / "checkpoints", step, tensors, {}, {})
    checkpoint.point(run / "checkpoints", "last", run / "checkpoints" / "step-000100")
    (run / "checkpoints" / "step-000050" / "weights.safetensors").write_bytes(b"x")
    page = report(run)
    rows = re.findall(r'<tr><th scope="row">(step-\d+)(.*?)</tr>', page, re.DOTALL)
    assert [name for name, _ in rows] == ["step-000100", "step-000050"]
    assert ">valid<" in rows[0][1] and ">last<" in rows[0][1]
    assert "not valid: weights.safetensors has 1 bytes" in rows[1][1]


def test_refusals(tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, problem in (
        ([tmp_path / "nowhere"], "no such run directory"),
        ([tmp_path / "empty"], "not a run"),
        ([finished, "--output", tmp_path], "cannot be written"),
    ):
        assert main(["report", *map(str, arguments)]) == 2
        assert problem in capsys.readouterr().err
    assert main(["report", str(finished), str(finished)]) == 2
    assert "several runs need --output FILE" in capsys.readouterr().err


def test_many_labels_become_a_picture(tmp_path: Path) -> None:
    page = report(make_run(tmp_path / "run", tuple(f"label {index}" for index in range(200))))
    assert 'class="matrix-picture" src="data:image/png;base64,' in page
    assert "Most frequent mistakes<" in page
    assert len(page) < 2_000_000


def test_too_many_labels_for_a_picture_leave_the_most_confused_pairs(tmp_path: Path) -> None:
    page = report(make_run(tmp_path / "run", tuple(f"label {index}" for index in range(300))))
    assert "matrix" not in page[page.index("<body") :].replace("confusion matrix of 300", "")
    mistakes = page[page.index("Most frequent mistakes, in place of") :].split("</table>")[0]
    assert mistakes.count("<tr>") == 1 + min(40, page.count("instead of</span>"))


def test_large_counts_of_a_matrix_are_short_and_said_in_full() -> None:
    counts = np.array([[123_456, 9_999], [0, 7]])
    label, prediction = np.repeat([[0, 0], [0, 1], [1, 1]], [123_456, 9_999, 7], axis=0).T
    scores = np.ones((len(label), 2), np.float32)
    found = Predictions(("a", "b"), label, prediction, scores[:, 0], scores.astype(int), scores)
    view = class_view(found)
    assert [[cell.count for cell in row] for row in view.matrix] == counts.tolist()
    assert [[cell.text for cell in row] for row in view.matrix] == [["123k", "9999"], ["0", "7"]]
    assert view.digits == 4


def test_one_or_two_points_are_points_and_no_line() -> None:
    for count in (1, 2, 3):
        chart = draw("Loss", "step", [Series("a", list(range(count)), [1.0] * count)], key="k")
        assert chart is not None
        lines = re.findall(
            r'<path d="[^"]*"[^>]* style="fill: none; stroke: var\(--c1\)', chart.svg
        )
        marks = len(re.findall(r'<use href="#k-m\w+" x="[\d.]+" y="[\d.]+" style="fill', chart.svg))
        assert (len(lines), marks) == ((1, 0) if count == 3 else (0, count))


def test_points_on_the_edge_are_drawn_whole() -> None:
    curve = Series("a", [0, 1, 2, 3], [1.0] * 4, marked=True)
    chart = draw("Accuracy", "step", [curve], key="k", y_axis="share")
    assert chart is not None
    marks = re.findall(r"<g( [^>]*)?>\s*<use [^>]*style=\"fill: var\(--c1\)", chart.svg)
    assert marks and not any("clip-path" in mark for mark in marks)
    assert ">1</text>" in chart.svg  # the axis says which edge that is


def test_a_reference_that_was_asked_for_and_does_not_fit_is_said_at_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", LABELS)
    page = report(run, "--reference", "no-such", "--output", tmp_path / "run.html")
    before = page[: page.index("Curves</h3>")]
    assert "environment.json: dataset: Field required" in before  # why it cannot be judged


def test_predictions_come_back_as_they_were_saved(tmp_path: Path) -> None:
    found = predict(LABELS, count=100)
    predictions.save(tmp_path, found, pictures(100, size=300))
    again = predictions.load(tmp_path)
    assert again is not None
    assert again.labels == found.labels
    for name in ("label", "prediction", "loss", "top_labels", "top_scores"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    worst = predictions.worst_wrong(found)
    assert len(worst) == min(24, int((~found.right).sum()))
    assert list(found.loss[worst]) == sorted(found.loss[~found.right], reverse=True)[: len(worst)]
    kept = {*predictions.shown_wrong(found), *predictions.sample_right(found)}
    assert {int(path.stem) for path in (tmp_path / "thumbnails").iterdir()} == kept
    with Image.open(predictions.thumbnail(tmp_path, worst[0])) as picture:
        assert picture.size == (160, 160)
    predictions.clear(tmp_path)
    assert predictions.load(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_each_class_has_some_of_its_mistakes_shown() -> None:
    found = predict(LABELS, count=2000)
    shown = predictions.shown_wrong(found)
    assert set(predictions.worst_wrong(found)) <= set(shown)
    assert list(found.loss[shown]) == sorted(found.loss[shown], reverse=True)
    counts = np.bincount(found.label[shown], minlength=len(LABELS))
    assert counts.sum() == 72
    assert counts.min() >= 4


def confident(label: list[int], prediction: list[int], score: list[float]) -> Predictions:
    """Two labels, and how sure the model is of the one it says."""
    truth, said = np.array(label), np.array(prediction)
    best = np.array(score, np.float32)
    own = np.where(truth == said, best, 1 - best)
    keys = tuple(f'{index}, "<b>".png' for index in range(len(label)))
    top = np.stack([said, 1 - said], axis=1)
    scores = np.stack([best, 1 - best], axis=1)
    return Predictions(("=cat", "<dog>"), truth, said, -np.log(own), top, scores, keys)


def test_suspected_label_errors_are_those_that_the_model_is_as_sure_of_as_ever() -> None:
    # On average it gives dogs 0.8: of cats that it takes for dogs, 0.79 is no suspect.
    found = confident([1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0], [0.7, 0.9, 0.79, 0.85, 0.95, 0.99])
    assert predictions.suspected(found) == [4, 3]
    weak = confident([1, 1, 1, 0], [0, 0, 0, 1], [0.9, 0.9, 0.9, 0.45])
    assert 3 not in predictions.suspected(weak)  # as sure as on average, and still a guess


def test_suspected_label_errors_are_listed_and_saved_as_csv(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", LABELS)
    found = confident([1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0], [0.7, 0.9, 0.79, 0.85, 0.95, 0.99])
    predictions.clear(run)
    (run / "metrics.jsonl").write_text("")
    predictions.save(run, found, pictures(6), Named(found.keys))
    page = report(run)
    data = re.findall(r'href="data:text/csv;charset=utf-8;base64,([^"]*)" download', page)
    rows = list(csv.reader(io.StringIO(base64.b64decode(data[0]).decode())))
    assert rows == [
        ["key", "label", "prediction", "prediction_score", "label_score"],
        ['4, "<b>".png', "=cat", "<dog>", "0.950000", "0.050000"],
        ['3, "<b>".png', "=cat", "<dog>", "0.850000", "0.150000"],
    ]
    assert "<b>&#34;" not in page
    assert page.count("4, &#34;&lt;b&gt;&#34;.png") == 3  # beside the picture, its words, the list
    assert page.count("as the model saw it") == 3  # of every second one the file is gone


class Named(Originals):
    """Images that have names; every second one can still be had."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__("test", np.arange(len(names)), None, "image", np.arange(len(names)))
        object.__setattr__(self, "names", names)

    def keys(self) -> list[str]:
        return list(self.names)  # type: ignore[attr-defined]

    def pictures(self, chosen: Sequence[int], longest: int) -> Iterator[Image.Image | None]:
        for index in chosen:
            yield Image.new("RGB", (longest, 90)) if index % 2 else None


def test_predictions_of_earlier_versions_have_numbers_for_keys(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", LABELS)
    assert re.search(r'class="muted small key">image \d+', report(run))


def test_predictions_of_one_kind_only(tmp_path: Path) -> None:
    found = predict(LABELS, count=30)
    truth = found.prediction
    all_right = predictions.Predictions(
        LABELS, truth, truth, found.loss, found.top_labels, found.top_scores
    )
    assert predictions.worst_wrong(all_right) == []
    assert predictions.sample_right(all_right, 100) == list(range(30))
    all_wrong = predictions.Predictions(
        LABELS, (truth + 1) % 10, truth, found.loss, found.top_labels, found.top_scores
    )
    assert predictions.sample_right(all_wrong) == []


def test_long_curves_keep_their_peaks() -> None:
    values = np.sin(np.arange(100_000) / 1000)
    values[51_234], values[70_001] = 9, -7
    kept = thinned(Series("long", list(range(100_000)), list(values)))
    assert len(kept.x) <= MAX_POINTS + 2
    assert (max(kept.y), min(kept.y)) == (9, -7)
    assert (kept.x[0], kept.x[-1]) == (0, 99_999)
    assert list(kept.x) == sorted(kept.x)


def test_nothing_to_draw_is_no_chart() -> None:
    nan = float("nan")
    assert draw("Loss", "step", [Series("a", [], []), Series("b", [1], [nan])], key="k") is None


def test_numbers_for_people() -> None:
    assert [size(n) for n in (10, 2048, 3 * 2**20, 5 * 2**40)] == [
        "10 B",
        "2.0 KiB",
        "3.0 MiB",
        "5120.0 GiB",
    ]
    assert [duration(s) for s in (8.4, 61, 3725)] == ["8 s", "1:01 min", "1:02:05 h"]
    assert [in_millions(n) for n in (579, 9_999, 48_195)] == ["579", "9,999", "0.05 M"]
