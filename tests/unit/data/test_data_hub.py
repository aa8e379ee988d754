"""The hub path of data sets and models, against a server on this machine; see ``hub_server``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from hub_server import BEANS, VIT, Hub, Repository, beans_files, serving, vit_files
from launching import environment, run, warm

pytestmark = pytest.mark.slow

TOKEN = "hf_secretNotToBePrinted"
SCRIPT = """
import json, sys
from vit_colossal.data.sources.source import SourceRequest, open_source
from vit_colossal.errors import ConfigError
from vit_colossal.model.processor import build_processor
from vit_colossal.model.build import build_model
from vit_colossal.model.weights_fit import check_weights
from vit_colossal.plan.model_spec import read_spec

def data(name, revision=None):
    source = open_source(SourceRequest(name, revision=revision))
    rows = [len(source.train), len(source.evaluation)]
    return {"name": source.name, "rows": rows, "labels": source.labels,
            "columns": [source.image_column, source.label_column],
            "eval_split": source.eval_split, "fingerprint": source.fingerprint}

def model(name):
    spec = read_spec(name, {})
    check_weights(spec)
    built = build_model(spec, ("a", "b", "c"), seed=0)
    first = built.vit.embeddings.cls_token[0, 0, :3].tolist()
    return {"name": built.config._name_or_path, "layers": spec.shape.num_layers, "first": first,
            "mean": build_processor(spec).image_mean}

for kind, *arguments in json.loads(sys.argv[1]):
    try:
        print(json.dumps({"data": data, "model": model}[kind](*arguments)))
    except ConfigError as error:
        print(json.dumps({"problems": error.problems}))
