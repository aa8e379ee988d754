"""Parts ``train`` and ``resume``: every plugin reaches the reference, and survives SIGKILL."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
import yaml

from gpu_check.check import Check, Outcome, events, failed, passed, slug
from gpu_check.running import ROOT, Argument, Finished
from vit_colossal.layouts import SMALL_CHUNKS
from vit_colossal.references import Result, load_references, save_reference, spread

REFERENCE = "digits-pp2"
#: The reference's job has 30. With 15, ddp and gemini on a CPU got 353 and 352 of 360 right, as
#: with 30; what is significantly below the reference lies below 346.
EPOCHS, TINY_EPOCHS = 15, 1

#: Gemini keeps a model of this size whole, unless its chunks are small.
CHUNKS = [
    text
    for name, value in SMALL_CHUNKS.items()
    for text in (f"--{name.replace('_', '-')}", str(value))
]
OFFLOAD = ["--gemini-offload-optim-frac", "1", "--gemini-offload-param-frac", "1"]

#: A run that saves within its epochs of 16 steps.
SHORT = ["--dataset", "digits", "--model", "vit-micro", "--lr", "1e-3", "--log-every", "1"]
SHORT += ["--max-train-samples", "256", "--max-eval-samples", "64", "--global-batch-size", "16"]
SHORT += ["--no-tensorboard", "--num-workers", "0"]


def plugins(check: Check) -> dict[str, list[str]]:
    """The flags of every plugin that these processes can run, by its name in the table."""
    found = {name: ["--plugin", name] for name in ("ddp", "zero1", "zero2", "gemini", "hybrid")}
    if check.processes > 1:
        found["hybrid pp2"] = ["--plugin", "hybrid", "--pp", "2"]
        found["hybrid tp2"] = ["--plugin", "hybrid", "--tp", "2"]
    return {name: found[name] for name in ("ddp", "gemini")} if check.tiny else found


def train(check: Check) -> None:
    """The reference's job under every plugin, each judged as ``--check-reference`` does."""
    config = _digits_config(check.folder)
    references = check.references or (_low_reference(check.folder) if check.tiny else None)
    jobs = [
        partial(
            check.attempt, "train", name, partial(_reach, check, name, flags, config, references)
        )
        for name, flags in plugins(check).items()
    ]
    check.runner.together(jobs)


def _reach(
    check: Check, name: str, flags: list[str], config: Path, references: Path | None
) -> Outcome:
    run_dir = check.folder / "runs" / f"train-{slug(name)}"
    command: list[Argument] = [
        "train.py",
        "--config",
        config,
        *flags,
        "--device",
        check.device,
        *check.nproc(),
    ]
    command += ["--precision", "bf16" if name == "gemini" else "fp32"]
    command += ["--epochs", str(TINY_EPOCHS if check.tiny else EPOCHS), "--save-every", "0"]
    # On a GPU augmentation has processes of its own; the default is more than this job can use.
    command += ["--num-workers", "0" if check.tiny else "2", "--no-tensorboard"]
    command += ["--output-dir", run_dir]
    command += ["--check-reference", REFERENCE]
    command += ["--references", references] if references else []
    finished = check.runner.run(f"train-{slug(name)}", command)
    if finished.code not in (0, 3):
        return failed(finished.problem())
    result, speed = events(run_dir, "eval")[-1], events(run_dir, "train")[-1]
    text = f"accuracy {result['accuracy']:.4f} ({result['correct']}/{result['total']})"
    if finished.code == 3:
        return failed(f"{text}: significantly below the reference {REFERENCE}")
    return passed(f"{text}, {speed['images_per_second']:,.0f} images/s at the end")


def _digits_config(folder: Path) -> Path:
    """The recorded job without its pipeline."""
    values = yaml.safe_load((ROOT / "configs" / "digits_cpu_pp2.yaml").read_text(encoding="utf-8"))
    for name in ("plugin", "pp", "num_microbatches", "device", "precision"):
        del values[name]
    path = folder / "digits.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def _low_reference(folder: Path) -> Path:
    """What even a run of seconds reaches: ten labels, and two of ten images right."""
    counts = (70, 75, 80)
    results = tuple(Result(seed=n, correct=c, total=360) for n, c in enumerate(counts))
    values = {"results": results, "std": round(spread(results), 6)}
    values["value"] = round(sum(counts) / 3 / 360, 6)
    path = folder / "references.yaml"
    path.unlink(missing_ok=True)
    save_reference(load_references()[REFERENCE].model_copy(update=values), path)
    return path


