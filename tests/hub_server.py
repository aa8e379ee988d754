"""The hub, played by a server on this machine that speaks as much of its protocol as is used.

Small files are redirected to a path on the same host, large ones (safetensors, Parquet) to another
host name, as the real hub's are to its content delivery network, where ranges can be asked for.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

VIT, BEANS = "google/vit-base-patch16-224", "AI-Lab-Makerere/beans"
BEAN_LABELS = ("angular_leaf_spot", "bean_rust", "healthy")
LARGE = (".safetensors", ".parquet", ".bin")


@dataclass
class Repository:
    """One repository and how it behaves.

    Attributes:
        files: content by path.
        commit: what every revision stands at.
        gated: only a request with a token is let in, and not even that with ``refuse_token``.
        drop_after: byte of the file before which the connection is cut, by path; each time any of
            it is asked for.
        slow: seconds before an answer, by path; ``""`` is the interface that lists files.
        status: HTTP status instead of the file, by path.
    """

    files: dict[str, bytes]
    commit: str = "1" * 40
    gated: bool = False
    refuse_token: bool = False
    drop_after: dict[str, int] = field(default_factory=dict)
    slow: dict[str, float] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What was asked for, and with which headers."""

    method: str
    path: str
    headers: dict[str, str]


class Hub:
    """Repositories by kind (``models``, ``datasets``) and name, and every request so far."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[Request] = []
        self.port = 0
        #: Seconds before any answer.
        self.slow = 0.0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def paths(self) -> list[str]:
        return [request.path for request in self.requests]

    def find(self, kind: str, rest: str) -> tuple[Repository, str, str] | None:
        """The repository, its name, and what follows it in a path."""
        for (its_kind, name), repository in self.repositories.items():
            if its_kind == kind and (rest == name or rest.startswith(f"{name}/")):
                return repository, name, rest[len(name) + 1 :]
        return None


H = TypeVar("H", bound="Hub")


@contextmanager
def serving(hub: H, handler: type[HubHandler] | None = None) -> Iterator[H]:
    """Serve on a loopback port that the system picks, by a handler that knows the hub."""

    class Handler(handler or HubHandler):  # type: ignore[misc]
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class HubHandler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append(
            Request(
                self.command,
                self.path,
                {name.lower(): value for name, value in self.headers.items()},
            )
        )
        time.sleep(self.hub.slow)
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/resolve-cache/"):
            kind, _, rest = path.removeprefix("/api/resolve-cache/").partition("/")
            self._file(kind, rest)
        elif path.startswith("/cdn/"):
            kind, _, rest = path.removeprefix("/cdn/").partition("/")
            self._file(kind, rest)
        elif path.startswith("/api/"):
            kind, _, rest = path.removeprefix("/api/").partition("/")
            self._interface(kind, rest, body)
        elif "/resolve/" in path:
            is_dataset = path.startswith("/datasets/")
            rest = path.removeprefix("/datasets/" if is_dataset else "/")
            self._resolve("datasets" if is_dataset else "models", rest)
        else:
            self._send(404, b"{}")

    do_HEAD = do_POST = do_GET

    def _refused(self, repository: Repository) -> bool:
        if not repository.gated:
            return False
        token = "Authorization" in self.headers
        if token and not repository.refuse_token:
            return False
        self._send(403 if token else 401, b"{}", {"X-Error-Code": "GatedRepo"})
        return True

    def _resolve(self, kind: str, rest: str) -> None:
        """Where a file is: small ones on this host, large ones on the other."""
        found = self.hub.find(kind, rest)
        if found is None:
            # The real one does not tell strangers whether a repository exists.
            known = "Authorization" in self.headers
            self._send(404 if known else 401, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        repository, name, tail = found
        _, revision, path = tail.split("/", 2)
        headers = {"X-Repo-Commit": repository.commit}
        time.sleep(repository.slow.get(path, 0) if self.command == "HEAD" else 0)
        if self._refused(repository):
            return
        if path in repository.status:
            self._send(repository.status[path], b"{}", headers)
        elif revision == "nowhere":
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif path not in repository.files:
            self._send(404, b"{}", headers | {"X-Error-Code": "EntryNotFound"})
        else:
            digest = hashlib.sha256(repository.files[path]).hexdigest()
            where = f"/api/resolve-cache/{kind}/{name}/{path}"
            if path.endswith(LARGE):
                headers["X-Linked-ETag"] = f'"{digest}"'
                headers["X-Linked-Size"] = str(len(repository.files[path]))
                where = f"http://localhost:{self.hub.port}/cdn/{kind}/{name}/{path}"
            headers |= {"ETag": f'"{digest}"', "Location": where}
            self._send(302 if path.endswith(LARGE) else 307, b"", headers)

    def _file(self, kind: str, rest: str) -> None:
        """The bytes of a file, or some of them."""
        found = self.hub.find(kind, rest)
        if found is None or found[2] not in found[0].files:
            self._send(404, b"{}")
            return
        repository, _, path = found
        time.sleep(repository.slow.get(path, 0))
        body = repository.files[path]
        headers = {
            "ETag": f'"{hashlib.sha256(body).hexdigest()}"',
            "X-Repo-Commit": repository.commit,
            "Accept-Ranges": "bytes",
        }
        start, status, cut = 0, 200, repository.drop_after.get(path)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            start, status = int(asked[1]), 206
            stop = min(int(asked[2] or len(body)) + 1, len(body))
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(body)}"
            body = body[start:stop]
        self._send(status, body, headers, cut if cut is None else max(0, cut - start))

    def _interface(self, kind: str, rest: str, posted: bytes) -> None:
        """What the hub says about a repository."""
        found = self.hub.find(kind, rest)
        if found is None:
            known = "Authorization" in self.headers
            self._send(404 if known else 401, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        repository, name, tail = found
        time.sleep(repository.slow.get("", 0))
        if self._refused(repository):
            return
        head, _, tail = tail.partition("/")
        revision, _, folder = tail.partition("/")
        if revision == "nowhere":
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif head in ("", "revision"):
            siblings = [{"rfilename": path} for path in repository.files]
            info = {"_id": "0", "id": name, "sha": repository.commit, "siblings": siblings}
            info |= {"private": False, "gated": False, "disabled": False, "downloads": 0}
            self._json({**info, "likes": 0, "tags": []})
        elif head == "tree":
            recursive = "recursive=true" in urlsplit(self.path).query.lower()
            self._json(_tree(repository, folder, recursive=recursive))
        elif head == "paths-info":
            asked = parse_qs(posted.decode()).get("paths", [])
            everything = _tree(repository, "", recursive=True)
            self._json([entry for entry in everything if entry["path"] in asked])
        else:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        cut: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


def _tree(repository: Repository, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path, body in repository.files.items():
        if folder and not path.startswith(f"{folder}/"):
            continue
        rest = path[len(folder) + 1 if folder else 0 :]
        parts = rest.split("/")
        folders = ["/".join(parts[:depth]) for depth in range(1, len(parts))]
        for inner in folders if recursive else folders[:1]:
            name = f"{folder}/{inner}" if folder else inner
            found[name] = {"type": "directory", "path": name, "size": 0, "oid": "0" * 40}
        if recursive or not folders:
            oid = hashlib.sha1(body).hexdigest()
            found[path] = {"type": "file", "path": path, "size": len(body), "oid": oid}
    return list(found.values())


def vit_files(hidden: int = 48, layers: int = 2, labels: int = 1000) -> dict[str, bytes]:
    """A model of ViT-base's naming and architecture: 224 pixels, patches of 16, random weights."""
    import torch
    from safetensors.torch import save
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    names = {index: f"ImageNet class {index}" for index in range(labels)}
    config = ViTConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        id2label=names,
        label2id={name: index for index, name in names.items()},
        architectures=["ViTForImageClassification"],
    )
    torch.manual_seed(0)
    weights = ViTForImageClassification(config).state_dict()
    processor = ViTImageProcessor(size={"height": 224, "width": 224}, resample=2)
    return {
        ".gitattributes": b"*.safetensors filter=lfs\n",
        "README.md": b"---\nlicense: apache-2.0\n---\n# Vision Transformer\n",
        "config.json": config.to_json_string().encode(),
        "preprocessor_config.json": processor.to_json_string().encode(),
        "model.safetensors": save(weights, metadata={"format": "pt"}),
    }


