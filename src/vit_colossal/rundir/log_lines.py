"""Log lines beside a progress bar; no framework is imported."""

from __future__ import annotations

import logging
import sys

from tqdm import tqdm


class TqdmHandler(logging.Handler):
    """Log lines that do not tear the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(
            self.format(record),
            file=sys.stderr if record.levelno >= logging.WARNING else sys.stdout,
        )
        sys.stdout.flush()
