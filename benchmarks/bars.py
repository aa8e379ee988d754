"""The bars of the CPU and GPU sets: ratios of medians of one run, and whether each is met.

python benchmarks/bars.py runs/bench-cpu [--record benchmarks/results/cpu] [--page FILE]

Reads what ``vit-colossal bench`` and the other benchmarks left in one folder; a bar
whose numbers are not there is left out. ``--record`` writes all of it to NAME.json, NAME.md and
NAME.png; ``--page`` puts a short table between two marks of a document.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Measured = dict[str, Any]
Cases = dict[str, Measured]

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


@dataclass(frozen=True)
class Bar:
    """What was promised: ``value`` of the cases has to be at least, or at most, ``limit``."""

    text: str
    limit: float
    value: Callable[[Cases], float]
    at_most: bool = False

    def met(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit


def speed(left: str, right: str) -> Callable[[Cases], float]:
    """Images per second of one case over another's."""
    return lambda cases: cases[left]["images_per_second"] / cases[right]["images_per_second"]


def pipeline(cases: Cases) -> float:
    """The pipeline's speed-up over one process and thread, as a share of the ideal 2m / (m + 1)."""
    idle = cases["pp2"]["bubble"]  # 1 / (m + 1)
    return speed("pp2", "1 process")(cases) / (2 * (1 - idle))


def memory(cases: Cases) -> float:
    """Peak resident set of a rank over the plain loop's."""
    return cases["ddp"]["peak_memory_bytes"] / cases["plain DDP"]["peak_memory_bytes"]


def paired(left: str, right: str) -> Callable[[Cases], float]:
    """Images per second of one way over another's, the median of steps of the same round."""
    return lambda cases: cases["paired"]["ratios"][f"{left} / {right}"][0]


def paired_pipeline(cases: Cases) -> float:
    """As :func:`pipeline`, of steps of the same round."""
    return paired("pp2", "1 process")(cases) / (2 * (1 - cases["pp2"]["bubble"]))


def short_job(way: str) -> Callable[[Cases], float]:
    """Seconds of a whole job over those of transformers.Trainer's."""
    return lambda cases: cases["short job"]["ratios"][way]


def short_memory(peer: str) -> Callable[[Cases], float]:
    """Peak memory of all processes of a whole job over that of a peer's."""

    def value(cases: Cases) -> float:
        over_trainer = cases["short job"]["memory ratios"]
        return over_trainer["decoded before"] / over_trainer[peer]

    return value


def labelling(other: str) -> Callable[[Cases], float]:
    """Images per second that predict labels over those of transformers' pipeline."""
    return lambda cases: cases["labelling"]["ratios"][other]


CPU = [
    Bar("ddp / plain DDP loop", 0.99, speed("ddp", "plain DDP")),
    Bar("ddp / plain DDP loop, step by step", 0.99, paired("ddp", "plain")),
    Bar("zero1 / plain DDP loop", 0.96, speed("zero1", "plain DDP")),
    Bar("zero1 / plain DDP loop, step by step", 0.96, paired("zero1", "plain")),
    Bar("zero2 / plain DDP loop", 0.96, speed("zero2", "plain DDP")),
    Bar("zero2 / plain DDP loop, step by step", 0.96, paired("zero2", "plain")),
    Bar("ddp / transformers.Trainer, batch 16 per process", 1.05, speed("ddp", "Trainer")),
    Bar("ddp / transformers.Trainer, step by step", 1.05, paired("ddp", "Trainer")),
    Bar(
        "ddp / transformers.Trainer, small digits ViT", 1.15, speed("digits ddp", "digits Trainer")
    ),
    Bar("pp2 over 1 process, share of the ideal 2m/(m+1)", 0.93, pipeline),
    Bar("pp2 over 1 process, the same share, step by step", 0.93, paired_pipeline),
    Bar("pp2 / pp2 with upstream's defaults", 1.4, speed("pp2", "pp2 upstream defaults")),
    Bar(
        "2 processes x 1 thread / 1 process x 2 threads", 0.90, speed("ddp", "1 process 2 threads")
    ),
    Bar("ddp bf16 / ddp fp32 (measured, no limit)", 0.0, speed("ddp bf16", "ddp")),
    Bar("real images through the loader / synthetic", 0.95, speed("ddp real", "ddp")),
    Bar("peak memory of a rank / plain DDP loop", 0.9, memory, at_most=True),
    Bar("cached loader, images/s of 224 px on 2 cores", 8000, lambda c: c["loader"]["rate"]),
    Bar("cold JPEG decoding / bare Pillow", 0.90, lambda c: c["decoding"]["ratio"]),
    Bar("copies of the images held by 2 ranks", 1.1, lambda c: c["residency"]["copies"], True),
    Bar("start-up over the imports, s", 1.5, lambda c: c["startup"]["over_imports"], True),
    Bar("a short job, nothing decoded / Trainer, s", 1.0, short_job("nothing decoded"), True),
    Bar("a short job, decoded before / Trainer, s", 1.0, short_job("decoded before"), True),
    Bar("a short job, memory of all / Trainer", 0.9, short_memory("Trainer"), True),
    Bar("a short job, memory of all / plain DDP loop", 0.9, short_memory("plain loop"), True),
    Bar("labelling / pipeline as it comes, images/s", 1.3, labelling("pipeline")),
    Bar("labelling / pipeline with batches of 64", 1.3, labelling("pipeline, batches of 64")),
]
GPU = [
    Bar("ddp, images/s (floor 2,100)", 2700, lambda c: c["ddp"]["images_per_second"]),
    Bar(
        "ddp compile, images/s (floor 2,800)", 3500, lambda c: c["ddp compile"]["images_per_second"]
    ),
    Bar("zero1 / ddp", 0.97, speed("zero1", "ddp")),
    Bar("zero2 / ddp", 0.97, speed("zero2", "ddp")),
    Bar("gemini / ddp", 0.92, speed("gemini", "ddp")),
    Bar("hybrid tp1 pp1 / ddp", 0.98, speed("hybrid", "ddp")),
    Bar("ddp / plain loop", 0.98, speed("ddp", "plain loop")),
    Bar("ddp compile / plain loop compile", 0.98, speed("ddp compile", "plain loop compile")),
]


