"""Checkpoints on disk: complete or absent, and nothing damaged or hostile is ever used."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from vit_colossal.checkpoints import files
from vit_colossal.checkpoints.files import CheckpointError, newest_valid, verify
from vit_colossal.checkpoints.sharing import _placed

EVERY_FILE = (*files.FILES, files.MANIFEST)
IDENTITY = {"model": {"hidden": 4}, "labels": ["a", "b"]}


def tensors(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {
        "weights": {"layer.weight": torch.full((3, 4), value), "layer.bias": torch.zeros(3)},
        "moments": {"layer.weight.exp_avg": torch.full((3, 4), value / 2)},
        "rng": {"rank0.cpu": torch.get_rng_state()},
    }


def write(root: Path, step: int, value: float = 1.0) -> Path:
    return files.write(root, step, tensors(value), {"progress": {"best": 0.5}}, IDENTITY)


def entries(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A run's folder with the checkpoints of steps 1 and 2."""
    root = tmp_path / "checkpoints"
    write(root, 1)
    write(root, 2, 2.0)
    return root


def test_round_trip(root: Path) -> None:
    found = verify(root / "step-000002")
    assert (found.step, found.identity) == (2, IDENTITY)
    assert found.state["progress"] == {"best": 0.5}
    for kind, expected in tensors(2.0).items():
        loaded = load_file(found.path / f"{kind}.safetensors")
        assert loaded.keys() == expected.keys()
        assert kind == "rng" or all(loaded[name].equal(expected[name]) for name in expected)
    assert newest_valid(root) == (found, [])


def test_an_existing_checkpoint_is_never_written_into(root: Path) -> None:
    before = {path.name: path.read_bytes() for path in (root / "step-000002").iterdir()}
    assert write(root, 2, 9.0) == root / "step-000002"
    assert before == {path.name: path.read_bytes() for path in (root / "step-000002").iterdir()}


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def link(file: Path) -> None:
    """The same content, through a link."""
    moved = file.parent.parent / f"moved-{file.name}"
    file.rename(moved)
    file.symlink_to(moved)


