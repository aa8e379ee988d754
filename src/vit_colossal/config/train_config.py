"""The run configuration: all settings together, and a dump that runs again.

pydantic checks the types and ranges and reports all problems at once; what needs
several fields, the number of processes, the model or the data is checked in ``plan``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import CliUnknownArgs

from vit_colossal.config.plugins import ALIASES
from vit_colossal.config.settings.augmentation import AugmentationSettings
from vit_colossal.config.settings.data import DataSettings, ModelSettings
from vit_colossal.config.settings.optimization import OptimizationSettings
from vit_colossal.config.settings.output import OutputSettings
from vit_colossal.config.settings.strategy import StrategySettings
from vit_colossal.errors import ConfigError
from vit_colossal.text import shown


# Bases stand last group first: their fields are listed from the last base to the first.
class TrainConfig(
    OutputSettings,
    OptimizationSettings,
    AugmentationSettings,
    DataSettings,
    ModelSettings,
    StrategySettings,
):
    """Fine-tune a Vision Transformer with a ColossalAI plugin."""

    reads_files: ClassVar[bool] = True

    unknown: CliUnknownArgs = Field(default=[], exclude=True)

    if not TYPE_CHECKING:  # who reads types sees the fields

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise ConfigError(problems_of(error)) from None

        # So pydantic's own ways to validate do without it, and raise pydantic's error.
        __init__.__pydantic_base_init__ = True

    @field_validator("plugin", mode="before")
    @classmethod
    def _plugin_alias(cls, value: Any) -> Any:
        return ALIASES.get(value, value) if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _fp16_in_plugin_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("plugin") == "torch_ddp_fp16":
            values = {**values, "precision": values.get("precision") or "fp16"}
        return values

    def dump(self) -> str:
        """The configuration as YAML that ``--config`` reads back to an equal one."""
        values = self.model_dump(mode="json", by_alias=True, exclude={"unknown"})
        return yaml.safe_dump(
            {key: value for key, value in values.items() if value is not None}, sort_keys=False
        )

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated again."""
        # As BaseModel does; BaseSettings would first look for sources of values, 20 times as long.
        copy = type(self).__new__(type(self))
        try:
            self.__pydantic_validator__.validate_python(
                {**dict(self), **changes}, self_instance=copy
            )
            return copy
        except ValidationError as error:
            raise ConfigError(problems_of(error)) from None


#: Settings that may differ between the hosts of one run: where things lie there, what is compared
#: by content, and what rank 0 alone does.
OWN_TO_A_HOST = (
    *("dataset", "model", "resume", "output_dir", "cache_dir", "cache", "streaming", "references"),
    *("num_workers", "device", "nproc", "debug", "overwrite", "memory_check"),
    *("tensorboard", "wandb", "mlflow", "unknown", "run", "checkpoint"),
    *("tracker_project", "tracker_name", "tracker_tags"),
)
#: How the same batch is cut: another order of sums, and nothing else.
CUTS = ("batch_size", "num_microbatches", "microbatch_size", "grad_accumulation")
#: Of these, and of what is another run of the same recipe, a reference keeps none.
_NOT_OF_THE_RECIPE = ("batch_size", "num_microbatches", "microbatch_size", "seed")

#: The settings that may move an accuracy, beside model and data.
RECIPE = (
    *(name for name in OptimizationSettings.model_fields if name not in _NOT_OF_THE_RECIPE),
    *AugmentationSettings.model_fields,
    *("max_train_samples", "jpeg_draft", "precision"),
)


def implied(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What settings mean that name no ``last_batch``, as earlier versions wrote them."""
    return {"last_batch": "train" if settings.get("order") else "drop"}


def problems_of(error: ValidationError) -> list[str]:
    """pydantic's findings, one line each, in terms of flags."""
    lines = []
    for item in error.errors():
        name = str(item["loc"][0]) if item["loc"] else "configuration"
        if item["type"] == "extra_forbidden":
            lines.append(f"{name}: no such setting (see --help)")
            continue
        message = item["msg"].removeprefix("Value error, ")
        value = shown(item["input"])
        lines.append(f"--{name.replace('_', '-')} {value}: {message[0].lower()}{message[1:]}")
    return lines
