"""What all groups of settings share: how fields become flags and keys."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from pydantic import AliasChoices, Field, field_validator
from pydantic_settings import (
    BaseSettings,
    CliUnknownArgs,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from vit_colossal.text import is_utf8


def alias(*names: str, **options: Any) -> Any:
    """A field that also answers to other spellings; the first name is the one shown and dumped."""
    default = options.pop("default", None)
    return Field(
        default,
        validation_alias=AliasChoices(*names),
        serialization_alias=names[0],
        **options,
    )


class Settings(BaseSettings):
    """Frozen, typed and closed to unknown keys; a docstring under a field is its help text."""

    #: Heads these settings in ``--help``.
    title: ClassVar[str] = "flags"
    #: Whether ``--config`` reads them from a YAML file.
    reads_files: ClassVar[bool] = False

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        protected_namespaces=(),
        use_attribute_docstrings=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _home(cls, value: Any) -> Any:
        """A path from the home directory, which shells spell out, but not in files or quotes."""
        return os.path.expanduser(value) if isinstance(value, str) and value[:2] == "~/" else value

    @field_validator("*", mode="before")
    @classmethod
    def _utf8(cls, value: Any) -> Any:
        """What no file of a run could hold."""
        if isinstance(value, str) and not is_utf8(value):
            raise ValueError("is no UTF-8: rename it")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags and files only: a stray environment variable never changes a run."""
        return (init_settings,)


def spellings(kind: type[Settings]) -> dict[str, list[str]]:
    """The names that each field answers to, by the field's own; the first is the one shown."""
    return {
        name: [str(choice) for choice in field.validation_alias.choices]
        if isinstance(field.validation_alias, AliasChoices)
        else [name]
        for name, field in kind.model_fields.items()
    }


class CommandSettings(Settings):
    """The flags of a command that trains nothing."""

    unknown: CliUnknownArgs = Field(default=[], exclude=True)

    debug: bool = False
    """Show tracebacks."""
