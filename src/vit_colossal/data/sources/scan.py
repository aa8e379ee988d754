"""What lies in a folder: its images, its other files, and what is no data, found in one walk."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from vit_colossal.data.sources.images import IMAGE_SUFFIXES
from vit_colossal.data.sources.system_files import is_left_by_system
from vit_colossal.hub import lies_in
from vit_colossal.plan import run_folder
from vit_colossal.text import is_utf8, printable

# fmt: off
#: What has to be unpacked first; ``.tar`` can be shards.
ARCHIVES = frozenset((".7z", ".bz2", ".gz", ".rar", ".tgz", ".xz", ".zip"))
# Images that are not read: leaving them out deserves a word.
_OTHER_IMAGES = frozenset((
    ".arw", ".cr2", ".cr3", ".dng", ".eps", ".jxl", ".nef", ".psd", ".raw", ".svg",
))
# What data sets are made of, and what is written of them: others have a word on these.
_OF_A_DATA_SET = ARCHIVES | {
    ".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".arrow", ".tar", ".md", ".txt",
}
# fmt: on
#: Kinds of files that are counted by name.
_MOST_KINDS = 8


@dataclass
class FolderNode:
    """A folder and what is below it; nothing that a system left.

    Attributes:
        path: Where it is.
        folders: Those in it, by name, sorted.
        images: Files directly in it that end like images, sorted.
        others: The other files directly in it, sorted.
    """

    path: Path
    folders: dict[str, FolderNode] = field(default_factory=dict)
    images: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def count(self) -> int:
        """Images in it and below."""
        return len(self.images) + sum(folder.count for folder in self.folders.values())

    @property
    def filled(self) -> dict[str, FolderNode]:
        """The folders in it that have images."""
        return {name: folder for name, folder in self.folders.items() if folder.count}

    def walk(self) -> Iterator[FolderNode]:
        """This folder and all below it."""
        yield self
        for folder in self.folders.values():
            yield from folder.walk()

    def all_images(self) -> list[Path]:
        """The images in it and below, sorted."""
        return sorted(image for folder in self.walk() for image in folder.images)

    def files(self, *suffixes: str) -> list[Path]:
        """The other files in it and below with one of the suffixes, sorted."""
        found = (file for folder in self.walk() for file in folder.others)
        return sorted(file for file in found if file.suffix.lower() in suffixes)

    def not_read(self) -> tuple[str, ...]:
        """A line about images of formats that are not read, if there are any."""
        kinds = self._counted(lambda suffix: suffix in _OTHER_IMAGES)
        return (
            (f"{self.path}: left out {kinds}; convert them to JPEG to use them",) if kinds else ()
        )

    def no_images(self) -> tuple[str, ...]:
        """A line about what lies beside photos, such as films and notes of programs, if any."""
        kinds = self._counted(lambda suffix: suffix not in _OTHER_IMAGES | _OF_A_DATA_SET)
        return (f"{self.path}: passed over what is no image: {kinds}",) if kinds else ()

    def _counted(self, chosen: Callable[[str], bool]) -> str:
        """How many other files have which of the chosen suffixes, in it and below."""
        suffixes = (f.suffix.lower() for folder in self.walk() for f in folder.others)
        counts = Counter(filter(chosen, suffixes)).most_common()
        kinds = [f"{count} {suffix or 'without suffix'}" for suffix, count in counts[:_MOST_KINDS]]
        rest = sum(count for _, count in counts[_MOST_KINDS:])
        return ", ".join([*kinds, *([f"{rest} more"] if rest else [])])


@dataclass
class Scan:
    """A folder that was walked through.

    Attributes:
        root: What is in it.
        problems: What is refused if its images are the data: names that are no UTF-8, links that
            lead out of it, and links to folders; one line each.
        left_by_systems: How often each name of a system's was passed over; no hidden files.
        runs: Run directories, whose thumbnails and predictions are no data.
    """

    root: FolderNode
    problems: list[str] = field(default_factory=list)
    left_by_systems: Counter[str] = field(default_factory=Counter)
    runs: list[Path] = field(default_factory=list)

    def passed_over(self) -> tuple[str, ...]:
        """A line each about what systems left and about runs, if there are any."""
        lines, where = [], self.root.path
        if self.left_by_systems:
            names = ", ".join(f"{n} {name}" for name, n in sorted(self.left_by_systems.items()))
            lines.append(f"{where}: passed over what systems leave: {names}")
        if self.runs:
            first = self.runs[0].relative_to(where)
            more = f" and {len(self.runs) - 1} more" if self.runs[1:] else ""
            lines.append(f"{where}: passed over the runs in it: {first}{more}")
        return tuple(lines)


def scan(root: Path) -> Scan:
    """Walk through a folder; no file is opened, and links to folders are not followed.

    Args:
        root: The folder, resolved.

    Raises:
        OSError: A folder cannot be read.
    """
    found = Scan(FolderNode(root))
    if not is_utf8(str(root)):
        found.problems.append(_misnamed(root))
    _fill(found.root, found)
    return found


def _fill(node: FolderNode, found: Scan) -> None:
    with os.scandir(node.path) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if is_left_by_system(entry.name):
                # Hidden files are no news; hidden folders may hold images.
                if not entry.name.startswith(".") or entry.is_dir(follow_symlinks=False):
                    found.left_by_systems[entry.name] += 1
                continue
            path = Path(entry.path)
            if not is_utf8(entry.name):
                found.problems.append(_misnamed(path))
            if entry.is_symlink() and (problem := _link_out(path, found.root.path)):
                found.problems.append(problem)
            if entry.is_dir(follow_symlinks=False):
                node.folders[entry.name] = FolderNode(path)
            elif entry.is_file():
                is_image = path.suffix.lower() in IMAGE_SUFFIXES
                (node.images if is_image else node.others).append(path)
    for name, folder in list(node.folders.items()):
        before = len(found.runs)
        if _is_run(folder.path):
            found.runs.append(folder.path)
        else:
            _fill(folder, found)
        # What held runs alone is none of the data's folders either.
        if len(found.runs) > before and not (folder.folders or folder.images or folder.others):
            del node.folders[name]


def _misnamed(path: Path) -> str:
    """No table of rows and no file of a run could hold it."""
    return f"{printable(str(path))} is no name in UTF-8: rename it"


def _is_run(folder: Path) -> bool:
    """People train where their photos lie: `runs/` is then among them."""
    names = (run_folder.CONFIG, run_folder.ENVIRONMENT)
    return all((folder / name).is_file() for name in names)


def _link_out(path: Path, root: Path) -> str | None:
    """A data set is what lies in its folder: links to folders could also lead round in circles."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        return f"{path} is a link to a folder; put the folder itself there"
    if not target.exists():
        return f"{path} is a link to {target}, which is not there"
    if not lies_in(target, root):
        return f"{path} is a link to {target}; put the file itself there"
    return None
