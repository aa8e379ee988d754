"""``vit-colossal push``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def build_parser(prog: str) -> argparse.ArgumentParser:
    """The flags of this command."""
    parser = argparse.ArgumentParser(
        prog,
        description="Upload a trained model with a model card. HF_TOKEN or 'huggingface-cli login' "
        "gives the access; HF_ENDPOINT names another hub.",
        allow_abbrev=False,
    )
    parser.add_argument("model", help="a run directory, a model directory or a checkpoint")
    parser.add_argument("repository", help="OWNER/NAME; created if it is not there")
    parser.add_argument("--checkpoint", metavar="WHICH", help="of a run: last, best, or a path")
    parser.add_argument("--private", action="store_true", help="create a private repository")
    parser.add_argument("--revision", metavar="BRANCH", help="commit to this branch")
    parser.add_argument("--message", metavar="TEXT", help="of the commit")
    parser.add_argument(
        "--card-only",
        type=Path,
        nargs="?",
        const=Path("README.md"),
        metavar="FILE",
        help="write the model card here (README.md) and upload nothing",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the model card and upload nothing"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file of --card-only")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def main(flags: Sequence[str], prog: str) -> int:
    """Push, or show the card."""
    asked = build_parser(prog).parse_args(flags)
    from vit_colossal.errors import ConfigError
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