def judge(cases: Cases) -> list[dict[str, Any]]:
    """Every bar that can be told, with what was measured."""
    on_gpu = any(case.get("device") == "cuda" for case in cases.values())
    found = []
    for bar in GPU if on_gpu else CPU:
        try:
            value = bar.value(cases)
        except KeyError:
            continue
        sign = "<=" if bar.at_most else ">="
        limit = f"{sign} {bar.limit:g}"
        found.append({"bar": bar.text, "limit": limit, "value": value, "met": bar.met(value)})
    return found


def as_markdown(bars: list[dict[str, Any]]) -> str:
    lines = ["| bar | limit | measured | met |", "|---|---|---|---|"]
    for bar in bars:
        value = bar["value"]
        shown = f"{value:.3f}" if value < 100 else f"{value:,.0f}"
        lines.append(
            f"| {bar['bar']} | {bar['limit']} | {shown} | {'yes' if bar['met'] else 'no'} |"
        )
    return "\n".join(lines)


def read(folder: Path) -> dict[str, Any]:
    """bench.json with the rates of the others in it."""
    document: dict[str, Any] = {"cases": [], "rates": {}}
    for name in ("bench", "paired", "data", "startup", "short_job", "predict"):
        file = folder / f"{name}.json"
        if file.exists():
            found = json.loads(file.read_text(encoding="utf-8"))
            document["rates"].update(found.pop("rates", {}))
            document.update(found)
    cases = {case["name"]: case for case in document["cases"] if "error" not in case}
    document["bars"] = judge({**cases, **document["rates"]})
    return document


def record(document: dict[str, Any], folder: Path, place: Path) -> None:
    """The three files of a recorded run."""
    rates = json.dumps(document["rates"], indent=1)
    parts = [
        f"# Benchmark: {place.name}",
        "How to read it: docs/performance.md.",
        *(["## Bars", as_markdown(document["bars"])] if document["bars"] else []),
        f"![images per second, and where a step's time goes]({place.name}.png)",
        "## Cases",
        (folder / "bench.md").read_text(encoding="utf-8"),
        *(["## Data and start-up", f"```json\n{rates}\n```"] if document["rates"] else []),
    ]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.with_suffix(".md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    text = json.dumps(document, indent=1)
    place.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    shutil.copy(folder / "bench.png", place.with_suffix(".png"))


def put_table(document: dict[str, Any], page: Path) -> None:
    """Speed and memory beside ddp's, between the marks of a document.

    Raises:
        ValueError: the document has no such marks.
    """
    cases = [case for case in document["cases"] if "error" not in case]
    [ddp] = [case for case in cases if case["name"] == "ddp"]
    rows = [
        f"| {case['name']} | {case['images_per_second'] / ddp['images_per_second']:.2f} | "
        f"{case['peak_memory_bytes'] / 2**20:,.0f} |"
        for case in cases
        if not case["name"].startswith("digits")
    ]
    head = ["| case | images/s, ddp = 1 | peak MiB of a rank |", "|---|---|---|"]
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    table = "\n".join([BEGIN, *head, *rows, END])
    page.write_text(f"{before}{table}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="what the benchmark wrote")
    parser.add_argument("--record", type=Path, metavar="NAME", help="without a suffix")
    parser.add_argument("--page", type=Path, metavar="FILE", help="a document with the marks")
    asked = parser.parse_args()
    document = read(asked.folder)
    if asked.page is not None:
        put_table(document, asked.page)
    if asked.record is not None:
        record(document, asked.folder, asked.record)
    print(as_markdown(document["bars"]))


if __name__ == "__main__":
    main()