def _kill_cases(check: Check) -> dict[str, list[str]]:
    """Every plugin once, and between them every precision, clipping and loss scale."""
    gemini = ["--plugin", "gemini", "--precision", "bf16", *CHUNKS]
    clipped = ["--clip-grad-norm", "1"]
    cases = {
        "ddp fp16": ["--plugin", "ddp", "--precision", "fp16"],
        "zero1 bf16, clipped": ["--plugin", "zero1", "--precision", "bf16", *clipped],
        "zero2 fp32": ["--plugin", "zero2", "--precision", "fp32"],
        "gemini bf16": gemini,
        "hybrid fp16": ["--plugin", "hybrid", "--precision", "fp16"],
    }
    if check.device == "cuda":
        cases["gemini offload, clipped"] = [*gemini, *OFFLOAD, *clipped]
    if check.processes > 1:
        cases["hybrid pp2 bf16"] = ["--plugin", "hybrid", "--pp", "2", "--precision", "bf16"]
        cases["hybrid tp2 bf16"] = ["--plugin", "hybrid", "--tp", "2", "--precision", "bf16"]
    return {"zero1 bf16, clipped": cases["zero1 bf16, clipped"]} if check.tiny else cases


def resume(check: Check) -> None:
    """A run that was killed and went on has the bits of one that was not."""
    jobs = [
        partial(check.attempt, "resume", name, partial(_kill_and_resume, check, name, flags))
        for name, flags in _kill_cases(check).items()
    ]
    check.runner.together(jobs)


def _kill_and_resume(check: Check, name: str, flags: list[str]) -> Outcome:
    steps, every = (60, 10) if check.tiny else (240, 30)
    command: list[Argument] = ["train.py", *SHORT, *flags, "--device", check.device, *check.nproc()]
    command += ["--max-steps", str(steps), "--save-every", str(every), "--output-dir"]
    whole, broken = (check.folder / "runs" / f"{k}-{slug(name)}" for k in ("whole", "killed"))

    def start(kind: str, run_dir: Path, *more: str, kill: bool = False) -> Finished:
        halfway = partial(_is_past, run_dir, steps // 2)
        log = f"resume-{slug(name)}-{kind}"
        return check.runner.run(
            log, [*command, run_dir, *more], kill_when=halfway if kill else None
        )

    finished = start("whole", whole)
    if finished.code != 0:
        return failed(finished.problem())
    finished = start("killed", broken, kill=True)
    if finished.code == 0:
        return failed("it ended before it could be killed")
    if finished.code != -9:
        return failed(finished.problem())
    reached = events(broken, "train")[-1]["step"]
    finished = start("resumed", broken, "--resume", "auto")
    if finished.code != 0:
        return failed(finished.problem())
    found = re.search(r"resumed from \S*step-0*(\d+): (.+)", finished.text())
    if found is None or found[2] != "same layout, so bit-exact":
        return failed("it began anew: see its log")
    text = f"killed after step {reached} of {steps}, resumed from {found[1]}"
    differing = _differing_bytes(*(run / "model" / "model.safetensors" for run in (whole, broken)))
    return failed(f"{text}: {differing}") if differing else passed(f"{text}: the same bits")


def _is_past(run_dir: Path, step: int) -> bool:
    """Whether it has saved at ``step`` and taken some more steps, which the killed run loses."""
    if not (run_dir / "checkpoints" / f"step-{step:06d}").is_dir():
        return False
    taken = re.findall(r'"step": (\d+)', (run_dir / "metrics.jsonl").read_text(encoding="utf-8"))
    return int(taken[-1]) >= step + 3


def _differing_bytes(path: Path, other: Path) -> str:
    """How much two files differ; empty where they do not."""
    left, right = (np.frombuffer(file.read_bytes(), np.uint8) for file in (path, other))
    if len(left) != len(right):
        return f"models of {len(left)} and {len(right)} bytes"
    count = int((left != right).sum())
    return f"{count:,} of the model's {len(left):,} bytes differ" if count else ""
