"""Streams and shards from the hub, against a server on this machine; see ``hub_server``."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vit_colossal
from hub_server import BEANS, Hub, Repository, beans_files, serving

SCRIPT = """
import json, sys
from pathlib import Path
from vit_colossal.data.cache import CacheOptions
from vit_colossal.data.request import SourceRequest
from vit_colossal.errors import DataError
from vit_colossal.run_data import open_data
for name, way in json.loads(sys.argv[1]):
    request = SourceRequest(name, streaming=way == "streamed")
    try:
        source = open_data(request, CacheOptions((4, 4), 2, Path("cache")))
    except DataError as error:
        print(json.dumps(error.problems))
    else:
        rows = [len(source.train), len(source.evaluation)]
        print(json.dumps([rows, source.labels, source.eval_split, source.fingerprint]))
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    hub.repositories["datasets", BEANS] = Repository(beans_files())
    with serving(hub):
        yield hub


def ask(home: Path, hub: Hub, *questions: tuple[str, str]) -> list[Any]:
    """The answers of one new process: the endpoint is read when the libraries are imported."""
    home.mkdir()
    settings = {"HF_HOME": str(home), "HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0"}
    settings |= {"NO_PROXY": "127.0.0.1", "HF_DATASETS_CACHE": str(home / "library")}
    settings["PYTHONPATH"] = str(Path(vit_colossal.__file__).resolve().parents[1])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(questions)],
        env=os.environ | settings,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_stream_keeps_nothing_but_the_cache_and_is_the_same_data(
    hub: Hub, tmp_path: Path
) -> None:
    (streamed,) = ask(tmp_path / "a", hub, (BEANS, "streamed"))
    assert not [f for f in (tmp_path / "a").rglob("*") if f.suffix in (".arrow", ".parquet")]
    assert len(list((tmp_path / "a/cache").glob("*/images.npy"))) == 2
    assert [streamed] == ask(tmp_path / "b", hub, (BEANS, "copied"))
    assert streamed[0] == [36, 7]


def test_a_stream_that_breaks_off_leaves_nothing(hub: Hub, tmp_path: Path) -> None:
    files = hub.repositories["datasets", BEANS].files
    name = next(name for name in files if "train-" in name)
    files[name] = files[name][: len(files[name]) // 2]
    (problems,) = ask(tmp_path / "a", hub, (BEANS, "streamed"))
    assert len(problems) == 1 and BEANS in problems[0]
    assert not list(tmp_path.glob("a/cache/*/")) and not list(tmp_path.rglob("*.partial"))


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("exploded",)


def shard(count: int) -> bytes:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for i in range(count):
            png = BytesIO()
            Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(png, "PNG")
            members = {"png": png.getvalue(), "cls": str(i % 2).encode()}
            members |= {suffix: pickle.dumps(Bomb()) for suffix in ("pth", "npy", "pyd")}
            for suffix, body in members.items():
                info = tarfile.TarInfo(f"{i}.{suffix}")
                info.size = len(body)
                tar.addfile(info, BytesIO(body))
    return buffer.getvalue()


def test_shards_are_read_without_unpickling(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["datasets", BEANS] = Repository({"data/train-000.tar": shard(20)})
    copied, streamed = ask(tmp_path / "a", hub, (BEANS, "copied"), (BEANS, "streamed"))
    assert copied == streamed
    assert copied[:2] == [[18, 2], ["0", "1"]]
    assert not (tmp_path / "a/exploded").exists()
