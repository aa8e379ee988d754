"""``vit-colossal bench``."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from vit_colossal.bench.config import BenchConfig, make_cases
from vit_colossal.config.reading import load_config
from vit_colossal.errors import ExitCode

SETTINGS = BenchConfig


def main(flags: Sequence[str], prog: str) -> int:
    """Measure; 1 when nothing could be, 3 when cases of the same work have other losses."""
    config = load_config(flags, prog, BenchConfig)
    from vit_colossal.bench.compare import Bench
    from vit_colossal.bench.plot import plot
    from vit_colossal.bench.report import as_document, as_markdown, as_text, write
    from vit_colossal.bench.timeline import draw_timelines
    from vit_colossal.rundir.record import describe_software
    from vit_colossal.runtime.pins import require_colossalai

    require_colossalai()
    folder = config.output_dir or Path("runs") / time.strftime("bench-%Y%m%d-%H%M%S")
    software = describe_software()
    bench = Bench(config, make_cases(config), folder, software["commit"])
    command = shlex.join(["vit-colossal", "bench", *flags])
    bench.predict()
    for _ in bench.run():
        write(as_document(bench.rows, command, software), folder)
    document = as_document(bench.rows, command, software)
    write(document, folder)
    plot(document, folder / "bench.png")
    measured = [case for case in document["cases"] if "error" not in case]
    draw_timelines(measured, folder)
    print(as_text(document))
    unequal = [group for group in document["same_work"] if not group["equal"]]
    if unequal:
        print(as_markdown({**document, "same_work": unequal, "cases": []}))
    failed = len(document["cases"]) - len(measured)
    print(f"{len(measured)} cases measured, {failed} refused or failed; report in {folder}")
    if not measured:
        return ExitCode.FAILED
    return ExitCode.DIFFERENT if unequal else ExitCode.OK
