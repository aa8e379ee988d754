"""Interrupt runs in every way and compare what they end with: writes docs/kill-matrix.md.

    python scripts/kill_matrix.py --cases 200 --seed 0 --out docs/kill-matrix.md

The faults are drawn from the seed: layout x step x kind x phase. Each finished chain of faults is
appended to a file in --work, and the table is written anew; started again with the same --work, it
goes on behind the last finished chain.
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
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests"), str(ROOT / "tests" / "integration")]

from faulty_train import KINDS, PHASES, Fault  # noqa: E402
from kill_chain import LAYOUTS, TINY, Chain, draw, processes, run_chain, start  # noqa: E402

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
        faults = draw(generator, STEPS, min(left, PER_CHAIN), ranks=processes(layout))
        chains.append((layout, faults))
        left -= len(faults)
    return chains


def finished_chains(file: Path) -> dict[int, Chain]:
    """What an earlier start of this script has done."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    records = [json.loads(line) for line in lines]
    return {record["chain"]: Chain.from_json(record["result"]) for record in records}


def report(chains: list[Chain], cases: int, seed: int, commit: str) -> str:
    """The table as Markdown."""
    starts = [(chain, start) for chain in chains for start in chain.starts]
    passed = sum(len(chain.starts) for chain in chains if chain.passed)
    bad = [chain for chain in chains if not chain.passed]
    command = f"python scripts/kill_matrix.py --cases {cases} --seed {seed}"
    lines = [
        "# Kill matrix",
        "",
        f"`{command}` at commit {commit}: **{passed} of {len(starts)}** interruptions "
        f"(of {cases} planned) were survived with the same checkpoint, bit for bit, in "
        f"{len(chains) - len(bad)} of {len(chains)} runs.",
        "",
        f"Each run is `{shlex.join(TINY)} --max-steps {STEPS}` on two processes (four where the "
        "layout says so), started again with the same command and `--resume auto` after each "
        "fault, and once more to its end. Its last checkpoint (weights, moments, generators, "
        "state) is then compared with that of a run that nothing interrupted. A fault counts when "
        "it struck, the exit code was the promised one (1; 143 for SIGTERM), no process was left, "
        "and the run it belongs to ended the same. Runs with a frozen rank (SIGSTOP) have "
        "`--timeout 20`.",
        "",
    ]
    lines += _counts("layout", [(c.layout, s.fault.kind) for c, s in starts], list(LAYOUTS))
    lines += _ended(chains)
    lines += _counts("phase", [(s.fault.phase, s.fault.kind) for _, s in starts], list(PHASES))
    lines += ["## What did not pass", ""]
    lines += [f"- {line}" for chain in bad for line in _failures(chain)] or ["Nothing."]
    lines += ["", "## All interruptions", ""]
    lines += ["| run | layout | rank | step | phase | kind | exit code | seconds | ended after |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for number, chain in enumerate(chains, 1):
        for one in chain.starts:
            fault = one.fault
            rank = (
                "lead"
                if fault.phase.startswith("save:") and "collect" not in fault.phase
                else fault.rank
            )
            lines.append(
                f"| {number} | {chain.layout} | {rank} | {one.struck} | {fault.phase} | "
                f"{fault.kind} | {one.exit_code} | {one.seconds:.0f} | {one.ended_after:.1f} |"
            )
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="chains at a time")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "kill-matrix.md")
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "kill-matrix")
    asked = parser.parse_args()
    work, out = asked.work.resolve(), asked.out.resolve()
    work.mkdir(parents=True, exist_ok=True)
    os.environ["VIT_COLOSSAL_CACHE"] = str(work / "cache")
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    chains = plan(asked.cases, asked.seed)
    record = work / f"chains-{asked.cases}-{asked.seed}.jsonl"
    done = finished_chains(record)

    for layout in sorted({layout for layout, _ in chains}):
        reference = work / f"reference {layout}"
        if not (reference / "model").is_dir():
            print(f"reference run: {layout}", flush=True)
            finished = start(reference, layout, STEPS)
            if finished.returncode:
                sys.exit(finished.output)

    def run_one(number: int) -> None:
        layout, faults = chains[number]
        directory = work / f"chain-{number:03d}"
        shutil.rmtree(directory, ignore_errors=True)
        chain = run_chain(directory, work / f"reference {layout}", layout, STEPS, faults)
        done[number] = chain
        with record.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"chain": number, "result": chain.to_json()}) + "\n")
        out.write_text(
            report([done[i] for i in sorted(done)], asked.cases, asked.seed, commit), "utf-8"
        )
        struck = sum(len(chain.starts) for chain in done.values())
        word = "passed" if chain.passed else f"FAILED {_failures(chain)}"
        print(f"{struck}/{asked.cases} chain {number} {layout}: {word}", flush=True)
        if chain.passed:
            shutil.rmtree(directory)

    with ThreadPoolExecutor(asked.jobs) as pool:
        list(pool.map(run_one, [number for number in range(len(chains)) if number not in done]))
    return 0 if all(chain.passed for chain in done.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
