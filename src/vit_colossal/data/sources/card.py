"""The README.md of a copy of a data set from the hub: which files are which configuration's.

As `datasets` reads it: https://huggingface.co/docs/hub/datasets-manual-configuration
"""

from __future__ import annotations

import glob
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from vit_colossal.errors import DataError


class Configuration(NamedTuple):
    """What one configuration is made of.

    Attributes:
        name: Its name; empty where the data set has no configurations.
        root: The folder that its files lie in.
        files: Those of each split; None where ``root`` is read like any folder.
    """

    name: str
    root: Path
    files: dict[str, list[Path]] | None = None


def find_configuration(path: Path, root: Path, asked: str | None) -> Configuration:
    """Choose a configuration of the data set in a folder.

    Args:
        path: The folder, as it was named.
        root: The same, resolved.
        asked: Which one; None takes the only one, or the default one.

    Raises:
        DataError: There is no such configuration, there are several and none is the default, or
            the README names files that are not there.
    """
    configurations = _read(path, root)
    if not configurations:
        if asked is not None:
            raise DataError(
                [f"--dataset-config {asked}: {path} has no configurations in a README.md: drop it"]
            )
        return Configuration("", root)
    names = ", ".join(configurations)
    try:
        name = asked or configurations.get_default_config_name()
    except ValueError as error:
        raise DataError([f"--dataset {path}: README.md: {error}"]) from None
    if name is None:
        raise DataError(
            [
                f"--dataset {path}: its README.md lists several configurations: choose one of "
                f"{names} with --dataset-config"
            ]
        )
    if name not in configurations:
        raise DataError([f"--dataset-config {name}: no such configuration, only {names}"])
    chosen = configurations[name]
    folder = _inside(path, root, chosen.get("data_dir") or ".")
    if chosen.get("data_files") is None:
        return Configuration(name, folder)
    return Configuration(name, folder, _files(path, folder, chosen["data_files"]))


def _read(path: Path, root: Path) -> Any:
    """The configurations by name, in the README's order."""
    readme = root / "README.md"
    if not readme.is_file() or not readme.read_bytes().lstrip(b"\xef\xbb\xbf").startswith(b"---"):
        return {}
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard

    try:
        card = DatasetCard.load(readme, ignore_metadata_errors=True)
        return MetadataConfigs.from_dataset_card_data(card.data)
    except Exception as error:  # whatever YAML and the library's checks raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            [f"--dataset {path}: README.md: its head cannot be read ({reason}): mend or remove it"]
        ) from error


def _files(path: Path, root: Path, patterns: Any) -> dict[str, list[Path]]:
    """The files of each split."""
    from datasets.data_files import resolve_pattern, sanitize_patterns

    found: dict[str, list[Path]] = {}
    problems = []
    try:
        by_split = sanitize_patterns(patterns)
    except ValueError as error:
        raise DataError([f"--dataset {path}: README.md: {str(error).splitlines()[0]}"]) from None
    for split, wanted in by_split.items():
        for pattern in wanted:
            if "://" in pattern:
                problems.append(f"--dataset {path}: README.md: {pattern} is not fetched")
                continue
            _inside(path, root, pattern)
            try:
                files = resolve_pattern(pattern, base_path=glob.escape(str(root)))
                found.setdefault(split, []).extend(Path(file) for file in files)
            except FileNotFoundError:
                problems.append(
                    f"--dataset {path}: README.md: split {split!r}: no files like {pattern}"
                )
    if problems:
        raise DataError(problems)
    return {split: sorted(set(files)) for split, files in found.items()}


def _inside(path: Path, root: Path, name: str) -> Path:
    """A data set is what lies in its folder."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        raise DataError([f"--dataset {path}: README.md: {name} lies outside of it"])
    folder = root / parts
    return folder if folder.is_dir() else root
