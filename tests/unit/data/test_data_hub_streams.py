"""Streams and shards from the hub, against a server on this machine; see ``hub_server``."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import tarfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_data_every_source import kinds, label_of, plain

from hub_server import BEANS, Hub, Repository, beans_files, serving
from launching import environment, run, warm

SCRIPT = """
import hashlib, json, sys
from pathlib import Path
from vit_colossal.data.cache import CacheOptions, prepare_images
from vit_colossal.model.preprocessing import Preprocessing
from vit_colossal.data.sources.request import SourceRequest
from vit_colossal.errors import DataError
from vit_colossal.data.prepare import open_data
for name, way, *label_column in json.loads(sys.argv[1]):
    request = SourceRequest(name, None, *label_column, streaming=way == "streamed")
    options = CacheOptions(Preprocessing((16, 16)), Path("cache"))
    try:
        source = open_data(request, options)
        train = source.train
        if way != "streamed":
            columns = source.image_column, source.label_column
            train = prepare_images(train, *columns, source.fingerprint, options)
    except DataError as error:
        print(json.dumps(error.problems))
    else:
        rows = [len(source.train), len(source.evaluation)]
        pixels = sorted(
            [source.labels[label], hashlib.sha256(image.tobytes()).hexdigest()]
            for image, label in zip(train.images[:], train.labels)
        )
        print(json.dumps([rows, source.labels, source.eval_split, source.fingerprint, pixels]))
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    hub.repositories["datasets", BEANS] = Repository(beans_files())
    with serving(hub):
        yield hub


def ask(home: Path, hub: Hub, *questions: tuple[str, ...]) -> list[Any]:
    """The answers of one new process: the endpoint is read when the libraries are imported."""
    home.mkdir()
    settings = {"HF_HOME": str(home), "HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0"}
    settings |= {"NO_PROXY": "127.0.0.1", "HF_DATASETS_CACHE": str(home / "library")}
    script = home / "script.py"
    script.write_text(SCRIPT)
    command = warm(str(script), json.dumps(questions), late=True)
    done = run(command, timeout_s=120, cwd=home, env=environment(**settings))
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


def shard(count: int, more: Callable[[int], dict[str, bytes]]) -> bytes:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for i in range(count):
            png = BytesIO()
            Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(png, "PNG")
            for suffix, body in {"png": png.getvalue(), **more(i)}.items():
                info = tarfile.TarInfo(f"{i}.{suffix}")
                info.size = len(body)
                tar.addfile(info, BytesIO(body))
    return buffer.getvalue()


def test_shards_are_read_without_unpickling(hub: Hub, tmp_path: Path) -> None:
    def members(i: int) -> dict[str, bytes]:
        bombs = {suffix: pickle.dumps(Bomb()) for suffix in ("pth", "npy", "pyd")}
        return {"cls": str(i % 2).encode(), **bombs}

    hub.repositories["datasets", BEANS] = Repository({"data/train-000.tar": shard(20, members)})
    copied, streamed = ask(tmp_path / "a", hub, (BEANS, "copied"), (BEANS, "streamed"))
    assert copied == streamed
    assert copied[:2] == [[18, 2], ["0", "1"]]
    assert not (tmp_path / "a/exploded").exists()


def test_labels_of_shards_are_text_numbers_or_json_as_in_local_ones(
    hub: Hub, tmp_path: Path
) -> None:
    animals = ("cat", "dog")
    as_json = {"label": 7, "breed": "cat"}
    contents: dict[str, Callable[[int], dict[str, bytes]]] = {
        "own/cls": lambda i: {"cls": animals[i % 2].encode()},
        "own/txt": lambda i: {"txt": f"{animals[i % 2]}\n".encode()},
        "own/json": lambda i: {"json": json.dumps({"label": animals[i % 2]}).encode()},
        "own/breed": lambda i: {"json": json.dumps(as_json | {"breed": animals[i % 2]}).encode()},
    }
    for name, members in contents.items():
        hub.repositories["datasets", name] = Repository({"train-0.tar": shard(20, members)})
    column = {"own/breed": ("breed",)}
    ways = [(n, way, *column.get(n, ())) for n in contents for way in ("copied", "streamed")]
    answers = ask(tmp_path / "a", hub, *ways)
    for (name, *_), answer in zip(ways, answers, strict=True):
        assert answer[:2] == [[18, 2], list(animals)], name
    assert all(a == b for a, b in zip(answers[::2], answers[1::2], strict=True))
    assert all(answer[4] == answers[0][4] for answer in answers)


def test_images_that_are_files_of_their_own_are_streamed_with_the_same_pixels(
    hub: Hub, tmp_path: Path
) -> None:
    """What `imagefolder` finds on the hub: no Parquet, one file an image."""
    wanted = kinds()
    files = {}
    for number, (name, (content, _)) in enumerate(wanted.items()):
        for split in ("train", "validation"):
            files[f"{split}/{label_of(number)}/{number}.{name.rpartition('.')[2]}"] = content
    hub.repositories["datasets", "own/files"] = Repository(files)
    ways = [("own/files", way) for way in ("copied", "streamed")]
    copied, streamed = ask(tmp_path / "a", hub, *ways)
    assert copied == streamed
    pixels = plain([image for _, image in wanted.values()])
    digests = [hashlib.sha256(image).hexdigest() for image in pixels]
    expected = sorted([label_of(n), digest] for n, digest in enumerate(digests))
    assert streamed[0] == [len(wanted)] * 2
    assert streamed[4] == expected
