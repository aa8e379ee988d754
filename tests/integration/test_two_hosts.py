"""Two hosts with disks, names and caches of their own: alike, they train; else all say why not."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from launching import ROOT, Finished, run, warm
from two_hosts import PORT, Pair, two_hosts

pytestmark = pytest.mark.slow

RUN = ("--dataset", "photos", "--model", "vit-micro", "--image-size", "16", "--seed", "1")
RUN += ("--global-batch-size", "4", "--max-steps", "3", "--output-dir", "run", "--overwrite")


def photos(folder: Path, *, changed: tuple[int, ...] = ()) -> None:
    """24 images in three classes, written anew; some with one other bit."""
    shutil.rmtree(folder, ignore_errors=True)
    random = np.random.RandomState(0)
    for number in range(24):
        pixels = random.randint(0, 256, (16, 16, 3)).astype(np.uint8)
        if number in changed:
            pixels[0, 0, 0] ^= 1
        file = folder / f"class {number % 3}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with two_hosts(tmp_path_factory.mktemp("hosts")) as pair:
        yield pair


@pytest.fixture
def pair(made: Pair) -> Pair:
    """Both with the same images and no run."""
    for host in made.hosts:
        photos(host.files / "photos")
        shutil.rmtree(host.files / "run", ignore_errors=True)
    return made


def refused(finished: list[Finished]) -> list[str]:
    """What both terminals say, which is the same."""
    assert [each.returncode for each in finished] == [2, 2], finished
    errors = [re.sub(r"(?m)^\[W.*\n", "", each.stderr).strip() for each in finished]
    errors = [error[error.index("error: ") :] for error in errors]
    assert errors[0] == errors[1]
    assert "Traceback" not in errors[0]
    return [line.strip().removeprefix("- ") for line in errors[0].splitlines()]


def test_alike_they_train(pair: Pair) -> None:
    """The result is with rank 0, and only there."""
    finished = pair.train(*RUN)
    assert [each.returncode for each in finished] == [0, 0], finished
    assert "model saved to run/model" in finished[0].output
    first, second = (host.files / "run" for host in pair.hosts)
    assert (first / "model" / "model.safetensors").is_file()
    assert not second.exists()


def test_other_images_are_seen(pair: Pair) -> None:
    photos(pair.hosts[1].files / "photos", changed=(3, 7))
    _, data, images = refused(pair.train(*RUN))
    assert data.startswith("data: fingerprint ") and "on rank 1 (host-b)" in data
    assert images.startswith("training images: 19 with pixels and labels ")


@pytest.mark.parametrize("number", [0, 1])
def test_what_one_host_lacks_both_say(pair: Pair, number: int) -> None:
    shutil.rmtree(pair.hosts[number].files / "photos")
    name = pair.hosts[number].name
    (line,) = refused(pair.train(*RUN))
    assert line.startswith(f"error: on rank {number} ({name}): --dataset photos")


def test_other_settings_are_seen_and_those_of_the_host_are_not(pair: Pair) -> None:
    for host, settings in zip(
        pair.hosts, ("lr: 0.02\n", "lr: 0.01\nnum_workers: 1\n"), strict=True
    ):
        (host.files / "settings.yaml").write_text(settings)
    (line,) = refused(pair.train(*RUN, "--config", "settings.yaml"))
    assert line == "error: --lr: 0.02 on rank 0 (host-a), 0.01 on rank 1 (host-b)"
    (pair.hosts[1].files / "settings.yaml").unlink()
    (line,) = refused(pair.train(*RUN, "--config", "settings.yaml"))
    assert line.startswith("error: on rank 1 (host-b): --config settings.yaml: cannot be read")


def test_other_weights_are_seen_when_training_and_evaluating(pair: Pair) -> None:
    assert pair.train(*RUN)[0].returncode == 0
    for host, place in zip(pair.hosts, (-5, -9), strict=True):
        shutil.copytree(
            pair.hosts[0].files / "run" / "model", host.files / "start", dirs_exist_ok=True
        )
        weights = bytearray((host.files / "start" / "model.safetensors").read_bytes())
        weights[place] ^= 1
        (host.files / "start" / "model.safetensors").write_bytes(weights)
    (line,) = refused(pair.train(*RUN, "--model", "start"))
    assert re.match(r"error: --model: weights \w{12} on rank 0 \(host-a\), weights ", line)
    evaluation = ("eval", "--device", "cpu", "--model", "start", "--dataset", "photos")
    assert refused(pair.start(*evaluation).wait()) == [line]


def losses(run_dir: Path) -> list[str]:
    """Of the training steps, without times."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    return [f"{e['step']}: {e['loss']}" for e in events if e["event"] == "train"]


STEPS = ("--log-every", "1", "--save-every", "2", "--max-steps", "5", "--lr-schedule", "constant")
STEPS += ("--warmup-ratio", "0")
HALF = (*RUN, *STEPS, "--max-steps", "2")