def jpeg(seed: int, label: int, size: int = 96) -> bytes:
    """A leaf of sorts: one colour per label, with speckles."""
    from PIL import Image

    random = np.random.default_rng(seed)
    pixels = random.integers(0, 60, (size, size, 3), dtype=np.uint8)
    pixels[..., label % 3] += 120
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def beans_files(train: int = 36, validation: int = 7, test: int = 5) -> dict[str, bytes]:
    """The columns, labels, splits and file names of beans, with images drawn here."""
    import datasets

    features = datasets.Features(
        image_file_path=datasets.Value("string"),
        image=datasets.Image(),
        labels=datasets.ClassLabel(names=list(BEAN_LABELS)),
    )
    files = {".gitattributes": b"*.parquet filter=lfs\n"}
    for number, (split, count) in enumerate(
        {"train": train, "validation": validation, "test": test}.items()
    ):
        labels = [row % 3 for row in range(count)]
        names = [f"{split}/{BEAN_LABELS[label]}/{row}.jpg" for row, label in enumerate(labels)]
        images = [
            {"bytes": jpeg(1000 * number + row, label), "path": name.rpartition("/")[2]}
            for row, (label, name) in enumerate(zip(labels, names, strict=True))
        ]
        rows = {"image_file_path": names, "image": images, "labels": labels}
        stream = BytesIO()
        datasets.Dataset.from_dict(rows, features=features).to_parquet(stream)
        files[f"data/{split}-00000-of-00001.parquet"] = stream.getvalue()
    return files
