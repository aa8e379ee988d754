"""``vit-colossal train`` and ``train.py``."""

from __future__ import annotations

import os
from collections.abc import Sequence

from vit_colossal.commands.configured import read_configuration
from vit_colossal.config.colossalai_example import without_idle_degrees
from vit_colossal.config.plugins import AUTO, DEFAULT_PLUGIN
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.errors import ExitCode
from vit_colossal.plan.own_file import in_its_folder
from vit_colossal.runtime.interpreter import share_cpu, without_collecting

SETTINGS = TrainConfig


def main(flags: Sequence[str], prog: str) -> int:
    """Train, in this process or in N."""
    flags, note = without_idle_degrees(flags)
    if note is not None and os.environ.get("RANK", "0") == "0":
        print(note, flush=True)
    config, problems = read_configuration(flags, prog, SETTINGS)
    config = in_its_folder(config, flags)
    # PyTorch comes after the flags: --help needs none, and it reads the number of threads.
    if config.nproc is not None:
        share_cpu(config.nproc)
    with without_collecting():
        from vit_colossal.commands.start import spawn
        from vit_colossal.training.run import plan_aloud, rehearse, train
    if config.plugin == AUTO and (problems or config.nproc is not None):
        config, flags = _with_layout(config, flags, problems)
    if problems or config.nproc is not None:
        return spawn("train", config, flags, prog, problems, plan_aloud)
    if config.dry_run:
        rehearse(config)
        return ExitCode.OK
    result = train(config)
    if result.stopped_by:
        return ExitCode.after(result.stopped_by)
    passed = result.verdict is None or result.verdict.passed
    return ExitCode.OK if passed else ExitCode.DIFFERENT


def _with_layout(
    config: TrainConfig, flags: Sequence[str], problems: Sequence[str]
) -> tuple[TrainConfig, Sequence[str]]:
    """With what ``--plugin auto`` stands for, also for processes that read the flags again."""
    if problems or "RANK" in os.environ:  # they are told first, as is --nproc there
        return config.replace(plugin=DEFAULT_PLUGIN), flags
    from vit_colossal.training.automatic import choose, flags_of

    choice = choose(config, config.nproc or 1)
    print(choice.why, flush=True)
    return config.replace(**choice.settings), [*flags, *flags_of(choice.settings)]
