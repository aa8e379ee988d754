"""``vit-colossal eval``."""

from __future__ import annotations

import os
from collections.abc import Sequence

from vit_colossal.commands.configured import read_configuration
from vit_colossal.config.eval_config import EvalConfig
from vit_colossal.errors import ExitCode
from vit_colossal.runtime.interpreter import share_cpu, without_collecting

SETTINGS = EvalConfig


def main(flags: Sequence[str], prog: str) -> int:
    """Evaluate, in this process or in N."""
    config, problems = read_configuration(flags, prog, SETTINGS)
    if config.nproc is not None:
        share_cpu(config.nproc)
    with without_collecting():
        from vit_colossal.commands.start import spawn
        from vit_colossal.trained.evaluate import evaluate, plan_evaluation
    if problems or config.nproc is not None:
        return spawn("eval", config, flags, prog, problems, plan_evaluation)
    result = evaluate(config)
    if os.environ.get("RANK", "0") == "0":
        print(f"loss {result.loss:.4f}  {result}")
    return ExitCode.OK
