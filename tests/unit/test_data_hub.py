"""The hub, played by a server on this machine that speaks as much of its protocol as is used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

import vit_colossal

TOKEN = "a-secret-not-to-be-printed"
SCRIPT = """
import json, sys
from vit_colossal.data.sources import SourceRequest, open_source
from vit_colossal.errors import DataError
try:
    source = open_source(SourceRequest(sys.argv[1], revision=sys.argv[2] or None))
except DataError as error:
    print(json.dumps({"error": error.problems}))
else:
    rows = [len(source.train), len(source.evaluation)]
    print(json.dumps({"name": source.name, "rows": rows, "labels": source.labels,
                      "eval_split": source.eval_split, "fingerprint": source.fingerprint}))
"""


def parquet(rows: int) -> bytes:
    features = datasets.Features(
        image=datasets.Image(), labels=datasets.ClassLabel(names=["sick", "well"])
    )
    images = [Image.fromarray(np.full((4, 4, 3), i, np.uint8)) for i in range(rows)]
    labels = [i % 2 for i in range(rows)]
    buffer = BytesIO()
    table = datasets.Dataset.from_dict({"image": images, "labels": labels}, features=features)
    table.to_parquet(buffer)
    return buffer.getvalue()


class Hub:
    """One repository: its files, the commit they stand at, and what was asked for."""

    def __init__(self, repository: str):
        self.repository = repository
        self.commit = "1" * 40
        self.requested: list[str] = []
        self.files = {
            "data/train-00000-of-00001.parquet": parquet(6),
            "data/validation-00000-of-00001.parquet": parquet(4),
        }

    def answer(self, path: str) -> tuple[bytes, str] | None:
        """The body and content type at a path; None for 404."""
        self.requested.append(path)
        path = path.partition("?")[0]
        api, files = f"/api/datasets/{self.repository}", f"/datasets/{self.repository}/resolve/"
        if path.startswith(files):
            body = self.files.get(path[len(files) :].partition("/")[2])
            return None if body is None else (body, "application/octet-stream")
        if path == api or path.startswith(f"{api}/revision/"):
            siblings = [{"rfilename": name} for name in self.files]
            info = {"id": self.repository, "sha": self.commit, "siblings": siblings, "tags": []}
            return json.dumps({**info, "private": False, "downloads": 0}).encode(), "json"
        if path.startswith(f"{api}/tree/"):
            return json.dumps(self.tree(path)).encode(), "application/json"
        return None

    def tree(self, path: str) -> list[dict[str, object]]:
        folder = path.split("/tree/")[1].partition("/")[2]
        files = [
            {"type": "file", "path": name, "size": len(body), "oid": "0" * 40}
            for name, body in self.files.items()
            if name.startswith(f"{folder}/")
        ]
        return files if folder else [{"type": "directory", "path": "data", "oid": "0" * 40}]


@pytest.fixture
def hub() -> Iterator[tuple[Hub, str]]:
    state = Hub("AI-Lab-Makerere/beans")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = state.answer(self.path)
            body, kind = found or (b"{}", "application/json")
            self.send_response(200 if found else 404)
            if not found:
                known = state.repository in self.path
                self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{len(body)}"')
            self.send_header("X-Repo-Commit", state.commit)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield state, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def open_in_new_process(
    home: Path, endpoint: str, name: str, revision: str = "", **environment: str
) -> dict[str, object]:
    """The endpoint and token are read when the libraries are imported, hence a process."""
    home.mkdir(exist_ok=True)
    settings = {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_TOKEN": TOKEN, **environment}
    settings["PYTHONPATH"] = str(Path(vit_colossal.__file__).resolve().parents[1])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, name, revision],
        env=os.environ | {"NO_PROXY": "127.0.0.1"} | settings,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_an_alias_is_fetched_and_works_offline_afterwards(
    hub: tuple[Hub, str], tmp_path: Path
) -> None:
    state, endpoint = hub
    online = open_in_new_process(tmp_path / "a", endpoint, "beans")
    assert online["name"] == "AI-Lab-Makerere/beans"
    assert online["rows"] == [6, 4]
    assert online["labels"] == ["sick", "well"]
    assert online["eval_split"] == "validation"
    seen = len(state.requested)
    offline = open_in_new_process(tmp_path / "a", endpoint, "beans", HF_HUB_OFFLINE="1")
    assert offline == online
    assert len(state.requested) == seen


def test_the_fingerprint_is_the_commit_not_the_machine(
    hub: tuple[Hub, str], tmp_path: Path
) -> None:
    state, endpoint = hub
    first = open_in_new_process(tmp_path / "a", endpoint, "beans")
    other_machine = open_in_new_process(tmp_path / "b", endpoint, "beans")
    state.commit = "2" * 40
    newer = open_in_new_process(tmp_path / "c", endpoint, "beans")
    assert first["fingerprint"] == other_machine["fingerprint"] != newer["fingerprint"]


def test_the_revision_is_asked_for(hub: tuple[Hub, str], tmp_path: Path) -> None:
    state, endpoint = hub
    open_in_new_process(tmp_path / "a", endpoint, "beans", revision="v1.5")
    assert any("v1.5" in path for path in state.requested)


def test_an_unknown_name_says_what_was_fetched_and_what_to_do(
    hub: tuple[Hub, str], tmp_path: Path
) -> None:
    _, endpoint = hub
    (problem,) = open_in_new_process(tmp_path / "a", endpoint, "cifar10")["error"]
    for part in ("uoft-cs/cifar10", "name", "network", "HF_TOKEN", "local folder"):
        assert part in problem


def test_a_token_is_blotted_out_wherever_it_turns_up(hub: tuple[Hub, str], tmp_path: Path) -> None:
    _, endpoint = hub
    (problem,) = open_in_new_process(tmp_path / "a", endpoint, f"someone/{TOKEN}")["error"]
    assert "someone/***" in problem  # that it is nowhere else is checked for every process


def test_no_network_is_a_problem_for_people(tmp_path: Path) -> None:
    (problem,) = open_in_new_process(
        tmp_path / "a", "http://127.0.0.1:9", "someone/pictures", HF_HUB_OFFLINE="1"
    )["error"]
    assert "someone/pictures" in problem
