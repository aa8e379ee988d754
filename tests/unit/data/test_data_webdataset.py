"""WebDataset shards: what counts as a sample, and what is refused."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from vit_colossal.data.sources.request import SourceRequest
from vit_colossal.data.sources.source import ImageSource, missing_path, open_source
from vit_colossal.data.sources.webdataset import expand_braces, open_file
from vit_colossal.errors import DataError


def png(red: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (red, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def shard(path: Path, members: dict[str, bytes | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, body in members.items():
            content = body.encode() if isinstance(body, str) else body
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def samples(first: int, count: int) -> dict[str, bytes | str]:
    members: dict[str, bytes | str] = {}
    for i in range(first, first + count):
        members |= {f"{i:04}.png": png(i), f"{i:04}.cls": str(i % 2)}
    return members


def open_path(path: Path | str, **options: object) -> ImageSource:
    return open_source(SourceRequest(str(path), **options))


def problems(path: Path | str, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        open_path(path, **options)
    assert all("\n" not in problem for problem in caught.value.problems)
    return "\n".join(caught.value.problems)


def reds(source: ImageSource) -> list[int]:
    """The red of every training image, read as training reads it."""
    import datasets

    rows = source.train.cast_column(source.image_column, datasets.Image(decode=False))
    paths = [row[source.image_column]["path"] for row in rows]
    return [Image.open(open_file(path)).getpixel((0, 0))[0] for path in paths]


# --- Reading --------------------------------------------------------------------------------------


def test_a_pattern_names_the_shards_in_order(tmp_path: Path) -> None:
    for number in range(3):
        shard(tmp_path / f"pets-{number:03}.tar", samples(10 * number, 10))
    pattern = f"{tmp_path}/pets-{{000..002}}.tar"
    assert not missing_path(pattern)
    source = open_path(pattern, val_split=0.2)
    assert (len(source.train), len(source.evaluation)) == (24, 6)
    assert source.labels == ("0", "1")
    assert reds(source) == sorted(reds(source))
    whole = open_path(tmp_path, val_split=0.2)
    assert whole.fingerprint == source.fingerprint
    assert reds(open_path(f"{tmp_path}/pets-{{000..001}}.tar", eval_split="train[:2]")) == list(
        range(20)
    )


def test_folders_of_shards_tell_the_split_by_their_names(tmp_path: Path) -> None:
    shard(tmp_path / "train/0.tar", samples(0, 4))
    shard(tmp_path / "train/1.tar", samples(4, 4))
    shard(tmp_path / "validation/0.tar", samples(8, 2))
    source = open_path(tmp_path)
    assert (reds(source), len(source.evaluation)) == (list(range(8)), 2)
    assert source.eval_split == "validation"


def test_labels_come_from_cls_txt_or_json(tmp_path: Path) -> None:
    text = {"a.jpg": png(0), "a.txt": "cat\n", "b.JPEG": png(1), "b.txt": "dog", "c.png": png(2)}
    source = open_path(shard(tmp_path / "t.tar", {**text, "c.txt": "cat"}), eval_split="train[:1]")
    ids = source.train.select_columns("label")[:]["label"]
    assert [source.labels[i] for i in ids] == ["cat", "dog", "cat"]
    for number, key in enumerate(("label", "class", "cls")):
        members: dict[str, bytes | str] = {}
        for i in range(4):
            members |= {f"{i}.jpg": png(i), f"{i}.json": json.dumps({"id": 9, key: i % 2})}
        assert open_path(shard(tmp_path / f"j{number}.tar", members)).labels == ("0", "1")
    both = {f"{i}.{s}": b for i in range(4) for s, b in (("jpg", png(i)), ("txt", "a caption"))}
    both |= {f"{i}.{s}": b for i in range(4) for s, b in (("jpg", png(i)), ("cls", str(i % 2)))}
    ordered = dict(sorted(both.items()))
    assert open_path(shard(tmp_path / "both.tar", ordered)).labels == ("0", "1")


def test_columns_can_be_named(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {}
    for i in range(4):
        breed = json.dumps({"label": 0, "breed": f"b{i % 2}"})
        members |= {f"d/{i}.jpg": png(i), f"d/{i}.png": png(100 + i), f"d/{i}.json": breed}
        members |= {f"d/{i}.seg.png": png(0), f"d/{i}.txt": f"t{i % 3}"}
    file = shard(tmp_path / "a.tar", members)
    message = problems(file)
    assert (
        "a.tar, sample d/0: several images, choose one of jpg, png with --image-column" in message
    )
    named = {"image_column": "png", "eval_split": "train[:1]"}
    source = open_path(file, label_column="breed", **named)
    assert (source.labels, reds(source)) == (("b0", "b1"), [100, 101, 102, 103])
    assert open_path(file, label_column="txt", **named).labels == ("t0", "t1", "t2")
    assert "no size in its .json" in problems(file, label_column="size", image_column="jpg")


def test_folders_hidden_files_and_long_names_are_no_obstacle(tmp_path: Path) -> None:
    long = "very/" * 40 + "caf\u00e9 \u732b::x@1+2"
    members = {"._a.jpg": b"?", f"{long}.jpg": png(7), f"{long}.cls": "0", **samples(1, 3)}
    file = tmp_path / "a.tar"
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("folder.d/"))
        link = tarfile.TarInfo("b.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            content = body.encode() if isinstance(body, str) else body
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert reds(open_path(file, eval_split="train[:1]")) == [7, 1, 2, 3]


def test_nothing_in_a_shard_is_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "exploded",))  # type: ignore[return-value]

    members: dict[str, bytes | str] = {}
    for i in range(4):
        members |= {f"{i}.jpg": png(i), f"{i}.cls": str(i % 2)}
        members |= {f"{i}.{s}": pickle.dumps(Bomb()) for s in ("pth", "pkl", "npy", "pyd")}
    assert len(open_path(shard(tmp_path / "a.tar", members), eval_split="train[:1]").train) == 4
    assert not (tmp_path / "exploded").exists()


def test_an_archive_beside_its_unpacked_images_is_left_alone(tmp_path: Path) -> None:
    shard(tmp_path / "pets.tar", {"a.txt": "whatever"})
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(4):
            (tmp_path / name / f"{i}.png").write_bytes(png(i))
    assert open_path(tmp_path).labels == ("cat", "dog")


def test_ranges_are_expanded() -> None:
    assert [str(p) for p in expand_braces("a-{8..10}.tar")] == ["a-8.tar", "a-9.tar", "a-10.tar"]
    assert [str(p) for p in expand_braces("{0..1}/{08..09}.tar")] == [
        "0/08.tar",
        "0/09.tar",
        "1/08.tar",
        "1/09.tar",
    ]
    with pytest.raises(DataError, match="more than"):
        expand_braces("a-{0..999999999999}.tar")


# --- Refusing -------------------------------------------------------------------------------------


def test_missing_shards_are_listed(tmp_path: Path) -> None:
    shard(tmp_path / "a-0.tar", samples(0, 4))
    message = problems(f"{tmp_path}/a-{{0..2}}.tar")
    assert "a-1.tar is missing" in message and "a-2.tar is missing" in message
    assert "a-0.tar" not in message.replace("a-{0..2}.tar", "")


def test_incomplete_samples_are_all_listed(tmp_path: Path) -> None:
    members = {
        **samples(0, 2),
        "x.png": png(1),
        "y.cls": "1",
        "z.png": png(1),
        "z.json": "[1, 2]",
        "u.png": png(1),
        "u.cls": "",
        "v.png": png(1),
        "v.json": "{",
        "w.png": png(1),
        "w.json": "[" * 100_000,
        "q.png": png(1),
        "q.cls": "7" * (1 << 21),
    }
    message = problems(shard(tmp_path / "a.tar", members))
    assert "a.tar, sample x: no label (.cls or .txt or .json) among png" in message
    assert "a.tar, sample y: no image among cls" in message
    assert "sample z: label [1, 2] is neither text nor a whole number" in message
    assert "sample u: no label" in message
    assert "sample v: " in message and "sample w: " in message
    assert "sample q: .cls of 2,097,152 bytes is no label" in message
    assert "sample 0000" not in message


def test_damaged_shards_are_refused(tmp_path: Path) -> None:
    whole = shard(tmp_path / "a.tar", samples(0, 6)).read_bytes()
    for name, content, reason in (
        ("cut", whole[:3000], "unexpected end of data"),
        ("header", whole[:3072] + b"\xff" * 512 + whole[3584:], "damaged at byte 3072"),
        ("text", b"<html>" * 200, "not a readable .tar file"),
        ("empty", b"", "not a readable .tar file"),
        ("gzip", gzip.compress(whole), "unpack .tar.gz first"),
        ("nothing", bytes(10240), "holds no samples"),
    ):
        (tmp_path / f"{name}.tar").write_bytes(content)
        assert reason in problems(tmp_path / f"{name}.tar"), name


def test_a_shard_cut_after_it_was_read_gives_an_error_not_pixels(tmp_path: Path) -> None:
    import datasets

    file = shard(tmp_path / "a.tar", samples(0, 4))
    source = open_path(file, eval_split="train[:1]")
    rows = source.train.cast_column("image", datasets.Image(decode=False))
    file.write_bytes(file.read_bytes()[:600])
    with pytest.raises(OSError, match="the shard ends before"):
        open_file(rows[3]["image"]["path"])
