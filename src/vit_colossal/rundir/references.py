"""Reference accuracies: what a finished run can be judged by, as ``references.yaml`` keeps them.

Measured entries are written by ``vit-colossal check --record``, never by hand. Mean and spread are
kept for the reader; they follow from the counts, and a file where they do not is refused.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vit_colossal.errors import ConfigError

PACKAGE_FILE = Path(__file__).with_name("references.yaml")

#: A setting's value, as YAML holds it.
Value = bool | int | float | str

_HEADER = """\
# Reference accuracies that `vit-colossal check` and `train.py --check-reference` judge runs by;
# docs/reference-check.md states the rule. Measured entries come from `scripts/record_references.sh`
# and are not edited by hand: a value that does not follow from its counts is refused.

"""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class RunLayout(_Strict):
    """How a run was spread; ``plain`` as plugin is the loop without ColossalAI."""

    plugin: str
    tp: int = 1
    pp: int = 1
    zero: int = 0
    processes: int = 1

    def __str__(self) -> str:
        degrees = [("tp", self.tp, 1), ("pp", self.pp, 1), ("zero", self.zero, 0)]
        shown = [f"{name} {value}" for name, value, neutral in degrees if value != neutral]
        count = f"on {self.processes} process{'es' if self.processes > 1 else ''}"
        return " ".join([self.plugin, *shown, count])


class Result(_Strict):
    """One finished run: ``correct`` of ``total`` evaluation images; ``seed`` None if unknown."""

    seed: int | None = None
    correct: int = Field(ge=0)
    total: int = Field(ge=1)

    @model_validator(mode="after")
    def _counts(self) -> Self:
        if self.correct > self.total:
            raise ValueError(f"{self.correct} correct of {self.total}")
        return self


class Reference(_Strict):
    """What was trained, on what, and how well it did.

    Attributes:
        name: the entry's name.
        model: preset or hub name; ``model_overrides`` are its changed keys.
        dataset: name with aliases resolved (``AI-Lab-Makerere/beans``).
        train_split, split: names of the training and the evaluation split.
        eval_images: sizes of an evaluation that may be compared with this entry.
        labels: label names, in order.
        data_fingerprint: identity of the data; None where it was never recorded.
        protocol: which images were evaluated.
        layout: plugin, degrees and processes.
        settings: hyper-parameters.
        metric: what ``value`` is.
        value: mean of the results' accuracies.
        std: their sample standard deviation; None for a single run.
        results: counts of each run.
        source: where the entry comes from.
        command: what produced a run; None if that is not known.
        commit: the checkouts that the runs came from.
        versions: of the software.
    """

    name: str
    model: str
    model_overrides: dict[str, Value] = {}
    dataset: str
    train_split: str = "train"
    split: str
    eval_images: tuple[int, ...] = Field(min_length=1)
    labels: tuple[str, ...]
    data_fingerprint: str | None = None
    protocol: str
    layout: RunLayout
    settings: dict[str, Value]
    metric: Literal["accuracy"] = "accuracy"
    value: float
    std: float | None = None
    results: tuple[Result, ...] = Field(min_length=1)
    source: str
    command: str | None = None
    commit: str | None = None
    versions: dict[str, str] = {}

    @model_validator(mode="after")
    def _follows_from_counts(self) -> Self:
        # The published single value has four digits; ours are written with six.
        if abs(self.value - self.mean_accuracy()) > 5e-5:
            raise ValueError(f"value {self.value} does not follow from the counts")
        if (self.std is None) != (len(self.results) == 1):
            raise ValueError("std belongs to several results")
        if self.std is not None:
            if {result.total for result in self.results} != {*self.eval_images}:
                raise ValueError("several results need one number of evaluation images")
            if abs(self.std - spread(self.results)) > 5e-6:
                raise ValueError(f"std {self.std} does not follow from the counts")
        return self

    def mean_accuracy(self) -> float:
        """The results' mean accuracy."""
        return statistics.fmean(result.correct / result.total for result in self.results)


def spread(results: tuple[Result, ...]) -> float:
    """Sample standard deviation (n - 1) of the accuracies of several results."""
    return statistics.stdev(result.correct / result.total for result in results)


def load_references(path: Path | None = None) -> dict[str, Reference]:
    """Read all entries.

    Args:
        path: a file of the package's form; the package's own when not given.

    Raises:
        ConfigError: the file cannot be read, or an entry is not valid.
    """
    path = path or PACKAGE_FILE
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError([f"--references {path}: cannot be read ({error})"]) from None
    if not isinstance(entries, dict):
        raise ConfigError([f"--references {path}: expected entries by name"])
    references, problems = {}, []
    for name, values in entries.items():
        try:
            fields = values if isinstance(values, dict) else {}
            references[str(name)] = Reference.model_validate({**fields, "name": str(name)})
        except ValidationError as error:
            for item in error.errors():
                where = ".".join(map(str, [name, *item["loc"]]))
                problems.append(f"--references {path}: {where}: {item['msg']}")
    if problems:
        raise ConfigError(problems)
    return references


def find_reference(name: str, path: Path | None, flag: str) -> Reference:
    """The entry of a name.

    Raises:
        ConfigError: there is none; the text, which names ``flag``, lists those that exist.
    """
    references = load_references(path)
    if name not in references:
        known = ", ".join(sorted(references)) or "none"
        raise ConfigError([f"{flag} {name}: no such reference; known: {known}"])
    return references[name]


def save_reference(reference: Reference, path: Path | None = None) -> None:
    """Write one entry, in the place of an older one of its name.

    Raises:
        ConfigError: the file cannot be read or written.
    """
    path = path or PACKAGE_FILE
    references = load_references(path) if path.exists() else {}
    references[reference.name] = reference
    entries = {
        name: entry.model_dump(mode="json", exclude={"name"}, exclude_none=True)
        for name, entry in references.items()
    }
    text = yaml.safe_dump(entries, sort_keys=False, width=100, allow_unicode=True)
    try:
        path.write_text(_HEADER + text, encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"--references {path}: cannot be written ({error})"]) from None
