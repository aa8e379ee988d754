"""What is written takes the place of what has the name, and follows no link."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from vit_colossal.durable import (
    filling,
    open_no_link,
    remove,
    replacing,
    write_durably,
)


def by_replacing(path: Path) -> None:
    with replacing(path) as file:
        file.write("new")


def by_filling(path: Path) -> None:
    with filling(path.parent) as folder:
        (folder / path.name).write_text("new")


WAYS = (by_replacing, by_filling, lambda path: write_durably(path, "new"))


def outside(tmp_path: Path) -> Path:
    """A file of somebody's."""
    file = tmp_path / "outside"
    file.write_text("mine")
    return file


@pytest.mark.parametrize("write", WAYS)
@pytest.mark.parametrize("name", [os.symlink, os.link])
def test_other_names_of_a_file_keep_what_they_had(
    write: Callable[[Path], None], name: Callable[..., None], tmp_path: Path
) -> None:
    file = outside(tmp_path)
    path = tmp_path / "folder" / "x"
    path.parent.mkdir()
    name(file, path)
    write(path)
    assert (path.read_text(), file.read_text()) == ("new", "mine")
    assert not path.is_symlink()
    assert [entry.name for entry in path.parent.iterdir()] == ["x"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder", "outside"]


def test_a_link_at_a_name_that_can_be_foreseen_is_not_followed(tmp_path: Path) -> None:
    file = outside(tmp_path)
    (tmp_path / f".x.unfinished-{os.getpid()}").symlink_to(file)
    by_replacing(tmp_path / "x")
    assert ((tmp_path / "x").read_text(), file.read_text()) == ("new", "mine")


@pytest.mark.parametrize("planted", ["folder", "nowhere"])
def test_a_link_in_the_place_of_a_folder_is_replaced(planted: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    file = tmp_path / "folder" / "x"
    file.write_text("mine")
    (tmp_path / "link").symlink_to(planted)
    by_filling(tmp_path / "link" / "x")
    assert not (tmp_path / "link").is_symlink()
    assert ((tmp_path / "link" / "x").read_text(), file.read_text()) == ("new", "mine")


def test_a_folder_is_as_before_until_all_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("model.safetensors", "model-00001-of-00002.safetensors", "model_mine", "x"):
        (folder / name).write_text("old")
    left_over = tmp_path / ".model.unfinished-abc"
    left_over.mkdir()
    (left_over / "half").touch()
    for error in (OSError, KeyboardInterrupt):
        with pytest.raises(error), filling(folder, "model[-.]*safetensors*") as unfinished:
            (unfinished / "x").write_text("new")
            raise error
        assert {file.read_text() for file in folder.iterdir()} == {"old"}
        assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    with filling(folder, "model[-.]*safetensors*") as unfinished:
        (unfinished / "model.safetensors").write_text("new")
    kept = {file.name: file.read_text() for file in folder.iterdir()}
    assert kept == {"model.safetensors": "new", "model_mine": "old", "x": "old"}


def test_what_is_new_has_the_rights_of_any_file(tmp_path: Path) -> None:
    plain = outside(tmp_path)
    (tmp_path / "plain").mkdir()
    by_replacing(tmp_path / "x")
    by_filling(tmp_path / "folder" / "x")
    modes = [tmp_path / "x", tmp_path / "folder" / "x", plain]
    assert len({stat.S_IMODE(path.stat().st_mode) for path in modes}) == 1
    folders = [tmp_path / "folder", tmp_path / "plain"]
    assert len({stat.S_IMODE(path.stat().st_mode) for path in folders}) == 1


def test_of_a_link_the_link_is_removed(tmp_path: Path) -> None:
    for name in ("folder", "nowhere"):
        (tmp_path / "link").symlink_to(name)
        remove(tmp_path / "link")
        assert not os.path.lexists(tmp_path / "link")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(outside(tmp_path))
    (tmp_path / "link").symlink_to("folder")
    remove(tmp_path / "link")
    assert (tmp_path / "folder" / "link").is_symlink()
    remove(tmp_path / "folder")
    remove(tmp_path / "folder")
    assert [entry.name for entry in tmp_path.iterdir()] == ["outside"]


def test_a_file_that_is_changed_in_its_place_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(outside(tmp_path))
    with pytest.raises(OSError, match="symbolic links"):
        open_no_link(str(tmp_path / "link"), os.O_RDWR | os.O_CREAT)
