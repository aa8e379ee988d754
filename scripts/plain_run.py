"""Train in the plain PyTorch loop, without ColossalAI or processes, and leave a run directory.

    python scripts/plain_run.py --config configs/digits_cpu_pp2.yaml --seed 1 --output-dir DIR

Takes the flags of train.py. Plugin, degrees and micro-batches are dropped: each step is one forward
and backward over the whole global batch. The directory holds what `vit-colossal check` reads.
"""

from __future__ import annotations

import json
import sys

import torch

from vit_colossal.config.reading import load_config
from vit_colossal.errors import UserError
from vit_colossal.parity.plain_loop import Grouping, train_plain
from vit_colossal.plan.plan import steps_per_epoch, total_steps
from vit_colossal.rundir.metrics import RunReporter
from vit_colossal.rundir.record import describe_run
from vit_colossal.runtime.group import Topology
from vit_colossal.training.run import plan_run


def main(arguments: list[str]) -> None:
    """Train and evaluate as the flags say.

    Raises:
        UserError: the run cannot be started as configured.
    """
    torch.set_num_threads(1)  # like every rank
    config = load_config(arguments, "plain_run.py").replace(
        plugin="ddp", tp=1, pp=1, zero=0, num_microbatches=None, microbatch_size=None, nproc=None
    )
    plan, data = plan_run(config, Topology())
    run_dir = plan.config.output_dir
    if run_dir is None:
        sys.exit("error: --output-dir is missing")
    run_dir.mkdir(parents=True, exist_ok=True)
    describe_run(run_dir, plan, data)
    environment = json.loads((run_dir / "environment.json").read_text(encoding="utf-8"))
    text = json.dumps({**environment, "plain_loop": True}, indent=2) + "\n"
    (run_dir / "environment.json").write_text(text, encoding="utf-8")

    per_epoch = steps_per_epoch(plan.config, len(data.train))
    steps = total_steps(plan.config, per_epoch)
    trace = train_plain(plan, data, steps, Grouping())
    accuracy = trace.correct / trace.total
    reporter = RunReporter(run_dir, tensorboard=False)
    epoch = steps / per_epoch
    counts = {"correct": trace.correct, "total": trace.total}
    reporter.event("eval", steps, epoch, accuracy=accuracy, **counts)
    reporter.event("end", steps, epoch, accuracy=accuracy)
    reporter.close()
    print(f"accuracy {accuracy:.4f} ({trace.correct}/{trace.total}) in {run_dir}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
