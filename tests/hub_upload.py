"""The hub's side of an upload: repositories, large files and commits, on top of what it serves."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer

from hub_server import LARGE, Hub, Repository, Request, _Handler

OWNER, WRITE_TOKEN = "somebody", "hf_a-secret-that-may-write"


class UploadHub(Hub):
    """A hub that takes what the holder of ``WRITE_TOKEN`` sends.

    Attributes:
        blobs: uploaded large files by SHA-256.
        messages: of the commits, in order.
        branches: that were asked for.
        private: repositories that were created as private ones.
        full: refuse large files, as a hub without room.
    """

    def __init__(self) -> None:
        super().__init__()
        self.blobs: dict[str, bytes] = {}
        self.messages: list[str] = []
        self.branches: list[str] = []
        self.private: list[str] = []
        self.full = False


@contextmanager
def taking_uploads(hub: UploadHub) -> Iterator[UploadHub]:
    """Serve on a loopback port that the system picks."""

    class Handler(_Uploads):
        pass

    Handler.hub = Handler.uploads = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Uploads(_Handler):
    uploads: UploadHub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        self._note(path)
        if path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
            return
        if self.headers.get("Authorization") != f"Bearer {WRITE_TOKEN}":
            known = "Authorization" in self.headers
            self._send(403 if known else 401, b'{"error": "you may not write"}')
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif match := re.fullmatch(r"/api/models/(.+?/.+?)/(preupload|commit|branch)/(.+)", path):
            repository = self.uploads.repositories["models", match[1]]
            getattr(self, f"_{match[2]}")(repository, match[1], match[3], body)
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        else:
            self._send(404, b"{}")

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._note(self.path)
        if self.uploads.full:
            self._send(413, b"{}")
            return
        self.uploads.blobs[self.path.rpartition("/")[2]] = body
        self._send(200, b"")

    def _note(self, path: str) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.uploads.requests.append(Request(self.command, path, headers))

    def _create(self, asked: dict[str, object]) -> None:
        name = f"{asked.get('organization') or OWNER}/{asked['name']}"
        status = 409 if ("models", name) in self.uploads.repositories else 200
        self.uploads.repositories.setdefault(("models", name), Repository({}))
        if asked.get("visibility") == "private":
            self.uploads.private.append(name)
        self._send(status, json.dumps({"url": f"{self.uploads.endpoint}/{name}"}).encode())

    def _preupload(self, repository: Repository, name: str, branch: str, body: bytes) -> None:
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        self._json({"files": modes})

    def _branch(self, repository: Repository, name: str, branch: str, body: bytes) -> None:
        self.uploads.branches.append(branch)
        self._json({})

    def _batch(self, asked: dict[str, list[dict[str, object]]]) -> None:
        objects = [
            {**item, "actions": {"upload": {"href": f"{self.uploads.endpoint}/put/{item['oid']}"}}}
            for item in asked["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, repository: Repository, name: str, branch: str, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.uploads.messages.append(value["summary"])
            elif line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            else:
                repository.files[value["path"]] = self.uploads.blobs[value["oid"]]
        repository.commit = f"{len(self.uploads.messages):040d}"
        address = f"{self.uploads.endpoint}/{name}/commit/{repository.commit}"
        self._json({"commitUrl": address, "commitOid": repository.commit})
