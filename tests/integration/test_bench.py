"""The bench command does its work and keeps its rows; nothing here judges a speed."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from torch.autograd import DeviceType

from launching import ROOT, run, warm, warm_programs, with_warm_children
from vit_colossal.bench.compare import Row
from vit_colossal.bench.config import BenchConfig, make_cases
from vit_colossal.bench.phases import DATA, OPTIMIZER, PIPELINE, STEP, divide, merge, subtract
from vit_colossal.bench.report import as_markdown, same_work, summarize
from vit_colossal.bench.timeline import BACKWARD, FORWARD, UPDATE, Span, idle_share
from vit_colossal.config.reading import load_config
from vit_colossal.errors import ConfigError

pytestmark = pytest.mark.slow

PEERS = ROOT / "benchmarks" / "peers"
SETTINGS = {
    "model": "vit-micro",
    "model_config": {"hidden_size": 32, "num_hidden_layers": 2},
    "dataset": "digits",
    "global_batch_size": 16,
    "precision": "fp32",
    "device": "cpu",
}
#: Flops and layout of a row that no test here depends on.
FACTS: dict[str, Any] = {
    **{"device": "cpu", "layout": "", "batches": "", "flops_per_image": 1, "bubble": None},
    "global_batch": 16,
}


#: How long each process of a case takes at least to start.
START_S = 0.5


def bench(cases: list[dict[str, Any]], folder: Path, *flags: str, python: str = "") -> Any:
    file = folder / "cases.yaml"
    file.write_text(yaml.safe_dump({"settings": SETTINGS, "cases": cases}))
    slow = folder / "python"
    slow.write_text(f'#!/bin/sh\nsleep {START_S}\nexec {warm_programs()}/python "$@"\n')
    slow.chmod(0o755)
    command = [
        *warm("-m", "vit_colossal", "bench", "--cases", str(file)),
        *("--steps", "2", "--warmup-steps", "2", "--repetitions", "1", "--profile-steps", "1"),
        *("--output-dir", str(folder / "out"), *flags),
    ]
    return run(command, timeout_s=400, env=with_warm_children(python or slow), cwd=folder)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("bench")
    broken = folder / "broken.py"
    broken.write_text(f"import sys; sys.path.insert(0, {str(PEERS)!r})\nimport measure\n")
    with broken.open("a") as script:
        script.write("def work(flags): raise RuntimeError('no such luck')\n")
        script.write("measure.run_and_report(work, '')\n")
    one, two = ({"processes": count, "threads": 1} for count in (1, 2))
    cases = [
        {"name": "plain DDP", "peer": str(PEERS / "ddp_loop.py"), **two},
        {"name": "ddp", **two},
        {"name": "pp2", **two, "settings": {"plugin": "hybrid", "pp": 2}},
        {"name": "Trainer", "peer": str(PEERS / "hf_trainer.py"), "data": "real", **two},
        {"name": "ddp real", "data": "real", **one},
        {"name": "gemini", **two, "settings": {"plugin": "gemini"}},
        {"name": "broken", "peer": str(broken), **one},
    ]
    return folder, bench(cases, folder)


def document(measured: tuple[Path, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((measured[0] / "out/bench.json").read_text())
    return found


def test_every_case_has_its_row(measured: tuple[Path, Any]) -> None:
    folder, finished = measured
    assert finished.returncode == 0, finished.output
    assert finished.left_over == []
    errors = {case["name"]: case.get("error") for case in document(measured)["cases"]}
    assert errors.pop("gemini").startswith("refused: --plugin gemini refuses --precision fp32")
    assert errors.pop("broken") == "no such luck"
    assert set(errors.values()) == {None}
    table = (folder / "out/bench.md").read_text()
    assert "no such luck" in table and "refused:" in table
    assert (folder / "out/bench.png").stat().st_size > 10_000


def test_a_pipeline_has_a_timeline(measured: tuple[Path, Any]) -> None:
    cases = {case["name"]: case for case in document(measured)["cases"]}
    assert cases["ddp"]["timeline"] is None
    case = cases["pp2"]
    ranks = [[Span(*span) for span in rank["spans"]] for rank in case["timeline"]]
    assert [rank["stage"] for rank in case["timeline"]] == [0, 1]
    for spans in ranks:
        kinds = [span.kind for span in spans]
        assert [kinds.count(kind) for kind in (FORWARD, BACKWARD, UPDATE)] == [8, 8, 1]
        assert all(before.end <= after.start for before, after in pairwise(spans))
    first, last = ([span for span in spans if span.kind == FORWARD] for spans in ranks)
    # A micro-batch is with the first stage before it is with the last one.
    assert all(one.end <= other.start for one, other in zip(first, last, strict=True))
    assert [span.kind for span in ranks[0]][:2] == [FORWARD, FORWARD]  # 1F1B with two stages
    assert [span.kind for span in ranks[1]][:2] == [FORWARD, BACKWARD]
    assert 0 < idle_share(ranks) < 1
    picture = measured[0] / f"out/timeline-{case['slug']}.png"
    assert picture.stat().st_size > 10_000


def test_the_idle_share_is_what_no_stage_computes() -> None:
    first = [Span(FORWARD, 0, 2), Span(BACKWARD, 6, 8), Span(UPDATE, 8, 9)]
    last = [Span(FORWARD, 2, 4), Span(BACKWARD, 4, 6), Span(UPDATE, 6, 9)]
    assert idle_share([first, last]) == pytest.approx(0.5)


def test_cases_of_the_same_work_have_the_same_losses(measured: tuple[Path, Any]) -> None:
    groups = document(measured)["same_work"]
    members = {group["images"]: set(group["losses"]) for group in groups}
    assert members == {
        "synthetic": {"plain DDP", "ddp", "pp2"},
        "digits": {"Trainer", "ddp real"},
    }
    for group in groups:
        assert group["equal"]
        assert all(len(losses) == 4 for losses in group["losses"].values())
        assert max(group["relative_difference"].values()) < 1e-5
    losses = [loss for group in groups for row in group["losses"].values() for loss in row]
    assert len(set(losses)) > 4  # of different steps and images, so not all the same


def test_rows_that_are_no_peers_have_their_prediction(measured: tuple[Path, Any]) -> None:
    """From rates that were measured first, once for two processes and once for one."""
    folder, finished = measured
    assert finished.stderr.count("measuring on 2 processes") == 1, finished.output
    assert finished.stderr.count("measuring on 1 process,") == 1
    cases = {case["name"]: case for case in document(measured)["cases"]}
    for name in ("ddp", "pp2", "ddp real"):
        case, guess = cases[name], cases[name]["predicted"]
        seconds = 16 / case["images_per_second"]
        assert guess["step_seconds"] > 0 and guess["growth_bytes"] > 0 and not guess["why_not"]
        assert guess["step_error"] == pytest.approx(guess["step_seconds"] / seconds - 1)
        assert 0 < case["growth_bytes"] < case["peak_memory_bytes"]
    assert {name for name, case in cases.items() if case["predicted"] is None} == {
        *("plain DDP", "Trainer", "gemini", "broken")
    }
    assert "| mean step ms | predicted | error |" in (folder / "out/bench.md").read_text()
    assert "mean step ms  predicted" in finished.stdout


def test_numbers_are_what_they_are_called(measured: tuple[Path, Any]) -> None:
    folder, _ = measured
    cases = {case["name"]: case for case in document(measured)["cases"]}
    for name in ("plain DDP", "ddp", "pp2", "Trainer", "ddp real"):
        case = cases[name]
        [raw] = (folder / "out/raw").glob(f"{name.replace(' ', '-')}-????????????-0.json")
        window = json.loads(raw.read_text())["window_seconds"]
        # Neither two replicas nor two stages make more of a global batch than it is.
        assert case["images_per_second"] == pytest.approx(16 * 2 / window)
        assert 0 < case["step_seconds"] <= case["step_seconds_p95"] <= window
        assert case["time_to_first_step"] > START_S  # it counts from the process's start
        assert 100 * 2**20 < case["peak_memory_bytes"] < 8 * 2**30
        assert case["mfu"] is None  # nobody knows a CPU's peak
    for name in ("ddp", "pp2", "ddp real"):
        phases = cases[name]["phases"]
        shares = [phases[key] for key in ("data", "forward_backward", "optimizer", "communication")]
        assert min(shares) >= 0
        assert sum(shares) == pytest.approx(phases["step"])
        assert phases["forward_backward"] > 0 and phases["optimizer"] > 0
    assert cases["pp2"]["phases"]["communication"] > 0
    assert 0 < cases["pp2"]["idle"] < 1
    assert cases["pp2"]["bubble"] == pytest.approx(1 / 9)  # 8 micro-batches
    assert cases["ddp"]["idle"] is None
    assert sum(cases["ddp real"]["data_resident_bytes"]) > 0


def test_a_second_start_measures_nothing_again(measured: tuple[Path, Any]) -> None:
    folder, first = measured
    cases = yaml.safe_load((folder / "cases.yaml").read_text())["cases"]
    before = {path: path.stat().st_mtime_ns for path in (folder / "out/raw").glob("*.json")}
    again = bench(cases, folder)
    assert again.returncode == 0, again.output
    assert "repetition" in first.stdout and "repetition" not in again.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_bars_are_told_from_the_results(measured: tuple[Path, Any]) -> None:
    folder, _ = measured
    command = [sys.executable, str(ROOT / "benchmarks/bars.py"), str(folder / "out")]
    recorded = run([*command, "--record", str(folder / "record/tiny")], timeout_s=60)
    assert recorded.returncode == 0, recorded.output
    assert "| ddp / plain DDP loop | >= 0.99 |" in recorded.stdout
    assert "zero1" not in recorded.stdout  # it was not measured
    assert {path.suffix for path in (folder / "record").iterdir()} == {".json", ".md", ".png"}


def row(name: str, losses: list[float], **changes: Any) -> Row:
    config = BenchConfig(global_batch_size=16, precision="fp32", **changes)
    case = next(case for case in make_cases(config) if case.name == "ddp fp32")
    case = type(case)(**{**vars(case), "name": name})
    return Row(case, FACTS, [{"losses": losses}])


def test_other_losses_are_seen() -> None:
    rows = [row("a", [2.0, 1.0]), row("b", [2.0, 1.0001]), row("c", [2.0, 1.000001])]
    [group] = same_work(rows)
    assert not group["equal"]
    assert [name for name, off in group["relative_difference"].items() if off > 1e-5] == ["b"]
    [group] = same_work([rows[0], rows[2]])
    assert group["equal"]
    assert len(same_work([rows[0], row("d", [3.0, 4.0], lr=0.5)])) == 2  # no comparison


def test_a_row_without_numbers_says_why() -> None:
    failed = Row(row("a", []).case, {}, [], "out of memory: tried to allocate 80 GiB")
    case = summarize(failed)
    assert case["error"].startswith("out of memory")
    empty = {"command": "", "software": {}, "machine": {}, "same_work": [], "cases": [case]}
    assert "out of memory: tried to allocate 80 GiB" in as_markdown(empty)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cases: [{name: a, plugin: ddp}]", "cases.0.plugin"),
        ("cases: [{name: a, settings: {plugin: nothing}}]", "case 'a': --plugin nothing"),
        ("cases: [{name: a}, {name: a}]", "two cases are called 'a'"),
        ("cases: [", "not YAML"),
    ],
)
def test_wrong_cases_are_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "cases.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        make_cases(BenchConfig(cases=file))


def test_unknown_layouts_are_named() -> None:
    with pytest.raises(ConfigError, match="--layouts zero3: not one of ddp"):
        make_cases(BenchConfig(layouts="ddp,zero3", nproc=2))


def test_upstream_s_benchmark_line_names_its_case() -> None:
    line = "--plugin low_level_zero --max_train_steps 20 --batch_size 8 --nproc 2"
    [fp32, bf16] = make_cases(load_config(line.split(), "bench", BenchConfig))
    assert [fp32.name, bf16.name] == ["zero1 fp32", "zero1 bf16"]
    assert (fp32.steps, fp32.config.batch_size) == (20, 8)
    [fp16] = make_cases(load_config(["--plugin", "torch_ddp_fp16"], "bench", BenchConfig))
    assert (fp16.name, fp16.config.precision) == ("ddp fp16", "fp16")
    pipeline = "--plugin hybrid_parallel --pp_size 2 --precision fp32 --nproc 2"
    [stages] = make_cases(load_config(pipeline.split(), "bench", BenchConfig))
    assert stages.name == "hybrid pp2 fp32"


def test_degrees_that_no_layout_has_are_refused() -> None:
    with pytest.raises(ConfigError, match="--plugin zero1 --tp 2: not one of ddp fp32"):
        make_cases(BenchConfig(plugin="zero1", tp=2, nproc=2))


def event(name: str, start: float, end: float) -> Any:
    stretch = SimpleNamespace(start=start * 1e6, end=end * 1e6)
    return SimpleNamespace(name=name, time_range=stretch, device_type=DeviceType.CPU)


def test_a_step_is_divided() -> None:
    """Two steps of 10 s: transfers from 4 to 8, of which 5 to 6 while something is computed."""
    events = []
    for begin in (0.0, 20.0):
        events += [
            event(DATA, begin - 2, begin),
            event(STEP, begin, begin + 10),
            event(PIPELINE, begin, begin + 8),
            event(OPTIMIZER, begin + 8, begin + 9.5),
            event("gloo:send", begin + 4, begin + 7),
            event("gloo:all_reduce", begin + 6.5, begin + 8),
            event("aten::mm", begin + 5, begin + 6),
            event("aten::add", begin + 5.5, begin + 5.75),
        ]
    phases = divide(events, "cpu", steps=2)
    assert phases.data == pytest.approx(2)
    assert phases.step == pytest.approx(12)
    assert phases.communication == pytest.approx(3)
    assert phases.overlapped == pytest.approx(1)
    assert phases.optimizer == pytest.approx(1.5)
    assert phases.forward_backward == pytest.approx(10 - 3 - 1.5)
    assert (phases.pipeline, phases.idle) == (pytest.approx(8), pytest.approx(2))


def test_intervals() -> None:
    merged = merge([(5, 6), (1, 3), (2, 4), (4, 4.5), (9, 9)])
    assert merged == [(1, 4.5), (5, 6)]
    assert subtract(merged, [(0, 2), (3, 5.5)]) == [(2, 3), (5.5, 6)]
    assert subtract(merged, []) == merged


def test_compiled_layers_do_the_same_work(tmp_path: Path) -> None:
    cases = [
        {"name": "eager", "processes": 1},
        {"name": "compiled", "processes": 1, "settings": {"compile": True}},
        {"name": "with tp", "processes": 2, "settings": {"plugin": "hybrid", "tp": 2}},
    ]
    cases[2]["settings"]["compile"] = True  # type: ignore[index]
    finished = bench(cases, tmp_path, "--no-calibrate", python=sys.executable)
    assert finished.returncode == 0, finished.output
    found = json.loads((tmp_path / "out/bench.json").read_text())
    [group] = found["same_work"]
    assert set(group["losses"]) == {"eager", "compiled"}
    eager, compiled, refused = found["cases"]
    assert compiled["first_step_seconds"] > eager["first_step_seconds"]  # it compiled
    assert refused["error"].startswith("refused: --compile fails with --tp 2")
