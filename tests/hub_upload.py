"""The hub's side of an upload: repositories, large files and commits, on top of what it serves."""

from __future__ import annotations

import base64
import json
import re
from contextlib import AbstractContextManager

from hub_server import LARGE, Hub, HubHandler, Repository, Request, serving

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


class _Uploads(HubHandler):
    hub: UploadHub

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
            repository = self.hub.repositories["models", match[1]]
            getattr(self, f"_{match[2]}")(repository, match[1], match[3], body)
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        else:
            self._send(404, b"{}")

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._note(self.path)
        if self.hub.full:
            self._send(413, b"{}")
            return
        self.hub.blobs[self.path.rpartition("/")[2]] = body
        self._send(200, b"")

    def _note(self, path: str) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append(Request(self.command, path, headers))

    def _create(self, asked: dict[str, object]) -> None:
        name = f"{asked.get('organization') or OWNER}/{asked['name']}"
        status = 409 if ("models", name) in self.hub.repositories else 200
        self.hub.repositories.setdefault(("models", name), Repository({}))
        if asked.get("visibility") == "private":
            self.hub.private.append(name)
        self._send(status, json.dumps({"url": f"{self.hub.endpoint}/{name}"}).encode())

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
        self.hub.branches.append(branch)
        self._json({})

    def _batch(self, asked: dict[str, list[dict[str, object]]]) -> None:
        objects = [
            {**item, "actions": {"upload": {"href": f"{self.hub.endpoint}/put/{item['oid']}"}}}
            for item in asked["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, repository: Repository, name: str, branch: str, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.hub.messages.append(value["summary"])
            elif line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            else:
                repository.files[value["path"]] = self.hub.blobs[value["oid"]]
        repository.commit = f"{len(self.hub.messages):040d}"
        address = f"{self.hub.endpoint}/{name}/commit/{repository.commit}"
        self._json({"commitUrl": address, "commitOid": repository.commit})


def taking_uploads(hub: UploadHub) -> AbstractContextManager[UploadHub]:
    """Serve a hub that takes uploads."""
    return serving(hub, _Uploads)
