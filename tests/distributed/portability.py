"""Continue every layout's checkpoint under every other, many in one launch.

A source run trains to the end and saves half-way; a target run continues from that checkpoint under
its own layout. Losses of the second half are compared with the source's own. Run as a script, this
file is one rank: ``python portability.py TASKS.json``.
"""

from __future__ import annotations

import gc
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from launching import forked, run

STEPS, HALF = 14, 7

#: Seven steps are one whole epoch of four and three steps of the next.
RECIPE = "--dataset digits --model vit-micro --device cpu --max-train-samples 64 --lr 1e-3 "
RECIPE += "--max-eval-samples 32 --global-batch-size 16 --log-every 1 --seed 3"
SHARDED = "--gemini-min-chunk-m 0.03 --gemini-search-range-m 0.05 --gemini-hidden-dim 64"


@dataclass(frozen=True)
class Layout:
    """A strategy at a number of processes."""

    name: str
    processes: int
    precision: str
    flags: str

    def __str__(self) -> str:
        return f"{self.name} {self.precision}, {self.processes}"


LAYOUTS = {
    str(layout): layout
    for layout in (
        Layout("ddp", 2, "fp32", "--plugin ddp"),
        Layout("zero1", 2, "fp32", "--plugin zero1"),
        Layout("zero2", 2, "fp32", "--plugin zero2"),
        Layout("tp2", 2, "fp32", "--plugin hybrid --tp 2"),
        Layout("pp2", 2, "fp32", "--plugin hybrid --pp 2"),
        Layout("hybrid dp2", 2, "fp32", "--plugin hybrid"),
        Layout("gemini sharded", 2, "bf16", f"--plugin gemini {SHARDED}"),
        Layout("hybrid ZeRO-1", 2, "bf16", "--plugin hybrid --zero 1"),
        Layout("ddp", 1, "fp32", "--plugin ddp"),
        Layout("gemini", 1, "bf16", f"--plugin gemini {SHARDED}"),
        Layout("zero1", 4, "fp32", "--plugin zero1"),
        Layout("tp2 x pp2", 4, "fp32", "--plugin hybrid --tp 2 --pp 2"),
        Layout("gemini sharded", 4, "bf16", f"--plugin gemini {SHARDED}"),
    )
}


@dataclass(frozen=True)
class Task:
    """One run of a launch; ``checkpoint`` is empty for a source. With ``flags``, targets save."""

    layout: str
    checkpoint: str
    directory: str
    flags: str = ""


def train(folder: Path, tasks: Sequence[Task], *, timeout_s: float) -> None:
    """Run tasks of one number of processes in one launch.

    Raises:
        AssertionError: the launch failed; the text holds its output.
    """
    folder.mkdir(parents=True, exist_ok=True)
    processes = LAYOUTS[tasks[0].layout].processes
    path = folder / f"tasks-{processes}.json"
    path.write_text(json.dumps([asdict(task) for task in tasks]))
    finished = run(forked(processes, __file__, str(path)), timeout_s=timeout_s)
    assert finished.returncode == 0, finished.output[-8000:]
    assert finished.left_over == []


def run_pairs(
    folder: Path, pairs: Sequence[tuple[str, str]], *, timeout_s: float, flags: str = ""
) -> dict[tuple[str, str], float]:
    """Largest relative loss difference after the change of layout, for each (source, target).

    Sources of one number of processes share a launch, and so do targets.
    """
    sources = list(dict.fromkeys(source for source, _ in pairs))
    for group in _by_processes(
        [Task(name, "", str(run_folder(folder, name)), flags) for name in sources]
    ):
        train(folder / "sources", group, timeout_s=timeout_s)
    tasks = [
        Task(
            target,
            f"{run_folder(folder, source)}/checkpoints/step-{HALF:06d}",
            str(run_folder(folder, source, target)),
            flags,
        )
        for source, target in pairs
    ]
    for group in _by_processes(tasks):
        train(folder / "targets", group, timeout_s=timeout_s)
    return {
        (source, target): _drift(
            _losses(run_folder(folder, source)), _losses(run_folder(folder, source, target))
        )
        for source, target in pairs
    }


def _by_processes(tasks: list[Task]) -> list[list[Task]]:
    groups: dict[int, list[Task]] = {}
    for task in tasks:
        groups.setdefault(LAYOUTS[task.layout].processes, []).append(task)
    return list(groups.values())


def run_folder(root: Path, *names: str) -> Path:
    """Where a source, or a target after a source, leaves its run."""
    return root / " to ".join(names).replace(", ", "-")


def _losses(directory: Path) -> dict[int, float]:
    values = json.loads((directory / "losses.json").read_text())
    return {int(step): loss for step, loss in values.items()}


def _drift(source: dict[int, float], target: dict[int, float]) -> float:
    assert list(target) == list(range(HALF + 1, STEPS + 1)), sorted(target)
    return max(abs(loss / source[step] - 1) for step, loss in target.items())


def _run_task(task: Task) -> None:
    """One run on this rank, through the project's own loop."""
    import torch.distributed as dist

    from vit_colossal.config.reading import load_config
    from vit_colossal.rundir.metrics import NullReporter
    from vit_colossal.runtime.group import Topology
    from vit_colossal.training.fit import checkpointer
    from vit_colossal.training.job import build_job
    from vit_colossal.training.loop import Loop
    from vit_colossal.training.run import plan_run
    from vit_colossal.training.stop import StopRequest

    losses: dict[int, float] = {}

    class Recorder(NullReporter):
        def event(self, kind: str, step: int, epoch: float, **values: float | int | str) -> None:
            if kind == "train":
                losses[step] = float(values["loss"])

    layout, directory = LAYOUTS[task.layout], Path(task.directory)
    flags = f"{RECIPE} {layout.flags} --precision {layout.precision} --max-steps {STEPS}"
    flags += f" {task.flags}"
    saves = task.flags or not task.checkpoint
    save = ["--save-every", str(HALF) if saves else "0", "--keep-last", "9"]
    if task.checkpoint:
        save += ["--resume", task.checkpoint]
    arguments = [*shlex.split(flags), *save, "--output-dir", task.directory]
    plan, data = plan_run(load_config(arguments, "portability.py"), Topology.from_environment())
    import torch

    job = build_job(plan, data, torch.device("cpu"))
    directory.mkdir(parents=True, exist_ok=True)
    if "sharded" in task.layout:
        assert any(chunk.is_gathered is False for chunk in job.engine.optimizer.chunk16_set)
    loop = Loop(job, Recorder(), checkpointer(job, directory))
    loop.resume()
    assert loop.run(StopRequest()) == 0
    if job.engine.is_lead:
        (directory / "losses.json").write_text(json.dumps(losses))
    del loop, job
    gc.collect()
    dist.barrier()


def main(path: Path) -> None:
    """Run a file's tasks one after the other."""
    from vit_colossal import runtime
    from vit_colossal.runtime.group import Topology, start, stop

    runtime.activate("cpu")
    start(Topology.from_environment(), "cpu", timeout_s=300)
    try:
        for values in json.loads(path.read_text()):
            _run_task(Task(**values))
    finally:
        stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
