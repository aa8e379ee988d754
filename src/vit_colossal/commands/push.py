"""``vit-colossal push``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from pydantic_settings import CliPositionalArg

from vit_colossal.config.reading import read_settings
from vit_colossal.config.settings.base import CommandSettings
from vit_colossal.errors import ConfigError


class PushSettings(CommandSettings):
    """Upload a trained model with a model card.

    HF_TOKEN or 'hf auth login' gives the access; HF_ENDPOINT names another hub.
    """

    model: CliPositionalArg[str]
    """A run directory, a model directory or a checkpoint."""
    repository: CliPositionalArg[str]
    """OWNER/NAME; created if it is not there."""
    checkpoint: str | None = None
    """Of a run: last, best, or a path."""
    private: bool = False
    """Create a private repository."""
    revision: str | None = None
    """Commit to this branch."""
    message: str | None = None
    """Of the commit."""
    card_only: Path | None = None
    """Write the model card here (README.md where no file follows) and upload nothing."""
    dry_run: bool = False
    """Print the model card and upload nothing."""
    overwrite: bool = False
    """Replace the file of --card-only."""


def _with_file(flags: Sequence[str]) -> list[str]:
    """``--card-only`` with its default, where no file follows it."""
    found = []
    for flag, following in pairwise([*flags, "--"]):
        found.append(flag)
        if flag.replace("_", "-") == "--card-only" and following.startswith("-"):
            found.append("README.md")
    return found


SETTINGS = PushSettings


def main(flags: Sequence[str], prog: str) -> int:
    """Push, or show the card."""
    asked = read_settings(SETTINGS, _with_file(flags), prog)
    from vit_colossal.trained.card import model_card
    from vit_colossal.trained.push import check_name, push
    from vit_colossal.trained.saved import locate

    check_name(asked.repository)
    saved = locate(asked.model, asked.checkpoint)
    if asked.card_only is not None or asked.dry_run:
        card = model_card(saved, asked.repository)
        if asked.card_only is None:
            print(card, end="")
            return 0
        if asked.card_only.exists() and not asked.overwrite:
            raise ConfigError([f"{asked.card_only} exists: add --overwrite or name another file"])
        try:
            asked.card_only.write_text(card, encoding="utf-8")
        except OSError as error:
            raise ConfigError([f"--card-only {asked.card_only}: {error}"]) from error
        print(f"model card written to {asked.card_only}; nothing was uploaded")
        return 0
    address = push(
        saved,
        asked.repository,
        private=asked.private,
        revision=asked.revision,
        message=asked.message,
    )
    print(f"{saved} pushed: {address}")
    return 0
