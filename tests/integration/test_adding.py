"""A data source and a command, added by following docs/adding.md in a copy of the package."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from launching import ROOT, Finished, environment, run, warm

PAGE = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The copy, with the page's files and rows."""
    source = tmp_path_factory.mktemp("copy") / "src"
    shutil.copytree(ROOT / "src" / "vit_colossal", source / "vit_colossal")
    files = re.findall(r"^`([\w./]+)`:\n\n```python\n(.*?)```", PAGE, re.M | re.S)
    rows = re.findall(r"in `(\w+)` of `([\w./]+)`:\n\n```python\n(.*?)```", PAGE, re.S)
    assert (len(files), len(rows)) == (2, 2)
    for name, text in files:
        path = source / "vit_colossal" / name
        assert not path.exists()
        path.write_text(text)
    for table, name, row in rows:
        path = source / "vit_colossal" / name
        start = re.search(rf"^{table}\b.* = {{\n", path.read_text(), re.M)
        assert start is not None
        text = path.read_text()
        path.write_text(text[: start.end()] + row + text[start.end() :])
    readers = source / "vit_colossal" / "data" / "sources" / "readers.py"
    line = "from vit_colossal.data.sources.request"
    added = "from vit_colossal.data.sources.arrays import read_arrays\n"
    readers.write_text(readers.read_text().replace(line, added + line, 1))
    return source


def vit_colossal(package: Path, *arguments: str) -> Finished:
    env = environment() | {"PYTHONPATH": str(package)}
    return run(warm("-m", "vit_colossal", *arguments, late=True), timeout_s=120, env=env)


@pytest.mark.slow
def test_both_work(package: Path, tmp_path: Path) -> None:
    values, targets = load_digits(return_X_y=True)
    pixels = np.round(values.reshape(-1, 8, 8, 1) * 255 / 16).astype(np.uint8).repeat(3, axis=3)
    data = tmp_path / "data"
    data.mkdir()
    for name, part in (("train", slice(64)), ("validation", slice(64, 96))):
        np.savez(data / f"{name}.npz", images=pixels[part], labels=targets[part])
    run_dir = str(tmp_path / "run")
    flags = ["--dataset", str(data), "--device", "cpu", "--model", "vit-micro"]
    more = ["--max-steps", "2", "--output-dir", run_dir, "--global-batch-size", "16"]
    finished = vit_colossal(package, "train", *flags, *more)
    assert finished.returncode == 0, finished.output
    assert "64 training and 32 evaluation images, 10 labels" in finished.stdout
    labels = vit_colossal(package, "labels", run_dir, "--numbered")
    assert labels.stdout.splitlines() == [f"{n} {n}" for n in range(10)], labels.output
    assert "did you mean --numbered?" in vit_colossal(package, "labels", "x", "--numberd").stderr
    (data / "train.npz").write_bytes(b"no archive")
    finished = vit_colossal(package, "train", *flags)
    assert finished.returncode == 2, finished.output
    assert "train.npz cannot be read" in finished.stderr