"""
TRAIN = "data/train-00000-of-00001.parquet"
ONE_SECOND = {"HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}


@pytest.fixture(scope="session")
def beans() -> dict[str, bytes]:
    return beans_files()


@pytest.fixture(scope="session")
def vit() -> dict[str, bytes]:
    return vit_files()


@pytest.fixture
def hub(beans: dict[str, bytes], vit: dict[str, bytes]) -> Iterator[Hub]:
    hub = Hub()
    hub.repositories["datasets", BEANS] = Repository(dict(beans))
    hub.repositories["models", VIT] = Repository(dict(vit))
    with serving(hub):
        yield hub


def ask(home: Path, endpoint: str, *questions: list[Any], **changes: str) -> list[dict[str, Any]]:
    """The answers of one new process: endpoint and token are read when libraries are imported.

    What it says beside them is left in ``stderr``, in its home.
    """
    home.mkdir(exist_ok=True)
    settings = {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_TOKEN": TOKEN}
    settings |= {"NO_PROXY": "127.0.0.1,localhost", "HF_HUB_OFFLINE": "0"}
    kept = {name: value for name, value in environment().items() if name != "HF_DATASETS_CACHE"}
    script = home / "script.py"
    script.write_text(SCRIPT)
    command = warm(str(script), json.dumps(questions), late=True)
    done = run(command, timeout_s=120, cwd=home, env=kept | settings | changes)
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    (home / "stderr").write_text(done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


def problems(answers: list[dict[str, Any]]) -> list[str]:
    """One line each."""
    lines = [line for answer in answers for line in answer["problems"]]
    assert len(lines) == len(answers)
    assert not any("\n" in line for line in lines)
    return lines


def test_a_model_and_an_alias_are_fetched_and_work_offline_afterwards(
    hub: Hub, tmp_path: Path
) -> None:
    questions = [["data", "beans"], ["model", VIT]]
    online = ask(tmp_path / "a", hub.endpoint, *questions)
    assert online[0]["name"] == BEANS
    assert online[0]["rows"] == [36, 7]
    assert online[0]["labels"] == ["angular_leaf_spot", "bean_rust", "healthy"]
    assert online[0]["columns"] == ["image", "labels"]
    assert online[0]["eval_split"] == "validation"
    assert online[1]["name"] == VIT
    seen = len(hub.requests)
    # Asked not to use the network, and with nothing there.
    assert ask(tmp_path / "a", hub.endpoint, *questions, HF_HUB_OFFLINE="1") == online
    assert ask(tmp_path / "a", "http://127.0.0.1:9", *questions) == online
    assert len(hub.requests) == seen


def test_the_token_goes_to_the_hub_and_nowhere_else(hub: Hub, tmp_path: Path) -> None:
    ask(tmp_path / "a", hub.endpoint, ["data", "beans"], ["model", VIT])
    to_others = [request for request in hub.requests if request.path.startswith("/cdn/")]
    assert len(to_others) == 4  # three splits and the weights
    assert not any("authorization" in request.headers for request in to_others)
    assert any("authorization" in request.headers for request in hub.requests)


def test_only_what_is_read_is_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["models", VIT].files["pytorch_model.bin"] = b"a pickle"
    ask(tmp_path / "a", hub.endpoint, ["model", VIT])
    paths = {r.path for r in hub.requests if r.method == "GET"}
    paths.discard("/api/agent-harnesses")  # the library's own, once a day, of no repository
    fetched = {path.rpartition("/")[2] for path in paths}
    assert fetched == {"config.json", "preprocessor_config.json", "model.safetensors"}


def test_the_fingerprint_is_the_commit_not_the_machine(hub: Hub, tmp_path: Path) -> None:
    (first,) = ask(tmp_path / "a", hub.endpoint, ["data", "beans"])
    (other_machine,) = ask(tmp_path / "b", hub.endpoint, ["data", "beans"])
    hub.repositories["datasets", BEANS].commit = "2" * 40
    (newer,) = ask(tmp_path / "c", hub.endpoint, ["data", "beans"])
    assert first["fingerprint"] == other_machine["fingerprint"] != newer["fingerprint"]


def test_the_revision_is_asked_for(hub: Hub, tmp_path: Path) -> None:
    found, missing = ask(
        tmp_path / "a", hub.endpoint, ["data", "beans", "v1.5"], ["data", "beans", "nowhere"]
    )
    assert found["rows"] == [36, 7]
    assert any("v1.5" in path for path in hub.paths)
    (problem,) = missing["problems"]
    assert "--dataset-revision nowhere" in problem
    assert "no such revision" in problem
    # Offline, what was fetched last is not passed off as what was asked for.
    commit = hub.repositories["datasets", BEANS].commit
    same, other = ask(
        tmp_path / "a",
        hub.endpoint,
        *(["data", "beans", commit], ["data", "beans", "v2"]),
        HF_HUB_OFFLINE="1",
    )
    assert same == found
    assert f"the cache holds {commit}" in other["problems"][0]


def test_what_is_not_there_or_not_for_everybody(
    hub: Hub, vit: dict[str, bytes], beans: dict[str, bytes], tmp_path: Path
) -> None:
    pickled = {name: body for name, body in vit.items() if name != "model.safetensors"}
    pickled["pytorch_model.bin"] = b"a pickle"
    escaping = dict(pickled)
    index = {"weight_map": {"classifier.bias": "../../../secret.safetensors"}}
    escaping["model.safetensors.index.json"] = json.dumps(index).encode()
    hub.repositories |= {
        ("models", "some/gated"): Repository(vit, gated=True, refuse_token=True),
        ("datasets", "some/gated"): Repository(beans, gated=True, refuse_token=True),
        ("models", "some/empty"): Repository({"README.md": b""}),
        ("datasets", "some/empty"): Repository({"README.md": b""}),
        ("models", "some/pickled"): Repository(pickled),
        ("models", "some/escaping"): Repository(escaping),
        ("models", "some/broken"): Repository(vit, status={"config.json": 418}),
    }
    names = [
        ["model", "some/where"],
        ["data", "cifar10"],
        ["model", "some/gated"],
        ["data", "some/gated"],
        ["model", "some/empty"],
        ["data", "some/empty"],
        ["model", "some/pickled"],
        ["model", "some/escaping"],
        ["model", "some/broken"],
        ["model", "vit micro"],
        ["data", f"some/{TOKEN}"],
    ]
    lines = problems(ask(tmp_path / "a", hub.endpoint, *names))
    expected = [
        ("--model some/where: ", "config.json", "none of that name", "HF_TOKEN", "local folder"),
        ("--dataset uoft-cs/cifar10: ", "none of that name", "HF_TOKEN", "local folder"),
        ("--model some/gated: ", "gated", "accept its terms", "HF_TOKEN"),
        ("--dataset some/gated: ", "gated", "accept its terms", "HF_TOKEN"),
        ("--model some/empty: ", "no config.json"),
        ("--dataset some/empty: ", "check the name", "local folder"),
        ("--model some/pickled: ", "no model.safetensors", "pickles are not loaded"),
        ("--model some/escaping: ", "'../../../secret.safetensors'", "beside it"),
        ("--model some/broken: ", "config.json", "418", "check the name"),
        ("--model vit micro: ", "no name that a hub would have", "vit-micro"),
        ("--dataset some/***: ", "none of that name"),
    ]
    for line, parts in zip(lines, expected, strict=True):
        assert [part for part in parts if part not in line] == [], line
    assert not any("secret.safetensors" in path for path in hub.paths)
    # Without any token the hub answers 401 to both.
    names = [["model", "some/where"], ["model", "some/gated"]]
    first, second = problems(ask(tmp_path / "b", hub.endpoint, *names, HF_TOKEN=""))
    assert "none of that name, or it is private" in first
    assert "gated" in second


def test_a_connection_that_breaks_off_and_a_run_that_goes_on(hub: Hub, tmp_path: Path) -> None:
    data, model = hub.repositories["datasets", BEANS], hub.repositories["models", VIT]
    # The library keeps what it has in pieces of 10 MiB, and asks for the rest by itself.
    weights = load(model.files["model.safetensors"]) | {"unused": torch.zeros(3_000_000)}
    model.files["model.safetensors"] = save(weights, metadata={"format": "pt"})
    data.drop_after[TRAIN] = 500
    model.drop_after["model.safetensors"] = 11_000_000
    questions = [["data", "beans"], ["model", VIT]]
    lines = problems(ask(tmp_path / "a", hub.endpoint, *questions))
    assert "--dataset AI-Lab-Makerere/beans: " in lines[0]
    assert "model.safetensors" in lines[1]
    for line in lines:
        assert "the connection broke off; run it again" in line
    # Those lines of the library hold addresses that are signed.
    assert "/cdn/" not in (tmp_path / "a" / "stderr").read_text()
    ranges = [r.headers["range"] for r in hub.requests if "range" in r.headers]
    assert f"bytes={10 * 2**20}-" in ranges
    data.drop_after.clear()
    model.drop_after.clear()
    seen = len(hub.requests)
    answers = ask(tmp_path / "a", hub.endpoint, *questions)
    fetched = {r.path.rpartition("/")[2] for r in hub.requests[seen:] if r.method == "GET"}
    assert "model.safetensors" in fetched and "config.json" not in fetched
    assert answers == ask(tmp_path / "b", hub.endpoint, *questions)


def test_no_network_at_all_is_said_at_once(hub: Hub, tmp_path: Path) -> None:
    lines = problems(
        ask(tmp_path / "a", "http://127.0.0.1:9", ["data", "some/pictures"], ["model", VIT])
    )
    for line, what in zip(lines, ("--dataset some/pictures", f"--model {VIT}"), strict=True):
        assert what in line
        assert "http://127.0.0.1:9 cannot be reached" in line
        assert "HF_ENDPOINT" in line
    assert "Retrying" not in (tmp_path / "a" / "stderr").read_text()
    lines = problems(
        ask(tmp_path / "a", hub.endpoint, ["data", "some/x"], ["model", VIT], HF_HUB_OFFLINE="1")
    )
    assert all("HF_HUB_OFFLINE is set" in line for line in lines)
    assert hub.requests == []


def test_a_hub_that_does_not_answer_in_time(hub: Hub, tmp_path: Path) -> None:
    hub.slow = 10
    lines = problems(
        ask(tmp_path / "a", hub.endpoint, ["data", "beans"], ["model", VIT], **ONE_SECOND)
    )
    assert all(f"{hub.endpoint} cannot be reached" in line for line in lines)


def test_a_file_that_does_not_come_in_time(hub: Hub, tmp_path: Path) -> None:
    """The library asks six times for the file, and gives it a minute to say where it is."""
    hub.repositories["models", VIT].slow["config.json"] = 2
    (line,) = problems(ask(tmp_path / "a", hub.endpoint, ["model", VIT], **ONE_SECOND))
    assert "no answer within 1 s" in line
    assert "HF_HUB_DOWNLOAD_TIMEOUT" in line
    asked = [r for r in hub.requests if r.method == "GET" and r.path.endswith("/config.json")]
    assert len(asked) == 6
