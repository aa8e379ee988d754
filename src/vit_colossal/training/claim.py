"""Which folder a run has, and that no other run writes to it."""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import torch.distributed as dist

from vit_colossal.errors import ConfigError
from vit_colossal.plan.plan import RunPlan
from vit_colossal.rundir.lock import locked
from vit_colossal.training.job import Job


@contextmanager
def claimed(run_dir: Path, job: Job) -> Iterator[None]:
    """The lead rank keeps other runs out; what it could not do is said by every rank."""
    problems: list[list[str]] = [[]]
    with ExitStack() as stack:
        if job.engine.is_lead:
            try:
                stack.enter_context(locked(run_dir))
            except ConfigError as error:
                problems[0] = error.problems
        dist.broadcast_object_list(problems, src=job.plan.dims.lead_rank)
        if problems[0]:
            raise ConfigError(problems[0])
        yield


def shared_run_dir(plan: RunPlan) -> Path:
    """The run directory; rank 0 names it for all, by the time.

    Under torchrun by that at which it started, so that workers it starts again find their run.
    """
    config = plan.config
    if config.output_dir is not None:
        return config.output_dir
    name = re.sub(r"[^A-Za-z0-9.]+", "-", Path(config.dataset or "run").name)
    elastic = "TORCHELASTIC_RUN_ID" in os.environ
    begun = psutil.Process(os.getppid()).create_time() if elastic else time.time()
    stamp = f"{name}-{config.plugin}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(begun))}"
    shared = [Path("runs") / stamp]
    if not elastic and dist.get_rank() == 0:
        shared = [_made(shared[0])]
    dist.broadcast_object_list(shared, src=0)
    return shared[0]


def _made(path: Path) -> Path:
    """A new folder of that name, or the next one: two runs may start in the same second.

    Making it is what tells them apart. Where none can be made, `claimed` says why.
    """
    others = map(f"{path}-{{}}".format, itertools.count(2))
    while True:
        try:
            path.mkdir(parents=True)
        except OSError:
            if os.path.lexists(path):
                path = Path(next(others))
                continue
        return path
