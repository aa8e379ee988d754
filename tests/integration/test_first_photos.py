"""A folder of photos and no other word, on a CPU: pretrained weights from a hub on this machine."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from hub_server import Hub, Repository, jpeg, serving, vit_files
from launching import Finished, environment, run, warm

pytestmark = pytest.mark.slow

NAME = "facebook/deit-tiny-patch16-224"
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    hub = Hub()
    hub.repositories["models", NAME] = Repository(vit_files())
    with serving(hub):
        yield hub


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 40 photos of two classes, of which 32 are trained on."""
    work = tmp_path_factory.mktemp("work")
    for number in range(40):
        folder = work / "photos" / ("moss", "rust")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(jpeg(number, number % 2))
    return work


def surroundings(work: Path, endpoint: str, **changes: str) -> dict[str, str]:
    settings = {"HF_HOME": str(work / "hf"), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0"}
    settings |= {"VIT_COLOSSAL_CACHE": str(work / "cache"), "NO_PROXY": "127.0.0.1,localhost"}
    return environment(**settings | changes)


def train(
    work: Path, endpoint: str, *flags: str, dataset: str = "photos", **changes: str
) -> Finished:
    command = warm("-m", "vit_colossal", "train", "--dataset", dataset, *flags, late=True)
    env = surroundings(work, endpoint, **changes)
    return run(command, timeout_s=300, cwd=work, env=env)


@pytest.fixture(scope="module")
def trained(hub: Hub, work: Path) -> Finished:
    finished = train(work, hub.endpoint, "--output-dir", "run", "--epochs", "2", "--device", "cpu")
    assert finished.returncode == 0, finished.output
    return finished


def test_photos_begin_with_pretrained_weights_and_a_recipe_that_fits(
    trained: Finished, work: Path
) -> None:
    said = trained.output
    assert f"no --model given: {NAME}, pretrained (cpu default for photos)" in said
    assert "recipe for 32 images of 2 labels on cpu" in said
    assert "  --val-split 0.2: a tenth to evaluate on, or more for 50 images" in said
    assert "  --global-batch-size 8: " in said and "; all batches of an epoch are full" in said
    assert "  --freeze backbone: pretrained, on a CPU" in said
    assert "augmentation: none" in said and "8 steps in 2 epochs of 4; no image sits out" in said
    assert "step 4/8" in said and "step 8/8" in said  # a log line each epoch
    # Decoding thousands of photos takes minutes: what will become of them is known before.
    assert said.index("recipe for") < said.index("decoding 32 images") < said.index("data photos")
    assert said.count("  --freeze backbone") == 1
    assert "without pretrained weights" not in said
    kept = yaml.safe_load((work / "run" / "config.yaml").read_text())
    expected = {"model": NAME, "global_batch_size": 8, "epochs": 2, "freeze": "backbone"}
    expected |= {"lr": 3e-3, "warmup_ratio": 0.0, "random_resized_crop": False, "val_split": 0.2}
    assert {name: kept[name] for name in expected} == expected


def test_the_run_goes_on_with_what_was_chosen_for_it(trained: Finished, work: Path) -> None:
    """Moved, without the hub, on two processes under another plugin, with nothing named again."""
    shutil.copytree(work / "run", work / "moved", symlinks=True)
    flags = ("--output-dir", "moved", "--resume", "auto", "--epochs", "3", "--device", "cpu")
    layout = ("--nproc", "2", "--plugin", "zero1")
    elsewhere = {"HF_HOME": str(work / "empty"), "HF_HUB_OFFLINE": "1"}
    finished = train(work, NOWHERE, *flags, *layout, **elsewhere)
    assert finished.returncode == 0, finished.output
    before, after = (
        yaml.safe_load((work / name / "config.yaml").read_text()) for name in ("run", "moved")
    )
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"plugin", "output_dir", "resume", "epochs"}
    assert "recipe for" not in finished.output


def test_without_a_hub_three_ways_lead_on(trained: Finished, hub: Hub, work: Path) -> None:
    """Each of them is taken as it is written."""
    alone = {"HF_HOME": str(work / "none"), "VIT_COLOSSAL_CACHE": str(work / "undecoded")}
    refused = train(work, NOWHERE, "--device", "cpu", "--output-dir", "new", **alone)
    assert refused.returncode == 2, refused.output
    first, why, *ways = refused.stderr.strip().splitlines()
    assert first.startswith(f"error: --model {NAME}: cannot fetch its config.json from the hub: ")
    assert f"{NOWHERE} cannot be reached" in first
    assert "as no --model is given" in why and [way[:4] for way in ways] == ["  1.", "  2.", "  3."]
    # Nothing was decoded, and no run begun.
    assert not (work / "undecoded").exists() and not (work / "new").exists()
    mistyped = train(work, NOWHERE, "--device", "cpu", dataset="fotos", **alone).stderr
    _, folder, model, *others = mistyped.strip().splitlines()
    assert "--dataset fotos: no such file or folder here" in folder
    assert f"--model {NAME}: cannot fetch" in model and "  3." in others[-1]
    command = re.search(r"hf download [^;]+", ways[0])
    assert command is not None
    env = surroundings(work, hub.endpoint, HF_HOME=str(work / "other machine"))
    fetched = run(command[0].split(), timeout_s=120, cwd=work, env=env)
    assert fetched.returncode == 0, fetched.output
    for way, model in ((ways[0], "deit-tiny-patch16-224"), (ways[2], "vit-tiny")):
        assert f"--model {model}" in way
        flags = ("--model", model, "--device", "cpu", "--dry-run")
        finished = train(work, NOWHERE, *flags, HF_HOME=str(work / "none"), HF_HUB_OFFLINE="1")
        assert finished.returncode == 0, finished.output
        weak = "32 training images are few for that" in finished.output
        assert weak == (model == "vit-tiny")


def test_weights_that_are_not_there_either_are_said_before_decoding(
    trained: Finished, hub: Hub, work: Path
) -> None:
    """The configuration alone is cached, as after a connection that broke off."""
    half = work / "half"
    shutil.copytree(work / "hf", half, symlinks=True)
    (weights,) = half.rglob("model.safetensors")
    weights.unlink()
    alone = {"HF_HOME": str(half), "VIT_COLOSSAL_CACHE": str(work / "undecoded")}
    refused = train(work, NOWHERE, "--device", "cpu", HF_HUB_OFFLINE="1", **alone)
    assert refused.returncode == 2, refused.output
    assert "cannot fetch its model.safetensors" in refused.stderr
    assert "three ways on" in refused.stderr
    assert not (work / "undecoded").exists()
    named = train(work, NOWHERE, "--model", NAME, "--device", "cpu", HF_HUB_OFFLINE="1", **alone)
    assert named.returncode == 2 and "three ways on" not in named.stderr


def test_the_weights_that_were_fetched_are_what_is_saved(trained: Finished, work: Path) -> None:
    """But for the head, which is new."""
    from safetensors.torch import load, load_file

    (file,) = (work / "hf").rglob("model.safetensors")
    before, after = load(file.read_bytes()), load_file(work / "run/model/model.safetensors")
    # By content, as transformers may save a tensor under its published name.
    kept = {tensor.numpy().tobytes() for tensor in after.values()}
    frozen = [name for name in before if not name.startswith("classifier.")]
    assert len(frozen) > 20 and all(before[name].numpy().tobytes() in kept for name in frozen)
    saved = json.loads((work / "run/model/config.json").read_text())
    assert sorted(saved["id2label"].values()) == ["moss", "rust"]
