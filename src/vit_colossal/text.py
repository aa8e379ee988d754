"""Text from outside, and text that is shown: JSON, names on a terminal, secrets that are not."""

from __future__ import annotations

import json
import logging
import os
import re
import reprlib
import shlex
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

#: Environment variables whose values nobody should read in a log.
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSWORD", re.IGNORECASE)
#: Shorter values (``TOKENIZERS_PARALLELISM=false``) are no secrets, and occur in any text.
_SHORTEST = 6
_PLAIN = re.compile(r"true|false|\d+", re.IGNORECASE)
#: How the hub's tokens look, wherever they come from.
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")
#: In an address: a password, or a token in a user's place; and what signs it or lets one in.
_IN_ADDRESS = (
    (re.compile(r"(:/+)[^/\s@'\"]+@"), r"\1***@"),  # a path has one slash
    (
        re.compile(
            r"([?&](?:[\w.-]*[._-])?(?:token|apikey|key|secret|password|signature|sig)=)"
            r"[^&\s'\":,)]+",
            re.IGNORECASE,
        ),
        r"\1***",
    ),
)


def json_object(text: str | bytes) -> dict[str, Any]:
    """The object that a JSON text is.

    Raises:
        ValueError: it is none; the reason as the end of a sentence about the file.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"cannot be read ({error})") from None
    if not isinstance(values, dict):
        raise ValueError("is not a JSON object")
    return values


def printable(text: str) -> str:
    """The text without what ends a line or steers a terminal, as file names may hold it."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def counted(number: int, one: str, several: str) -> str:
    """A number and what there are so many of, for people."""
    return f"{number:,} {one if number == 1 else several}"


def in_command(path: object) -> str:
    """A path as one word of a command that is shown to be copied into a shell."""
    return shlex.quote(str(path))


def is_utf8(name: str) -> bool:
    """Whether a name can be written down.

    Bytes of a file's name that are no UTF-8, and half of a pair in JSON, are single surrogates.
    """
    return not any("\ud800" <= char <= "\udfff" for char in name)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest of the known names as a question, with a space before it; or nothing."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f" (did you mean {near[0]}?)" if near else ""


def shown(value: Any) -> str:
    """A value at a length that people read: a few lines of YAML can stand for billions of items."""
    text = value if isinstance(value, str) else reprlib.repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def cell(value: Any) -> str:
    """What one cell of a table holds, in at most sixty printable characters."""
    if isinstance(value, bytes | bytearray):
        return f"{len(value):,} bytes"
    text = printable(value[:61] if isinstance(value, str) else reprlib.repr(value))
    return text if len(text) <= 60 else f"{text[:59]}\N{HORIZONTAL ELLIPSIS}"


def in_millions(count: int) -> str:
    """A number of parameters as 579 or 5.72 M: a head alone is far from a million."""
    return f"{count / 1e6:.2f} M" if count >= 10_000 else f"{count:,}"


def duration(seconds: float) -> str:
    """Seconds as 42 s, 3:05 min or 2:03:05 h."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02} h"
    return f"{minutes}:{rest:02} min" if minutes else f"{rest} s"


def hide_secrets(text: str) -> str:
    """The text with ``***`` for every secret in it.

    Secrets are the values of environment variables that have TOKEN, KEY, SECRET or PASSWORD in
    their names, the token that ``hf auth login`` saved, what looks like one, and the user
    and what lets one in of an address (``https://USER:PASSWORD@host/?token=TOKEN``).
    """
    secrets = {value.strip() for name, value in os.environ.items() if _SECRET.search(name)}
    if "huggingface_hub" in sys.modules:  # where it was never imported, it has read no token
        from huggingface_hub import get_token

        secrets.add(get_token() or "")
    # The longest first: one may be a part of another.
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST and not _PLAIN.fullmatch(secret):
            text = text.replace(secret, "***")
    for pattern, hidden in _IN_ADDRESS:
        text = pattern.sub(hidden, text)
    return _HUB_TOKEN.sub("***", text)


class SafeFormatter(logging.Formatter):
    """A formatter whose lines hold no secrets, not even in tracebacks, and steer no terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of one record; a traceback or a table is of several."""
        lines = hide_secrets(super().format(record)).split("\n")
        return "\n".join(map(printable, lines))
