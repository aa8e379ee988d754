"""What a benchmark measures: its flags, and the cases that they or a file make."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from vit_colossal.bench.case import BenchCase
from vit_colossal.config.plugins import DEFAULT_PLUGIN, name_problem
from vit_colossal.config.settings.base import alias, spellings
from vit_colossal.config.train_config import TrainConfig, problems_of
from vit_colossal.errors import ConfigError
from vit_colossal.plan.layouts import AUTOCAST, Layout, fitting_layouts, select
from vit_colossal.plan.model_spec import read_spec


class BenchConfig(TrainConfig):
    """Measure strategies and peers side by side."""

    cases: Path | None = None
    """YAML file with the cases, in place of --layouts and --peers; see docs/performance.md."""
    layouts: str = "all"
    """Comma-separated layout names (ddp, zero1, hybrid tp2, ...), or all that fit --nproc; of those
    the ones with --plugin, --tp and --pp where these are given."""
    peers: str = ""
    """Comma-separated scripts to run beside them, such as benchmarks/peers/ddp_loop.py."""
    data: Literal["synthetic", "real"] = "synthetic"
    """Images held in memory, or the data set's through the loader."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads per process; default the cores divided by --nproc."""
    steps: int = alias("steps", "max_train_steps", default=10, ge=1)
    """Optimizer steps that are timed, in each repetition."""
    warmup_steps: int = Field(3, ge=1)
    """Steps before them that are not."""
    repetitions: int = Field(5, ge=1)
    """How often every case is run, in processes of its own each time."""
    profile_steps: int = Field(3, ge=0)
    """Steps under the profiler after the timed ones of the first repetition; 0 for none."""
    calibrate: bool = True
    """Measure this machine where no rates of it are kept, so that each row has its prediction: at
    most a minute beyond starting processes, once for each model, batch and number of processes."""
    case_timeout: FiniteFloat = Field(900.0, gt=0)
    """Seconds after which one repetition of one case is ended."""

    def job(self, steps: int, changes: dict[str, Any]) -> TrainConfig:
        """The run of a case: a constant learning rate, nothing saved.

        Raises:
            ConfigError: the changes are no settings.
        """
        fields = {name: field for field, names in spellings(TrainConfig).items() for name in names}
        changes = {fields.get(name, name): value for name, value in changes.items()}
        if self.order is not None or "order" in changes:
            raise ConfigError(["--order: what is timed comes in the data's own order: drop it"])
        if "train" in (self.last_batch, changes.get("last_batch")):
            raise ConfigError(["--last-batch train: what is timed are whole batches: leave it out"])
        own = set(BenchConfig.model_fields) - set(TrainConfig.model_fields)
        values = {key: value for key, value in dict(self).items() if key not in own}
        fixed: dict[str, Any] = {"nproc": None, "output_dir": None, "save_every": 0, "epochs": 1}
        fixed |= {"max_steps": steps, "lr_schedule": "constant", "warmup_ratio": 0.0}
        fixed |= {"tensorboard": False, "overwrite": False, "last_batch": "drop"}
        # Cases and peers train the whole model on plain images, but where something else is asked.
        unasked = {"freeze": "none", "random_resized_crop": False}
        fixed |= {name: value for name, value in unasked.items() if values[name] is None}
        if self.model is None and "model" not in changes:
            fixed["model"] = "vit-micro"
        if self.dataset is None and "dataset" not in changes:
            fixed["dataset"] = "digits"
        try:
            return TrainConfig.model_validate({**values, **fixed, **changes})
        except ValidationError as error:
            raise ConfigError(problems_of(error)) from None


class CaseSpec(BaseModel):
    """One entry of a cases file; what is left out is as on the command line."""

    model_config = ConfigDict(extra="forbid")

    name: str
    peer: Path | None = None
    processes: int | None = Field(default=None, ge=1)
    threads: int | None = Field(default=None, ge=1)
    data: Literal["synthetic", "real"] | None = None
    steps: int | None = Field(default=None, ge=1)
    warmup_steps: int | None = Field(default=None, ge=1)
    settings: dict[str, Any] = {}


class CasesFile(BaseModel):
    """A cases file: settings of all cases, and the cases."""

    model_config = ConfigDict(extra="forbid")

    settings: dict[str, Any] = {}
    cases: list[CaseSpec]


def make_cases(config: BenchConfig) -> list[BenchCase]:
    """The cases of the command line or the cases file.

    Raises:
        ConfigError: the file cannot be used, or a name in it or on the command line is unknown.
    """
    specs = _from_layouts(config) if config.cases is None else _from_file(config.cases)
    names = [spec.name for spec in specs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError([f"--cases: two cases are called {name!r}" for name in twice])
    return [_case(config, spec) for spec in specs]


def _case(config: BenchConfig, spec: CaseSpec) -> BenchCase:
    processes = spec.processes or config.nproc or 1
    cores = len(os.sched_getaffinity(0))
    steps, warmup = spec.steps or config.steps, spec.warmup_steps or config.warmup_steps
    try:
        # A file names no code: there a location is a name that is not known.
        problem = name_problem(str(spec.settings.get("plugin", DEFAULT_PLUGIN)))
        if problem is not None:
            raise ConfigError([problem])
        job = config.job(steps + warmup, spec.settings)
    except ConfigError as error:
        raise ConfigError([f"case {spec.name!r}: {text}" for text in error.problems]) from None
    return BenchCase(
        name=spec.name,
        config=job,
        processes=processes,
        threads=spec.threads or config.threads or max(1, cores // processes),
        data=spec.data or config.data,
        steps=steps,
        warmup=warmup,
        peer=spec.peer,
    )


def _from_file(path: Path) -> list[CaseSpec]:
    try:
        file = CasesFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError([f"--cases {path}: cannot be read ({error})"]) from None
    except yaml.YAMLError as error:
        raise ConfigError([f"--cases {path}: not YAML ({' '.join(str(error).split())})"]) from None
    except ValidationError as error:
        places = [(".".join(map(str, item["loc"])), item["msg"]) for item in error.errors()]
        raise ConfigError([f"--cases {path}: {place}: {text}" for place, text in places]) from None
    return [
        spec.model_copy(update={"settings": {**file.settings, **spec.settings}})
        for spec in file.cases
    ]


def _from_layouts(config: BenchConfig) -> list[CaseSpec]:
    spec = read_spec(config.model or "vit-micro", config.model_overrides)
    fitting = fitting_layouts(config.nproc or 1, spec)
    if config.precision == "fp16":  # which all can that can bf16
        flags = {"precision": "fp16"}
        halves = (layout for layout in fitting if layout.precision == "bf16")
        fitting = [replace(layout, flags=layout.flags | flags) for layout in halves]
    fitting = _as_named(select(fitting, config.layouts, config.precision), config)
    scripts = [Path(name.strip()) for name in config.peers.split(",") if name.strip()]
    peer = {"plugin": AUTOCAST, "precision": config.precision or "fp32"}
    return [
        *(CaseSpec(name=path.stem, peer=path, settings=peer) for path in scripts),
        *(CaseSpec(name=str(layout), settings=layout.flags) for layout in fitting),
    ]


def _as_named(layouts: list[Layout], config: BenchConfig) -> list[Layout]:
    """Those that have the plugin and the degrees that were given.

    Raises:
        ConfigError: none has.
    """
    names = {"plugin", "tp", "pp", "zero"} & config.model_fields_set
    given = {name: getattr(config, name) for name in sorted(names)}
    default = {name: BenchConfig.model_fields[name].default for name in given}
    named = [layout for layout in layouts if given.items() <= (default | layout.flags).items()]
    if given and not named:
        wanted = " ".join(f"--{name} {value}" for name, value in given.items())
        raise ConfigError([f"{wanted}: not one of {', '.join(map(str, layouts))}"])
    return named