def test_a_run_goes_on_where_one_host_alone_has_its_checkpoints(pair: Pair) -> None:
    """To the bit; also when torchrun has told one of them alone that it was started again."""
    first = pair.hosts[0].files / "run"
    assert pair.train(*RUN, *STEPS)[0].returncode == 0
    uninterrupted = losses(first)
    shutil.rmtree(first)
    restarted = ({"TORCHELASTIC_RESTART_COUNT": "1"}, {})
    for envs in (restarted, restarted[::-1]):
        assert pair.train(*HALF)[0].returncode == 0
        again = pair.start("train", "--device", "cpu", *RUN, *STEPS, envs=envs).wait()
        assert [each.returncode for each in again] == [0, 0], again
        assert "sending run/checkpoints/step-000002" in again[0].output
        assert "same layout, so bit-exact" in again[0].output
        assert losses(first) == uninterrupted
        for host in pair.hosts:
            shutil.rmtree(host.files / "run")


def on_one_host(pair: Pair, *flags: str) -> Path:
    """The folder of the same run with its two processes on one host."""
    folder = pair.shared / "one"
    command = warm("-m", "vit_colossal", "train", "--device", "cpu", "--nproc", "2", *flags)
    place = ("--output-dir", str(folder), "--cache-dir", str(pair.shared / "cache"))
    finished = run([*command, *place], timeout_s=120, cwd=pair.hosts[0].files)
    assert finished.returncode == 0, finished.output
    return folder


def weights(run_dir: Path) -> bytes:
    return (run_dir / "model" / "model.safetensors").read_bytes()


def test_torchrun_restarts_on_a_disk_of_both_to_the_bit(pair: Pair) -> None:
    """A rank of each host is killed, one after the other."""
    flags = (*RUN, *STEPS, "--max-steps", "90", "--save-every", "5", "--no-tensorboard")
    alone, both = on_one_host(pair, *flags), pair.shared / "run"
    program = (str(ROOT / "train.py"), "--device", "cpu", *flags, "--output-dir", str(both))
    launched = pair.launch(
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"),
        *("--rdzv_backend", "c10d", "--rdzv_endpoint", f"host-a:{PORT}", "--log-dir", "torchrun"),
        *("--max-restarts", "2", *program, "--cache-dir", str(pair.shared / "caches")),
    )
    for number, step in enumerate((10, 50)):
        launched.until(f"step {step}/90")
        (rank,) = psutil.Process(launched.processes[number].pid).children()
        rank.kill()
    finished = launched.wait()
    assert [each.returncode for each in finished] == [0, 0], finished
    assert finished[0].output.count("same layout, so bit-exact") == 2
    assert weights(both) == weights(alone) and losses(both) == losses(alone)


def test_rank_0_chooses_a_layout_for_both(pair: Pair) -> None:
    """Its host keeps the rates; of a run that the other host alone has, it takes the layout."""
    first, second = (host.files for host in pair.hosts)
    finished = pair.train(*HALF, "--plugin", "auto")
    assert [each.returncode for each in finished] == [0, 0], finished
    assert "measuring on 2 processes" in finished[0].output
    assert "--plugin auto" not in finished[1].output and "Warning" not in finished[1].output
    assert (first / "cache" / "rates").is_dir() and not (second / "cache" / "rates").exists()
    chosen = re.search(r"--plugin auto: --plugin (\w+)", finished[0].output)
    assert chosen is not None
    shutil.move(first / "run", second / "run")
    flags = ("train", "--device", "cpu", *RUN, *STEPS, "--plugin", "auto")
    again = pair.start(*flags, envs=[{"TORCHELASTIC_RESTART_COUNT": "1"}] * 2).wait()
    assert [each.returncode for each in again] == [0, 0], again
    assert f"--plugin {chosen[1]}, as this run was planned" in again[0].output, again
    assert "same layout, so bit-exact" in again[0].output


def test_what_a_pipeline_writes_lies_with_rank_0(pair: Pair) -> None:
    """Its last stage, which alone knows the loss, is on the other host."""
    finished = pair.train(*RUN, *STEPS, "--plugin", "hybrid", "--pp", "2")
    assert [each.returncode for each in finished] == [0, 0], finished
    rehearsed = pair.train(*RUN, "--plugin", "hybrid", "--pp", "2", "--dry-run")
    assert "host-a: rank 0 (stage 0)\nhost-b: rank 1 (stage 1)\n" in rehearsed[0].output
    first, second = (host.files / "run" for host in pair.hosts)
    assert "step 5/5" in finished[0].output and "step" not in finished[1].output
    assert {path.name for path in first.iterdir()} >= {"model", "checkpoints", "SHA256SUMS"}
    assert (first / "predictions.parquet").is_file()
    assert not second.exists()
    assert len(set(losses(first))) == 5 and "5: 0.0" not in losses(first)


def test_both_ends_of_a_cut_cable_say_who_does_not_answer(pair: Pair) -> None:
    launched = pair.start(
        *("train", "--device", "cpu", *RUN, *STEPS, "--max-steps", "100000", "--timeout", "10")
    )
    launched.until("step 3/")
    pair.cut()
    try:
        finished = launched.wait()
    finally:
        pair.plug_in()
    assert all(each.returncode == 1 for each in finished), finished
    for each, other in zip(finished, ("host-b", "host-a"), strict=True):
        assert re.search(rf"error: rank . \(host-.\) at step \d+: .*{other} does not", each.output)
        assert "Traceback" not in each.output
