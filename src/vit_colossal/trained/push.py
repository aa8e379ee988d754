"""Upload a trained model to a hub, with its model card."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vit_colossal.errors import ConfigError, UserError
from vit_colossal.text import hide_secrets
from vit_colossal.trained.card import model_card
from vit_colossal.trained.export import write_hf
from vit_colossal.trained.saved import SavedModel, load_model

logger = logging.getLogger("vit_colossal")


class PushError(UserError):
    """The hub did not take the model."""


def check_name(repository: str) -> None:
    """Raise ConfigError for what no hub accepts as a repository's name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError([f"{repository}: not a repository's name: {reason}"]) from None


def push(
    saved: SavedModel,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
) -> str:
    """Create the repository if it is not there, and upload the model in one commit.

    The files are those of ``export``: config, safetensors, image processor and model card. The hub
    is ``HF_ENDPOINT``'s; the token is ``HF_TOKEN``'s, or what ``hf auth login`` kept.

    Args:
        saved: the model.
        repository: ``OWNER/NAME``, or ``NAME`` of the token's owner.
        private: create it as a private repository.
        revision: commit to this branch instead of the main one.
        message: of the commit.

    Returns:
        The address of the commit.

    Raises:
        ConfigError: the name or the model cannot be used.
        PushError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    check_name(repository)
    if not sys.stderr.isatty():
        disable_progress_bars()
    model = load_model(saved)
    api = HfApi(library_name="vit_colossal")
    with tempfile.TemporaryDirectory() as name, _explained(repository):
        folder = Path(name)
        write_hf(saved, model, folder)
        # With the owner, as the hub answers it.
        full = api.create_repo(repository, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(full, branch=revision, exist_ok=True)
        (folder / "README.md").write_text(model_card(saved, full), encoding="utf-8")
        commit = api.upload_folder(
            repo_id=full,
            folder_path=folder,
            revision=revision,
            commit_message=message or "Upload a model trained with vit_colossal",
        )
    return str(commit.commit_url)


@contextmanager
def _explained(repository: str) -> Iterator[None]:
    """The client's dozen kinds of errors as one line that never holds the token."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx

    try:
        yield
    except OfflineModeIsEnabled:
        raise PushError("HF_HUB_OFFLINE is set: unset it to push") from None
    except HfHubHTTPError as error:
        hints = {
            401: "set HF_TOKEN to a token with write access, or run 'hf auth login'",
            403: "the token may not write there: use one with write access, or another owner",
            404: "no such owner or repository for this token",
        }
        hint = hints.get(error.response.status_code, "try again later, or check the message")
        # Without the cause, whose text may hold what was sent.
        raise PushError(
            f"{constants.ENDPOINT} refused {repository}: {_first_line(error)}: {hint}"
        ) from None
    except (OSError, ValueError, RuntimeError, httpx.HTTPError, httpx.InvalidURL) as error:
        raise PushError(
            f"pushing to {repository} failed: {_first_line(error)}: check the network and "
            f"HF_ENDPOINT ({constants.ENDPOINT})"
        ) from None


def _first_line(error: Exception) -> str:
    """What went wrong, without secrets; the client wraps a failed upload in an empty phrase."""
    error = error.__cause__ if isinstance(error.__cause__, Exception) else error
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return hide_secrets(line)
