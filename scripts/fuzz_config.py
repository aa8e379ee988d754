"""Try thousands of configurations nobody would write, and count the cases of bad input.

    python scripts/fuzz_config.py [--examples 5000] [--seed 0] [--record docs/bad-input.md]

Each configuration, from flags and a file together, has to be planned or refused: with exit code 2,
each problem in one line that names a flag or key. What is planned has to come out the same when its
dump is read again. The first that does otherwise is made as short as possible, and shown.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
os.environ["HF_HUB_OFFLINE"] = "1"  # names drawn at random are asked of no hub

from bad_input import ALL, CATEGORIES  # noqa: E402
from fuzzing import fuzz  # noqa: E402
from vit_colossal.rundir.record import describe_software  # noqa: E402

#: From here on the page is written by hand.
BY_HAND = "## Good input that is easily misread"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=5000, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the counts there")
    flags = parser.parse_args()
    begun = time.monotonic()
    counts = fuzz(flags.examples, flags.seed)
    seconds = time.monotonic() - begun
    found = ", ".join(f"{count:,} {what}" for what, count in counts.most_common())
    line = f"{sum(counts.values()):,} configurations in {seconds:.0f} s: {found}; 0 did otherwise"
    print(line)
    if flags.record is not None:
        kept = _kept(flags.record)
        flags.record.write_text(page(f"seed {flags.seed}, {line}") + kept, encoding="utf-8")
        print(f"written to {flags.record}")
    return 0


def _kept(record: Path) -> str:
    """The part of the page that is written by hand."""
    text = record.read_text(encoding="utf-8") if record.exists() else ""
    place = text.find(BY_HAND)
    return "" if place < 0 else f"\n{text[place:]}"


def page(fuzzed: str) -> str:
    """docs/bad-input.md.

    Args:
        fuzzed: what came of the configurations.
    """
    rows = [
        f"| {category} | {len(cases)} | {sum(case.real for case in cases)} |"
        for category, cases in CATEGORIES.items()
    ]
    names = [
        f"- **{category}**: {'; '.join(case.name for case in cases)}"
        for category, cases in CATEGORIES.items()
    ]
    real = sum(case.real for case in ALL.values())
    commit = describe_software()["commit"] or "no commit"
    return "\n".join(
        [
            "# Bad input",
            "",
            "What is handed to the program and cannot be used is refused before anything starts:",
            "exit code 2, one line a problem with the value and the fix, nothing written, nothing",
            "left running. `--debug` adds the traceback.",
            "",
            f"Made by `python scripts/fuzz_config.py --record docs/bad-input.md` at {commit},",
            f"{datetime.date.today()}. `tests/bad_input.py` holds the cases, with what each has to",
            "say; all of them run in every test run in one process, those of the last column as",
            "real commands too.",
            "",
            "| category | cases | as commands |",
            "|---|---|---|",
            *rows,
            f"| **all** | **{len(ALL)}** | **{real}** |",
            "",
            "Beside these, as real commands: a port that another program uses, and a second run in",
            "the folder of one that is going on (`tests/integration/test_bad_input_e2e.py`); a hub",
            "that is away, slow, refuses, or breaks off (`tests/unit/data/test_data_hub.py`).",
            "",
            "## Configurations at random",
            "",
            f"{fuzzed}.",
            "Flags and a file are drawn together: meant values, edges, text, and what only YAML",
            "can hold (`tests/fuzzing.py`); every test run tries a sample.",
            "",
            "## The cases",
            "",
            *names,
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
