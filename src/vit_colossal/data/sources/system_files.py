"""What operating systems, file servers and editors leave in folders: never data."""

from __future__ import annotations

#: In lower case; names that begin with a dot need not be listed.
_LEFT_BY_SYSTEMS = frozenset(
    (
        # Synology, QNAP
        *("@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),
        # Windows
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin"),
        *("recycler", "system volume information", "found.000"),
        # macOS, Linux, Python
        *("__macosx", "icon\r", "lost+found", "__pycache__"),
    )
)


def is_left_by_system(name: str) -> bool:
    """Whether a file or folder of this name is no data: hidden, or made by a system for itself."""
    return name.startswith(".") or name.lower() in _LEFT_BY_SYSTEMS
