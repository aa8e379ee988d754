"""What the cases of ``bad_input`` are made of: files in the current folder, made when asked for."""

from __future__ import annotations

import functools
import json
import os
import tarfile
import zlib
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

Make = Callable[[], object]
CLASSES = ("ant", "bee")


@functools.cache
def image(kind: str = "JPEG", seed: int = 0, size: int = 12) -> bytes:
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def put(path: str, content: bytes | str = b"") -> None:
    """A file, and the folders above it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(content.encode() if isinstance(content, str) else content)


def folder(root: str = "photos", classes: tuple[str, ...] = CLASSES, count: int = 6) -> None:
    """A folder of good images, one folder per class."""
    for number, name in enumerate(classes):
        for row in range(count):
            put(f"{root}/{name}/{row}.jpg", image(seed=100 * number + row))


def with_image(content: bytes, name: str = "bad.jpg") -> Make:
    """A good folder with one more file in its first class."""

    def make() -> None:
        folder()
        put(f"photos/ant/{name}", content)

    return make


def all_of(*makes: Make) -> Make:
    def make() -> None:
        for one in makes:
            one()

    return make


def file(path: str, content: bytes | str = b"") -> Make:
    return functools.partial(put, path, content)


def link(path: str, target: str) -> Make:
    def make() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(target, path)

    return make


def chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk of a PNG."""
    return len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG that says it has this size, whatever it holds."""
    head = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 0, 0, 0, 0])
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(values: Any) -> bytes:
    """A grey TIFF of these values, in their own type."""
    from PIL import Image

    stream = BytesIO()
    Image.fromarray(values).save(stream, "TIFF")
    return stream.getvalue()


def table(text: str, name: str = "data.csv", count: int = 6) -> Make:
    """A table beside a good folder ``photos``."""

    def make() -> None:
        folder(count=count)
        put(name, text)

    return make


def rows(*extra: str, head: str = "file,label") -> str:
    """Lines for all of the good images, and these."""
    good = [f"photos/{name}/{row}.jpg,{name}" for name in CLASSES for row in range(6)]
    return "\n".join([head, *good, *extra]) + "\n"


def lines(*extra: Any) -> str:
    """The same as JSON lines; text is taken as it is."""
    good = [
        {"file": f"photos/{name}/{row}.jpg", "label": name} for name in CLASSES for row in range(6)
    ]
    return "".join(
        (one if isinstance(one, str) else json.dumps(one)) + "\n" for one in [*good, *extra]
    )


def parquet(name: str, columns: Mapping[str, Any], features: Any = None) -> Make:
    def make() -> None:
        import datasets
        import pyarrow.parquet as pq

        kinds = features() if features else None
        table = datasets.Dataset.from_dict(dict(columns), features=kinds)
        if len(table):
            table.to_parquet(name)
        else:
            pq.write_table(table.features.arrow_schema.empty_table(), name)

    return make


def labelled(names: tuple[str, ...] = CLASSES) -> Callable[[], Any]:
    """The features of images with named labels."""

    def features() -> Any:
        import datasets

        return datasets.Features(
            image=datasets.Image(), label=datasets.ClassLabel(names=list(names))
        )

    return features


def pictures(count: int = 12) -> list[dict[str, Any]]:
    return [{"bytes": image("PNG", seed), "path": None} for seed in range(count)]


def shard(name: str, *members: tuple[str, bytes]) -> Make:
    """A tar file with six good samples a class, and these members."""

    def make() -> None:
        good = [
            (f"{kind}{row}.{suffix}", image(seed=row) if suffix == "jpg" else kind.encode())
            for kind in CLASSES
            for row in range(6)
            for suffix in ("jpg", "cls")
        ]
        with tarfile.open(name, "w") as tar:
            for member, content in [*good, *members]:
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, BytesIO(content))

    return make


def cut(name: str, length: int) -> Make:
    """Shorten a file, from its end if negative."""

    def make() -> None:
        content = Path(name).read_bytes()
        Path(name).write_bytes(content[:length])

    return make


# --- Models ---------------------------------------------------------------------------------------

SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPE |= {"intermediate_size": 32, "image_size": 16, "patch_size": 8}


@functools.cache
def vit() -> tuple[bytes, bytes]:
    """The configuration and weights of a small ViT."""
    from safetensors.torch import save
    from transformers import ViTConfig, ViTForImageClassification

    from vit_colossal.families.names import named_weights

    config = ViTConfig(**SHAPE, id2label=dict(enumerate(CLASSES)))
    model = ViTForImageClassification(config)
    weights = {name: parameter.detach() for name, parameter in named_weights(model)}
    return config.to_json_string().encode(), save(weights, metadata={"format": "pt"})


def model(
    changes: Mapping[str, Any] | None = None,
    weights: bytes | None = None,
    **files: bytes | str | None,
) -> Make:
    """A folder ``vit`` with a good model, but for some keys, its weights or further files.

    Args:
        changes: keys of ``config.json``.
        weights: content of ``model.safetensors``.
        files: further files, ``__`` for a dot; None removes one.
    """

    def make() -> None:
        config, good = vit()
        put("vit/config.json", json.dumps(json.loads(config) | dict(changes or {})))
        put("vit/model.safetensors", good if weights is None else weights)
        for name, content in files.items():
            path = Path("vit") / name.replace("__", ".")
            if content is None:
                path.unlink()
            else:
                put(str(path), content)

    return make


def index(*names: str, keep: bool = False) -> Make:
    """A model whose index names these files."""

    def make() -> None:
        model(model__safetensors__index__json=json.dumps({"weight_map": dict(enumerate(names))}))()
        if keep:
            os.rename("vit/model.safetensors", f"vit/{names[0]}")
        else:
            os.rename("vit/model.safetensors", "vit/other.safetensors")

    return make


def quantized() -> bytes:
    """The same weights as bytes."""
    import torch
    from safetensors.torch import load, save

    weights = {name: value.to(torch.int8) for name, value in load(vit()[1]).items()}
    return save(weights, metadata={"format": "pt"})


def without(part: str) -> bytes:
    """The weights but for those that have this in their names."""
    from safetensors.torch import load, save

    kept = {name: value for name, value in load(vit()[1]).items() if part not in name}
    return save(kept, metadata={"format": "pt"})


def busy_run(name: str = "run") -> Make:
    """A run directory that another process holds; see ``bad_input.held``."""
    return functools.partial(put, f"{name}/config.yaml", "plugin: ddp\n")
