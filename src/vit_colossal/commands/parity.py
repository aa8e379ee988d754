"""``vit-colossal parity``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from vit_colossal.config.reading import load_config
from vit_colossal.errors import ExitCode
from vit_colossal.parity.config import ParityConfig

SETTINGS = ParityConfig


def main(flags: Sequence[str], prog: str) -> int:
    """Compare every layout with the plain loop; 3 when one differs."""
    config = load_config(flags, prog, ParityConfig)
    from vit_colossal.parity.compare import run_parity
    from vit_colossal.parity.report import as_text, write
    from vit_colossal.rundir.record import describe_software
    from vit_colossal.runtime.pins import require_colossalai

    require_colossalai()
    rows, folder = run_parity(config)
    write(rows, folder, shlex.join(["vit-colossal", "parity", *flags]), describe_software())
    print(as_text(rows))
    failed = sum(not row.passed for row in rows)
    print(f"{len(rows) - failed} of {len(rows)} comparisons: the same; report in {folder}")
    return ExitCode.DIFFERENT if failed else ExitCode.OK
