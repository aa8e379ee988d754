"""The model and data hub: what its libraries leave open, which is words and an end to waiting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vit_colossal.errors import ModelError
from vit_colossal.redaction import hide_secrets


@contextmanager
def reaching_hub() -> Iterator[bool]:
    """Inside, the hub's libraries read their caches alone if the hub cannot be reached at all.

    Left to themselves they repeat each request for 23 seconds before they look there.

    Yields:
        Whether the hub is asked.
    """
    from huggingface_hub import configure_http_backend, constants

    if constants.HF_HUB_OFFLINE:
        yield False
        return
    if _answers(constants.ENDPOINT, constants.HF_HUB_ETAG_TIMEOUT):
        yield True
        return
    configure_http_backend(_cache_only)
    try:
        yield False
    finally:
        configure_http_backend()


def _answers(endpoint: str, timeout_s: float) -> bool:
    """Whether anything comes back from there; what, does not matter."""
    import requests

    try:
        requests.head(endpoint, timeout=timeout_s)
    except (requests.ConnectionError, requests.Timeout):
        return False
    except requests.RequestException:
        return True  # an address that makes no sense is for the library to name
    return True


def _cache_only() -> Any:
    """A session that refuses at once, as with HF_HUB_OFFLINE."""
    import requests
    from huggingface_hub.errors import OfflineModeIsEnabled

    class Refusing(requests.adapters.HTTPAdapter):
        def send(self, *args: Any, **kwargs: Any) -> requests.Response:
            raise OfflineModeIsEnabled("the hub cannot be reached")

    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, Refusing())
    return session


def fetch(name: str, file: str, revision: str | None = None) -> Path | None:
    """Get one file of a model repository, from the cache if it has not changed.

    Args:
        name: the repository.
        file: its path in there.
        revision: a commit; None is the default branch.

    Returns:
        Where it lies, beside the other files of the same commit; None if there is none of that
        name.

    Raises:
        ModelError: it cannot be fetched; says why, and what to do.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    try:
        # What a commit holds never changes: nobody needs to be asked.
        kept = try_to_load_from_cache(name, file, revision=revision) if revision else None
        if isinstance(kept, str):
            return Path(kept)
        with reaching_hub():
            return Path(hf_hub_download(name, file, revision=revision))
    except HFValidationError:
        problem = "no such directory, and no name that a hub would have: check the spelling"
        raise ModelError([f"--model {name}: {problem}"]) from None
    except Exception as error:  # the library's own, requests', and the file system's
        missing = isinstance(error, EntryNotFoundError)
        if missing and not isinstance(error, LocalEntryNotFoundError):
            return None
        problem = f"--model {name}: cannot fetch its {file} from the hub: {explain(error)}"
        raise ModelError([hide_secrets(problem)]) from error


def explain(error: BaseException) -> str:
    """Why something could not be fetched, and what to do: half a sentence each, in one line.

    Args:
        error: what `huggingface_hub`, `datasets` or `requests` raised.
    """
    from huggingface_hub import constants, errors
    from requests import exceptions as requests_errors

    def found(*kinds: type[BaseException]) -> bool:
        return any(isinstance(link, kinds) for link in chain)

    chain = _chain(error)
    text = " ".join(str(link) for link in chain)
    if found(errors.HFValidationError):
        return "it is no folder here, and no name that a hub would have; check the spelling"
    if found(errors.GatedRepoError) or "gated dataset" in text:
        return (
            "it is gated; accept its terms on its page, and set HF_TOKEN to a token of that "
            "account, or pass a local folder"
        )
    if found(errors.RevisionNotFoundError) or "Revision '" in text:
        return "there is no such revision; check it against the repository's branches and tags"
    if found(errors.RepositoryNotFoundError) or "doesn't exist on the Hub" in text:
        return (
            "there is none of that name, or it is private; check the name, set HF_TOKEN if it is "
            "private, or pass a local folder"
        )
    for link in chain:
        response = getattr(link, "response", None)
        if response is not None and response.status_code >= 400:
            return (
                f"the hub answered {response.status_code} {response.reason}; check the name and "
                "HF_TOKEN, try later, or pass a local folder"
            )
    if constants.HF_HUB_OFFLINE and found(errors.LocalEntryNotFoundError, ConnectionError):
        return (
            f"HF_HUB_OFFLINE is set, and it is not in {constants.HF_HOME}; unset that to fetch "
            "it once, check the name, or pass a local folder"
        )
    if found(requests_errors.ChunkedEncodingError):
        return "the connection broke off; run it again, which goes on where it stopped"
    if found(requests_errors.Timeout):
        return (
            f"no answer within {constants.HF_HUB_DOWNLOAD_TIMEOUT} s, several times; try later, "
            "or raise HF_HUB_DOWNLOAD_TIMEOUT and HF_HUB_ETAG_TIMEOUT"
        )
    if found(ConnectionError, requests_errors.ConnectionError, errors.LocalEntryNotFoundError):
        return (
            f"{constants.ENDPOINT} cannot be reached, and it is not in {constants.HF_HOME}; check "
            "the network and HF_ENDPOINT, or pass a local folder"
        )
    lines = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {lines[0][:200] if lines else 'no reason given'}"
    return f"{reason}; check the name and HF_TOKEN, or pass a local folder"


def _chain(error: BaseException) -> list[BaseException]:
    """The error and what led to it."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain
