"""A zip archive is read as the folder that it was made of, and nothing else is written."""

from __future__ import annotations

import io
import multiprocessing
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vit_colossal.data.sources import zip_archive
from vit_colossal.data.sources.request import SourceRequest
from vit_colossal.data.sources.source import missing_path, open_source
from vit_colossal.errors import DataError

LABELS = ("cat", "dog")


def png(seed: int) -> bytes:
    pixels = np.random.RandomState(seed).randint(0, 256, (4, 4, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def files() -> dict[str, bytes]:
    return {f"{label}/{n}.png": png(n) for label in LABELS for n in range(5)}


def archive(path: Path, members: dict[str, bytes], **options: object) -> Path:
    with zipfile.ZipFile(path, "w", **options) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def open_(path: Path, cache: Path, **options: object) -> object:
    return open_source(SourceRequest(dataset=str(path), cache_dir=cache, **options))


def problems(path: Path, cache: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_(path, cache)
    return "\n".join(caught.value.problems)


def written(folder: Path) -> list[str]:
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.suffix == ".png")


def test_it_is_the_folder_that_it_was_made_of(tmp_path: Path) -> None:
    for name, content in files().items():
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(content)
    path = archive(tmp_path / "photos.zip", files(), compression=zipfile.ZIP_DEFLATED)
    theirs, ours = open_(tmp_path / "photos", tmp_path / "c"), open_(path, tmp_path / "c")
    assert ours.fingerprint == theirs.fingerprint and ours.labels == theirs.labels == LABELS
    assert ours.name == str(path) and len(ours.train) + len(ours.evaluation) == 10
    [folder] = (f for f in (tmp_path / "c/unpacked").iterdir() if f.is_dir())
    assert written(folder) == sorted(files()) and ours.root == folder
    # Once: what lies there is used again, and written again where it is not whole.
    before = (folder / "cat/0.png").stat().st_ino
    assert open_(path, tmp_path / "c").fingerprint == theirs.fingerprint
    assert (folder / "cat/0.png").stat().st_ino == before
    (folder / "cat/1.png").unlink()
    assert open_(path, tmp_path / "c").fingerprint == theirs.fingerprint
    # Another content under the same name is another data set.
    archive(path, files() | {"dog/9.png": png(9)})
    assert open_(path, tmp_path / "c").fingerprint != theirs.fingerprint


def test_a_folder_around_it_and_what_systems_leave(tmp_path: Path) -> None:
    members = {f"photos/{name}": content for name, content in files().items()}
    members |= {"__MACOSX/photos/cat/._0.png": b"x", "photos/.DS_Store": b"x", "photos/cat/": b""}
    source = open_(archive(tmp_path / "a.zip", members), tmp_path / "c")
    assert source.labels == LABELS and len(source.train) + len(source.evaluation) == 10


def test_a_packed_folder_is_read_as_that_folder_whatever_its_name(tmp_path: Path) -> None:
    """As people pack: `zip -r pictures.zip "Meine Bilder"`."""
    for name, content in files().items():
        (tmp_path / "Meine Bilder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "Meine Bilder" / name).write_bytes(content)
    members = {f"Meine Bilder/{name}": content for name, content in files().items()}
    packed = archive(tmp_path / "pictures.zip", members)
    theirs, ours = open_(tmp_path / "Meine Bilder", tmp_path / "c"), open_(packed, tmp_path / "c")
    assert ours.labels == LABELS and ours.fingerprint == theirs.fingerprint
    assert ours.overview == tuple(
        line.replace("Meine Bilder/", "pictures.zip") for line in theirs.overview
    )


@pytest.mark.parametrize("encoding", ["utf-8", "cp437", "flag"])
def test_names_in_both_encodings(encoding: str, tmp_path: Path) -> None:
    labels, path = ("Bär", "Küken"), tmp_path / "a.zip"
    members = {f"{label}/{n}.png": png(n) for label in labels for n in range(5)}
    archive(path, members)  # marks UTF-8
    if encoding != "flag":
        stand_ins = {"Bär": "Bqqr" if encoding == "utf-8" else "Bqr"}
        stand_ins |= {"Küken": "Kqqken" if encoding == "utf-8" else "Kqken"}
        plain = {f"{stand_ins[n.split('/')[0]]}/{n.split('/')[1]}": c for n, c in members.items()}
        raw = archive(path, plain).read_bytes()
        for label, stand_in in stand_ins.items():
            raw = raw.replace(stand_in.encode() + b"/", label.encode(encoding) + b"/")
        path.write_bytes(raw)
    assert open_(path, tmp_path / "c").labels == labels


def link(name: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        info = zipfile.ZipInfo(name)
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        with zipfile.ZipFile(path, "a") as file:
            file.writestr(info, "/etc/passwd")

    return make


def member(name: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "a") as file:
            file.writestr(name, png(7))

    return make


def kind(mode: int) -> Callable[[Path], None]:
    """A member that is said to be of this kind."""

    def make(path: Path) -> None:
        info = zipfile.ZipInfo("cat/odd.png")
        info.external_attr = (mode | 0o644) << 16
        with zipfile.ZipFile(path, "a") as file:
            file.writestr(info, png(7))

    return make


def said_size(size: int) -> Callable[[Path], None]:
    """The first member is said to have so many bytes when it is unpacked."""

    def make(path: Path) -> None:
        raw = bytearray(path.read_bytes())
        place = raw.index(b"PK\x01\x02") + 24
        raw[place : place + 4] = size.to_bytes(4, "little")
        path.write_bytes(raw)

    return make


def overlapping(path: Path) -> None:
    """The second member is said to begin where the first one does."""
    raw = bytearray(path.read_bytes())
    first = raw.index(b"PK\x01\x02")
    second = raw.index(b"PK\x01\x02", first + 4)
    raw[second + 42 : second + 46] = raw[first + 42 : first + 46]
    path.write_bytes(raw)


def encrypted(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)


def damaged(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"IDAT")] ^= 255
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (member("../evil.png"), "../evil.png would lie outside"),
        (member("cat/../../.hidden.png"), "would lie outside"),
        (member("/tmp/evil.png"), "/tmp/evil.png would lie outside"),
        (member("..\\evil.png"), "../evil.png would lie outside"),
        (member("C:\\evil.png"), "would lie outside"),
        (link("cat/link.png"), "cat/link.png is a link"),
        (kind(stat.S_IFIFO), "cat/odd.png is no file"),
        (kind(stat.S_IFCHR), "cat/odd.png is no file"),
        (said_size(10), "damaged one (Bad CRC-32"),
        (said_size(2**31), "far more than images do"),
        (said_size(2**20), "cat/0.png is shorter than it says"),
        (overlapping, "damaged one ("),
        (member("."), "is a file and a folder"),
        (member("./../evil.png"), "would lie outside"),
        (member("//evil.png"), "would lie outside"),
        (member("cat/" + "x" * 300 + ".png"), "of more than 255 bytes"),
        (encrypted, "is encrypted"),
        (member("cat\\0.png"), "cat/0.png is in it twice"),
        (member("./cat//0.png"), "is in it twice"),
        (member("cat/0.png/x.png"), "is a file and a folder"),
        (damaged, "damaged one (Bad CRC-32"),
        (lambda path: path.write_bytes(b"x"), "no zip archive, or a damaged one"),
        (lambda path: archive(path, {}), "there are no files in it"),
        (lambda path: archive(path, {"a/x.md": b"x"}), "a.zip"),
    ],
)
def test_what_is_refused_leaves_nothing(
    change: Callable[[Path], None], expected: str, tmp_path: Path
) -> None:
    path = archive(tmp_path / "a.zip", files())
    change(path)
    found = problems(path, tmp_path / "c")
    assert expected in found and str(path) in found and str(tmp_path / "c") not in found
    assert written(tmp_path) == [] and not list(tmp_path.rglob("*.partial"))


def open_and_report(path: Path, cache: Path, barrier: Any, results: Any) -> None:
    barrier.wait(60)
    results.put(open_(path, cache).fingerprint)


def test_processes_that_ask_at_once_find_the_same(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", files())
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    arguments = (path, tmp_path / "c", barrier, results)
    workers = [context.Process(target=open_and_report, args=arguments) for _ in range(4)]
    for worker in workers:
        worker.start()
    assert len({results.get(timeout=60) for _ in workers}) == 1
    for worker in workers:
        worker.join(60)
    [folder] = (f for f in (tmp_path / "c/unpacked").iterdir() if f.suffix != ".lock")
    assert written(folder) == sorted(files())


@pytest.mark.parametrize("planted", ["folder", "nowhere"])
def test_a_link_in_the_cache_is_not_written_through(planted: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", files())
    open_(path, tmp_path / "c")
    [folder] = (f for f in (tmp_path / "c/unpacked").iterdir() if f.is_dir())
    shutil.rmtree(folder)
    (tmp_path / "folder" / "cat").mkdir(parents=True)
    (tmp_path / "folder" / "cat" / "mine.txt").write_text("mine")
    folder.symlink_to(tmp_path / planted)
    assert len(open_(path, tmp_path / "c").train)
    assert not folder.is_symlink() and written(folder) == sorted(files())
    assert written(tmp_path / "folder") == []
    assert (tmp_path / "folder" / "cat" / "mine.txt").read_text() == "mine"


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_archive, "_MODEST", 2**20)
    members = files() | {"cat/big.png": bytes(2**22)}
    path = archive(tmp_path / "a.zip", members, compression=zipfile.ZIP_DEFLATED)
    assert "far more than images do" in problems(path, tmp_path / "c")
    assert written(tmp_path) == []


def test_a_disk_without_room_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = type("Usage", (), {"free": 10})
    monkeypatch.setattr(zip_archive.shutil, "disk_usage", lambda _: full)
    path = archive(tmp_path / "a.zip", files())
    assert "make room, or name another --cache-dir" in problems(path, tmp_path / "c")


def test_a_missing_archive_is_no_name_on_the_hub() -> None:
    assert missing_path("photos.zip") and missing_path("my/photos.zip")
