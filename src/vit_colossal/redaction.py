"""Keeping access tokens and passwords out of whatever is printed or written."""

from __future__ import annotations

import logging
import os
import re
import sys

from vit_colossal.text import printable

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
