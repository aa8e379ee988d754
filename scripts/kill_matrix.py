"""Interrupt runs in every way and compare what they end with: writes docs/kill-matrix.md.

    python scripts/kill_matrix.py --cases 200 --seed 0 --out docs/kill-matrix.md

The faults are drawn from the seed: layout x step x kind x phase. Each finished chain of faults is
appended to --record and the table is written anew; started again, on this machine or another, it
does the chains that the record lacks.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from threading import Lock

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests"), str(ROOT / "tests" / "integration")]

from faulty_train import DECODE, KINDS, PHASES, Fault  # noqa: E402
from kill_chain import (  # noqa: E402
    LAYOUTS,
    TINY,
    Chain,
    draw,
    phases,
    processes,
    run_chain,
    start,
)

STEPS = 24
PER_CHAIN = 8


def plan(cases: int, seed: int) -> list[tuple[str, list[Fault]]]:
    """Chains of faults, all layouts in turn, until there are ``cases`` faults."""
    generator = random.Random(seed)
    names = list(LAYOUTS)
    chains: list[tuple[str, list[Fault]]] = []
    left = cases
    while left:
        layout = names[len(chains) % len(names)]
        faults = draw(
            generator,
            STEPS,
            min(left, PER_CHAIN),
            ranks=processes(layout),
            phases=phases(layout),
        )
        chains.append((layout, faults))
        left -= len(faults)
    return chains


@dataclass(frozen=True)
class Done:
    """A finished chain, and the commit that it ran at."""

    chain: Chain
    commit: str


def finished_chains(
    file: Path, planned: list[tuple[str, list[Fault]]], seed: int
) -> dict[int, Done]:
    """What earlier starts of this script have done, by the place in the plan.

    Raises:
        SystemExit: the file records another plan.
    """
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    done = {}
    for record in map(json.loads, lines):
        chain, number = Chain.from_json(record["result"]), record["chain"]
        drawn = [replace(one.fault, mark="") for one in chain.starts]
        if record["seed"] != seed or (chain.layout, drawn) != planned[number]:
            sys.exit(f"{file} records another plan: name another --record")
        done[number] = Done(chain, record["commit"])
    return done


def report(done: list[Done], cases: int, seed: int) -> str:
    """The table as Markdown."""
    chains = [one.chain for one in done]
    starts = [(chain, start) for chain in chains for start in chain.starts]
    passed = sum(len(chain.starts) for chain in chains if chain.passed)
    bad = [chain for chain in chains if not chain.passed]
    command = f"python scripts/kill_matrix.py --cases {cases} --seed {seed}"
    commits = ", ".join(dict.fromkeys(one.commit for one in done))
    lines = [
        "# Kill matrix",
        "",
        f"`{command}` at commit {commits}: **{passed} of {len(starts)}** interruptions "
        f"(of {cases} planned) were survived with the same checkpoint, bit for bit, in "
        f"{len(chains) - len(bad)} of {len(chains)} runs.",
        "",
        f"Each run is `{shlex.join(TINY)} --max-steps {STEPS}` of digits on two processes (four "
        "where the layout says so), started again with the same command and `--resume auto` after "
        "each fault, and once more to its end. Its last checkpoint (weights, moments, averages, "
        "generators, state) is then compared with that of a run that nothing interrupted. A fault "
        "counts when it struck, the exit code was the promised one (1; 143 for SIGTERM), no "
        "process was left, and the run it belongs to ended the same. Runs with a frozen rank "
        "(SIGSTOP) have `--timeout 10`. Streams have a cache of their own, which is removed before "
        "a fault while it is decoded.",
        "",
        "Each interruption with its rank, step and seconds is in [kill-matrix.jsonl]"
        "(kill-matrix.jsonl); the same command goes on behind the last run in it.",
        "",
    ]
    lines += _counts("layout", [(c.layout, s.fault.kind) for c, s in starts], list(LAYOUTS))
    lines += _ended(chains)
    struck = [(s.fault.phase, s.fault.kind) for _, s in starts]
    lines += _counts("phase", struck, [DECODE, *PHASES])
    lines += ["## What did not pass", ""]
    lines += [f"- {line}" for chain in bad for line in _failures(chain)] or ["Nothing."]
    return "\n".join(lines) + "\n"


def _counts(title: str, pairs: list[tuple[str, str]], rows: list[str]) -> list[str]:
    count = Counter(pairs)
    lines = [f"| {title} | {' | '.join(KINDS)} |", "|---|" + "---|" * len(KINDS)]
    lines += [f"| {row} | {' | '.join(str(count[row, kind]) for kind in KINDS)} |" for row in rows]
    return [*lines, ""]


def _ended(chains: list[Chain]) -> list[str]:
    """How long the job took from the fault to its last process."""
    lines = ["| from the fault to the job's end | " + " | ".join(KINDS) + " |"]
    lines += ["|---|" + "---|" * len(KINDS)]
    times = {
        kind: [s.ended_after for c in chains for s in c.starts if s.fault.kind == kind and s.struck]
        for kind in KINDS
    }
    for name, choose in (("median", median), ("longest", max)):
        cells = [f"{choose(times[kind]):.1f} s" if times[kind] else "-" for kind in KINDS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def _failures(chain: Chain) -> list[str]:
    found = [f"{chain.layout}: {problem}" for problem in chain.problems]
    for one in chain.starts:
        where = f"{chain.layout}, {one.fault.kind} in {one.fault.phase} of step {one.struck}"
        found += [f"{where}: {problem}" for problem in one.problems]
    return [" ".join(text.split())[:600] for text in found]


def main() -> int:
    docs = ROOT / "docs"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="chains at a time")
    parser.add_argument("--out", type=Path, default=docs / "kill-matrix.md")
    parser.add_argument("--record", type=Path, default=docs / "kill-matrix.jsonl")
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "kill-matrix")
    asked = parser.parse_args()
    work, out, record = asked.work.resolve(), asked.out.resolve(), asked.record.resolve()
    work.mkdir(parents=True, exist_ok=True)
    os.environ["VIT_COLOSSAL_CACHE"] = str(work / "cache")
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    chains = plan(asked.cases, asked.seed)
    done = finished_chains(record, chains, asked.seed)
    todo = [number for number in range(len(chains)) if number not in done]
    writing, making = Lock(), {layout: Lock() for layout in LAYOUTS}

    def run_one(number: int) -> None:
        layout, faults = chains[number]
        directory = work / f"chain-{number:03d}"
        shutil.rmtree(directory, ignore_errors=True)
        with making[layout]:
            reference = _reference(work, layout)
        chain = run_chain(directory, reference, layout, STEPS, faults)
        line = {"chain": number, "seed": asked.seed, "commit": commit, "result": chain.to_json()}
        with writing:
            done[number] = Done(chain, commit)
            with record.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            text = report([done[i] for i in sorted(done)], asked.cases, asked.seed)
            out.write_text(text, encoding="utf-8")
        struck = sum(len(one.chain.starts) for one in done.values())
        word = "passed" if chain.passed else f"FAILED {_failures(chain)}"
        print(f"{struck}/{asked.cases} chain {number} {layout}: {word}", flush=True)
        if chain.passed:
            shutil.rmtree(directory)

    with ThreadPoolExecutor(asked.jobs) as pool:
        list(pool.map(run_one, todo))
    return 0 if all(one.chain.passed for one in done.values()) else 1


def _reference(work: Path, layout: str) -> Path:
    """The run of a layout that nothing interrupts."""
    directory = work / f"reference {layout}"
    if not (directory / "model").is_dir():
        print(f"reference run: {layout}", flush=True)
        finished = start(directory, layout, STEPS)
        if finished.returncode:
            raise RuntimeError(finished.output)
    return directory


if __name__ == "__main__":
    sys.exit(main())