DAMAGES: tuple[Callable[[Path], None], ...] = (flip, truncate, Path.unlink, link)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", EVERY_FILE)
def test_damage_is_detected_and_named(
    root: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damage(root / "step-000002" / name)
    with pytest.raises(CheckpointError) as caught:
        verify(root / "step-000002")
    assert str(root / "step-000002") in str(caught.value)
    assert name in str(caught.value)
    found, skipped = newest_valid(root)
    assert found is not None
    assert found.step == 1
    assert skipped == [str(caught.value)]


@pytest.mark.parametrize("position", range(0, 700, 7))
def test_a_flipped_bit_anywhere_in_the_manifest_changes_nothing_unseen(
    root: Path, position: int
) -> None:
    """Either it is refused, or what it says is the same."""
    path = root / "step-000002"
    before = verify(path)
    data = bytearray((path / files.MANIFEST).read_bytes())
    data[position % len(data)] ^= 1
    (path / files.MANIFEST).write_bytes(data)
    try:
        after = verify(path)
    except CheckpointError:
        return
    assert after == before


def test_without_any_valid_one_all_reasons_are_given(root: Path) -> None:
    for name in ("step-000001", "step-000002"):
        (root / name / files.STATE).unlink()
    found, skipped = newest_valid(root)
    assert found is None
    assert ["step-000002" in skipped[0], "step-000001" in skipped[1]] == [True, True]


def seal(path: Path, name: str) -> dict[str, Any]:
    data = (path / name).read_bytes()
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def state_json(path: Path) -> dict[str, Any]:
    return {files.STATE: seal(path, files.STATE)}


def change_manifest(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite it as somebody would who knows the format: with hashes that match."""
    manifest = json.loads((path / files.MANIFEST).read_text())
    change(manifest)
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True)
    manifest["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (path / files.MANIFEST).write_text(json.dumps(manifest))


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def test_a_pickle_with_a_matching_manifest_is_refused_and_never_run(
    root: Path, tmp_path: Path
) -> None:
    path, trace = root / "step-000002", tmp_path / "executed"
    content = pickle.dumps(Hostile(trace))
    pickle.loads(content)
    assert trace.exists(), "the test's own pickle has to work"
    trace.unlink()
    for write_hostile in (
        lambda file: file.write_bytes(content),
        lambda file: torch.save(Hostile(trace), file),
    ):
        write_hostile(path / "weights.safetensors")
        sealed = seal(path, "weights.safetensors")
        change_manifest(path, lambda m, s=sealed: m["files"].update({"weights.safetensors": s}))
        with pytest.raises(CheckpointError, match=r"weights\.safetensors"):
            verify(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["files"].update({"/etc/passwd": m["files"][files.STATE]}),
        lambda m: m["files"].update({"../../x": m["files"][files.STATE]}),
        lambda m: m["files"].update({"model.safetensors.index.json": m["files"][files.STATE]}),
        lambda m: m["files"].update({"/etc/passwd": m["files"].pop(files.STATE)}),
        lambda m: m["files"].pop(files.STATE),
        lambda m: m.update(files=[]),
        lambda m: m.update(files=None),
        lambda m: m.update(files={name: None for name in files.FILES}),
        lambda m: m.update(files={name: {"size": "1", "sha256": 3} for name in files.FILES}),
        lambda m: m.update(identity=[1]),
        lambda m: m.update(format="1"),
        lambda m: m.update(format=2),
        lambda m: m.clear(),
    ],
)
def test_hostile_manifest(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    change_manifest(root / "step-000002", change)
    with pytest.raises(CheckpointError, match="step-000002"):
        verify(root / "step-000002")
    assert newest_valid(root)[0] == verify(root / "step-000001")


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "\xff\xfe", "[" * 100_000, "1" * 5_000])
def test_json_that_is_none(root: Path, text: str) -> None:
    for name in (files.MANIFEST, files.STATE):
        path = write(root, 3)
        (path / name).write_bytes(text.encode("latin-1"))
        if name == files.STATE:
            change_manifest(path, lambda m, p=path: m["files"].update(state_json(p)))
        with pytest.raises(CheckpointError, match="step-000003"):
            verify(path)
        shutil.rmtree(path)


@pytest.mark.parametrize("state", [{}, {"step": "2"}, {"step": -1}, {"step": True}])
def test_state_that_does_not_fit(root: Path, state: dict[str, Any]) -> None:
    path = root / "step-000002"
    (path / files.STATE).write_text(json.dumps(state))
    change_manifest(path, lambda m: m["files"].update(state_json(path)))
    with pytest.raises(CheckpointError, match="step-000002"):
        verify(path)


def test_a_folder_that_leads_elsewhere_is_no_checkpoint_of_this_run(
    root: Path, tmp_path: Path
) -> None:
    outside = write(tmp_path / "other", 9)
    (root / "step-000009").symlink_to(outside)
    assert newest_valid(root)[0] == verify(root / "step-000002")


def test_links_pruning_and_sweeping(root: Path) -> None:
    for step in (3, 4, 5):
        write(root, step)
    files.point(root, "best", root / "step-000002")
    files.point(root, "last", root / "step-000004")
    files.point(root, "last", root / "step-000005")
    assert os.readlink(root / "last") == "step-000005"
    files.prune(root, 2)
    assert [path.name for path in files.listed(root)] == [f"step-{step:06d}" for step in (5, 4, 2)]
    (root / ".unfinished-step-000006-1").mkdir()
    (root / ".deleted-step-000001-1").mkdir()
    files.sweep(root)
    assert entries(root) == ["best", "last", "step-000002", "step-000004", "step-000005"]


class Killed(BaseException):
    """What SIGKILL looks like to code that catches Exception: nothing of it runs any more."""


SUB_STEPS = [
    ("save_file", 1),
    ("save_file", 3),
    *(("sync", n) for n in (1, 4, 5, 6)),
    ("rename", 1),
]


@pytest.mark.parametrize("error", [Killed, RuntimeError, OSError])
@pytest.mark.parametrize(("what", "nth"), SUB_STEPS)
def test_a_writer_that_ends_early_leaves_no_half_checkpoint(
    root: Path, monkeypatch: pytest.MonkeyPatch, what: str, nth: int, error: type[BaseException]
) -> None:
    owner: Any = os if what == "rename" else files
    original, calls = getattr(owner, what), 0

    def end_early(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise error("ended early")
        original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, what, end_early)
        with pytest.raises(CheckpointError if error is OSError else error, match="ended early"):
            write(root, 3)
    assert [path.name for path in files.listed(root)] == ["step-000002", "step-000001"]
    assert newest_valid(root) == (verify(root / "step-000002"), [])
    if error is not Killed:
        assert entries(root) == ["step-000001", "step-000002"]
    files.sweep(root)
    assert entries(root) == ["step-000001", "step-000002"]
    assert verify(write(root, 3)).step == 3


def test_a_deletion_that_ends_early_leaves_no_half_checkpoint(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end_early(path: Path, **_: Any) -> None:
        (path / "weights.safetensors").unlink()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "rmtree", end_early)
        with pytest.raises(Killed):
            files.prune(root, 1)
    assert newest_valid(root) == (verify(root / "step-000002"), [])
    assert [path.name for path in files.listed(root)] == ["step-000002"]
    files.sweep(root)
    assert entries(root) == ["step-000002"]


def test_full_disk(small_disk: Callable[[str], Path]) -> None:
    root = small_disk("1m") / "checkpoints"
    write(root, 1)
    for size in (300_000, 240_000):  # the weights do not fit; they fit and the moments do not
        large = {
            **tensors(1.0),
            "weights": {"w": torch.zeros(size)},
            "moments": {"m": torch.zeros(size)},
        }
        with pytest.raises(CheckpointError) as caught:
            files.write(root, 2, large, {}, IDENTITY)
        assert str(root) in str(caught.value)
        assert "No space left" in str(caught.value)
        assert entries(root) == ["step-000001"]
        assert newest_valid(root) == (verify(root / "step-000001"), [])


def test_read_only_disk(small_disk: Callable[[str], Path]) -> None:
    disk = small_disk("1m")
    root = disk / "checkpoints"
    write(root, 1)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(CheckpointError, match="Read-only") as caught:
        write(root, 2)
    assert str(root) in str(caught.value)
    assert newest_valid(root) == (verify(root / "step-000001"), [])


def test_differences_name_both_sides() -> None:
    labels = [f"label {number}" for number in range(100)]
    saved = {"model": {"hidden": 4, "layers": 2}, "labels": labels}
    current = {"model": {"hidden": 4, "layers": 3}, "labels": [*labels[:-1], "x"], "seed": 3}
    assert files.differences(saved, saved) == []
    assert files.differences(saved, current) == [
        "model.layers: 2 in the checkpoint, 3 here",
        'labels from entry 100: ["label 99"] in the checkpoint, ["x"] here',
        "seed: null in the checkpoint, 3 here",
    ]


def test_a_run_that_goes_back_drops_what_came_after(root: Path) -> None:
    for step in (3, 11):
        write(root, step)
    files.point(root, "last", root / "step-000011")
    files.point(root, "best", root / "step-000002")
    dropped = files.drop_after(root, 2)
    assert [path.name for path in dropped] == ["step-000011", "step-000003"]
    assert entries(root) == ["best", "step-000001", "step-000002"]
    assert files.drop_after(root, 2) == []


@pytest.mark.parametrize(("step", "kept"), [(1, False), (2, True), (7, True)])
def test_links_that_were_copied_as_folders(step: int, kept: bool, root: Path) -> None:
    """As archives and tools make them that know no links."""
    shutil.copytree(root / "step-000002", root / "best")
    files.drop_after(root, step)
    assert (root / "best").is_dir() is kept
    files.point(root, "best", root / "step-000001")
    assert (root / "best").is_symlink() and verify((root / "best").resolve()).step == 1
    assert not [name for name in entries(root) if name.startswith(".")]


def test_a_received_checkpoint_replaces_all_but_the_same_one(root: Path, tmp_path: Path) -> None:
    """Hosts that share a disk may send what is there: it never goes, not even for a moment."""
    there = root / "step-000002"
    before = there.stat().st_ino
    assert _placed(write(tmp_path / "same", 2, 2.0), there, best=False) == ""
    assert there.stat().st_ino == before
    for _ in ("another", "after damage"):
        assert _placed(write(tmp_path / "other", 2, 3.0), there, best=False) == ""
        assert verify(there).step == 2
        assert load_file(there / "weights.safetensors")["layer.weight"].eq(3.0).all()
        (there / files.STATE).write_text("{}")
