"""The model and data hub: what its libraries leave open, which is words and an end to waiting."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vit_colossal.errors import FetchError, ModelError
from vit_colossal.text import hide_secrets

if TYPE_CHECKING:
    from huggingface_hub.utils import httpx

#: How the file begins that a clone of a repository without git LFS has in the place of another.
LFS_POINTER = b"version https://git-lfs"


def is_lfs_pointer(file: Path) -> bool:
    """Whether a clone without git LFS left a line on the file in its place."""
    with file.open("rb") as stream:
        return stream.read(len(LFS_POINTER)) == LFS_POINTER


def lies_in(file: Path, folder: Path) -> bool:
    """Whether a file is one of a folder's own, wherever links lead.

    In the hub's cache the files of a snapshot are links to ``blobs`` beside it, which are its own.

    Args:
        file: below the folder.
        folder: any, links resolved.
    """
    target = file.resolve()
    snapshots = (place for place in (folder, *folder.parents) if place.parent.name == "snapshots")
    blobs = [snapshot.parents[1] / "blobs" for snapshot in snapshots]
    return any(target.is_relative_to(place) for place in (folder, *blobs))


@contextmanager
def reaching_hub() -> Iterator[bool]:
    """Inside, the hub's libraries read their caches alone if the hub cannot be reached at all.

    Left to themselves they repeat each request for 23 seconds before they look there.

    Yields:
        Whether the hub is asked.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        yield False
        return
    # The one that all of the hub's libraries share.
    client = get_session()
    if _answers(client, constants.ENDPOINT, constants.HF_HUB_ETAG_TIMEOUT):
        downloads = logging.getLogger("huggingface_hub.file_download")
        downloads.addFilter(_is_no_retry)
        try:
            yield True
        finally:
            downloads.removeFilter(_is_no_retry)
        return
    hooks = client.event_hooks
    client.event_hooks = {"request": [_refuse]}
    try:
        yield False
    finally:
        client.event_hooks = hooks


def _answers(client: httpx.Client, endpoint: str, timeout_s: float) -> bool:
    """Whether anything comes back from there; what, does not matter."""
    from huggingface_hub.utils import httpx

    try:
        client.head(endpoint, timeout=timeout_s, follow_redirects=False)
    except httpx.UnsupportedProtocol:
        return True  # an address that makes no sense is for the library to name
    except httpx.TransportError:
        return False
    except (httpx.HTTPError, httpx.InvalidURL):
        return True
    return True


def _is_no_retry(record: logging.LogRecord) -> bool:
    """Not one of the lines about each new attempt, with addresses that are signed."""
    return not str(record.msg).startswith("Error while downloading")


def _refuse(request: httpx.Request) -> None:
    """Send nothing, at once, as with HF_HUB_OFFLINE."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    raise OfflineModeIsEnabled("the hub cannot be reached")


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
        FetchError: it cannot be fetched; says why, and what to do.
        ModelError: it cannot be the name of a model.
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
    except Exception as error:  # the library's, its HTTP client's, and the file system's
        missing = isinstance(error, EntryNotFoundError)
        if missing and not isinstance(error, LocalEntryNotFoundError):
            return None
        problem = f"--model {name}: cannot fetch its {file} from the hub: {explain(error)}"
        raise FetchError([hide_secrets(problem)]) from error


def explain(error: BaseException) -> str:
    """Why something could not be fetched, and what to do: half a sentence each, in one line.

    Args:
        error: what `huggingface_hub`, `datasets` or the HTTP client below them raised.
    """
    chain = _chain(error)
    known = _answered(chain) or _unanswered(chain)
    if known:
        return known
    lines = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {lines[0][:200] if lines else 'no reason given'}"
    return f"{reason}; check the name and HF_TOKEN, or pass a local folder"


def _answered(chain: list[BaseException]) -> str | None:
    """What the hub, or the library in its place, has against the request."""
    from huggingface_hub import errors

    text = " ".join(str(link) for link in chain)
    if _found(chain, errors.HFValidationError):
        return "it is no folder here, and no name that a hub would have; check the spelling"
    if _found(chain, errors.GatedRepoError) or "gated dataset" in text:
        return (
            "it is gated; accept its terms on its page, and set HF_TOKEN to a token of that "
            "account, or pass a local folder"
        )
    if _found(chain, errors.RevisionNotFoundError) or "Revision '" in text:
        return "there is no such revision; check it against the repository's branches and tags"
    if _found(chain, errors.RepositoryNotFoundError) or "doesn't exist on the Hub" in text:
        return (
            "there is none of that name, or it is private; check the name, set HF_TOKEN if it is "
            "private, or pass a local folder"
        )
    for link in chain:
        response = getattr(link, "response", None)
        if response is not None and response.status_code >= 400:
            return (
                f"the hub answered {response.status_code} {response.reason_phrase}; check the "
                "name and HF_TOKEN, try later, or pass a local folder"
            )
    return None


def _unanswered(chain: list[BaseException]) -> str | None:
    """Why nothing, or not everything, came from the hub."""
    from huggingface_hub import constants, errors
    from huggingface_hub.utils import httpx

    if constants.HF_HUB_OFFLINE and _found(chain, errors.LocalEntryNotFoundError, ConnectionError):
        return (
            f"HF_HUB_OFFLINE is set, and it is not in {constants.HF_HOME}; unset that to fetch "
            "it once, check the name, or pass a local folder"
        )
    if _found(chain, httpx.RemoteProtocolError, httpx.ReadError):
        return "the connection broke off; run it again, which keeps the files that came whole"
    if _found(chain, httpx.TimeoutException):
        return (
            f"no answer within {constants.HF_HUB_DOWNLOAD_TIMEOUT} s, several times; try later, "
            "or raise HF_HUB_DOWNLOAD_TIMEOUT and HF_HUB_ETAG_TIMEOUT"
        )
    if _found(
        chain,
        *(ConnectionError, httpx.TransportError, httpx.InvalidURL, errors.LocalEntryNotFoundError),
    ):
        return (
            f"{constants.ENDPOINT} cannot be reached, and it is not in {constants.HF_HOME}; check "
            "the network and HF_ENDPOINT, or pass a local folder"
        )
    return None


def _found(chain: list[BaseException], *kinds: type[BaseException]) -> bool:
    return any(isinstance(link, kinds) for link in chain)


def _chain(error: BaseException) -> list[BaseException]:
    """The error and what led to it."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain
