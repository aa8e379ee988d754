"""``vit-colossal predict``."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

from pydantic import Field
from pydantic_settings import CliPositionalArg

from vit_colossal.config.reading import read_settings
from vit_colossal.config.settings.base import CommandSettings
from vit_colossal.durable import replacing
from vit_colossal.errors import ConfigError
from vit_colossal.text import hide_secrets, printable

if TYPE_CHECKING:
    from vit_colossal.trained.predict import Prediction, Unreadable

FORMATS = ("table", "json", "jsonl", "csv")


class PredictSettings(CommandSettings):
    """Label image files. What cannot be read is listed on stderr and left out.

    Exit code 1 when not a single image could be read.
    """

    model: CliPositionalArg[str]
    """A run directory, a model directory or a hub name."""
    images: CliPositionalArg[list[str]]
    """Files, folders, quoted patterns such as 'photos/**/*.jpg', or - for paths on stdin."""
    checkpoint: str | None = None
    """Of a run: last, best, or a path."""
    format: Literal["table", "json", "jsonl", "csv"] | None = None
    """Default: by the suffix of --output; else table on a terminal and jsonl elsewhere."""
    output: Path | None = None
    """A file; default: standard output."""
    overwrite: bool = False
    """Replace the file of --output."""
    top_k: int = Field(5, ge=1)
    """Labels per image, at most all."""
    batch_size: int | None = Field(None, ge=1)
    """Images at a time; default 16 on a CPU, 64 on CUDA."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """Where to compute."""


SETTINGS = PredictSettings


def main(flags: Sequence[str], prog: str) -> int:
    """Label images; 1 when none could be read."""
    asked = read_settings(SETTINGS, flags, prog)
    _check(asked)
    from vit_colossal.trained.predict import Predictor, Unreadable, find_images
    from vit_colossal.trained.saved import locate

    predictor = Predictor(locate(asked.model, asked.checkpoint), asked.device)
    files, unreadable = find_images(_names(asked.images))
    results = predictor.predict(files, batch_size=asked.batch_size, top_k=asked.top_k)
    labelled = 0

    def good() -> Iterator[Prediction]:
        nonlocal labelled
        for found in _with_bar(results, len(files), asked):
            if isinstance(found, Unreadable):
                unreadable.append(found)
            else:
                labelled += 1
                yield found

    columns = min(asked.top_k, len(predictor.labels))
    with _opened(asked.output) as stream:
        _WRITERS[_format(asked)](good(), stream, columns)
    _report(labelled, unreadable)
    return 0 if labelled else 1


def _check(asked: PredictSettings) -> None:
    problems = []
    if asked.output is not None:
        if asked.output.exists() and not asked.overwrite:
            problems.append(f"--output {asked.output} exists: add --overwrite or name another")
        elif asked.output.is_dir() or not asked.output.absolute().parent.is_dir():
            problems.append(f"--output {asked.output}: name a file in an existing folder")
    if problems:
        raise ConfigError(problems)


def _names(images: list[str]) -> Iterator[str]:
    """The arguments; ``-`` stands for one path a line on standard input."""
    for name in images:
        if name == "-":
            with open(sys.stdin.fileno(), errors="surrogateescape", closefd=False) as lines:
                for line in lines:
                    if line.strip():
                        yield line.rstrip("\r\n")
        else:
            yield name


def _format(asked: PredictSettings) -> str:
    if asked.format is not None:
        return str(asked.format)
    if asked.output is not None:
        suffix = asked.output.suffix.lower().removeprefix(".")
        return suffix if suffix in FORMATS else "jsonl"
    return "table" if sys.stdout.isatty() else "jsonl"


def _with_bar(
    results: Iterable[Prediction | Unreadable], count: int, asked: PredictSettings
) -> Iterable[Prediction | Unreadable]:
    """A progress bar on stderr, if that is a terminal which no rows run through."""
    from tqdm import tqdm

    rows_come = asked.output is None and sys.stdout.isatty() and _format(asked) != "table"
    hidden = rows_come or not sys.stderr.isatty()
    return tqdm(results, total=count, unit="image", disable=hidden, leave=False)


@contextmanager
def _opened(path: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that is complete or absent."""
    if path is None:
        # A file's name may hold bytes that are no text.
        sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
        yield sys.stdout
        sys.stdout.flush()
        return
    try:
        with replacing(path, errors="surrogateescape", newline="") as file:
            yield file
    except OSError as error:
        raise ConfigError([f"--output {path}: cannot be written ({error})"]) from error


def _write_table(rows: Iterable[Prediction], stream: TextIO, columns: int) -> None:
    """One line an image: its file, the best label, and the next ones as far as asked for."""
    lines = [
        (
            printable(row.file),
            printable(row.label),
            f"{row.score:.4f}",
            "  ".join(f"{printable(label)} {score:.4f}" for label, score in row.top[1:]),
        )
        for row in rows
    ]
    if not lines:
        return
    lines.insert(0, ("file", "label", "score", "then" if columns > 1 else ""))
    widths = [max(len(line[place]) for line in lines) for place in range(3)]
    for *cells, rest in lines:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        stream.write("  ".join([*padded, rest]).rstrip() + "\n")


def _record(row: Prediction) -> dict[str, object]:
    top = [{"label": label, "score": round(score, 6)} for label, score in row.top]
    return {"file": row.file, "predictions": top}


def _write_jsonl(rows: Iterable[Prediction], stream: TextIO, columns: int) -> None:
    for row in rows:
        stream.write(json.dumps(_record(row)) + "\n")


def _write_json(rows: Iterable[Prediction], stream: TextIO, columns: int) -> None:
    stream.write(json.dumps([_record(row) for row in rows], indent=2) + "\n")


def _write_csv(rows: Iterable[Prediction], stream: TextIO, columns: int) -> None:
    writer = csv.writer(stream, lineterminator="\n")
    numbers = ["", *(f"_{place}" for place in range(2, columns + 1))]
    heads = [f"{name}{number}" for number in numbers for name in ("label", "score")]
    writer.writerow(["file", *heads])
    for row in rows:
        cells = [cell for label, score in row.top for cell in (label, f"{score:.6f}")]
        writer.writerow([row.file, *cells])


_WRITERS: dict[str, Callable[[Iterable[Prediction], TextIO, int], None]] = {
    "table": _write_table,
    "json": _write_json,
    "jsonl": _write_jsonl,
    "csv": _write_csv,
}


def _report(labelled: int, unreadable: list[Unreadable]) -> None:
    for line in unreadable:
        print(f"not read: {printable(hide_secrets(str(line)))}", file=sys.stderr)
    if unreadable or not labelled:
        print(f"{labelled} images labelled, {len(unreadable)} not read", file=sys.stderr)
