"""The command line: ``vit-colossal COMMAND`` and ``train.py``."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module

from vit_colossal.config import TrainConfig, parse_config
from vit_colossal.errors import UserError

#: In the order of the help; those beside train and eval are modules of ``commands``.
SUMMARIES = {
    "train": "fine-tune a Vision Transformer with a ColossalAI plugin",
    "eval": "evaluate a model on a whole split",
    "parity": "compare every layout with a plain PyTorch loop and transformers' Trainer",
    "check": "judge a finished run by a reference accuracy (exit code 3: significantly below)",
}
USAGE = "\n".join(
    [
        "usage: vit-colossal COMMAND [flags]\n",
        "commands:",
        *(f"  {name:<10} {summary}" for name, summary in SUMMARIES.items()),
        "\nvit-colossal COMMAND --help lists the flags.",
    ]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    0 is ok, 1 a failed run, 2 bad usage or configuration, 3 a result unlike the reference.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    name, *flags = arguments
    if name not in SUMMARIES:
        print(f"error: no command {name!r}\n\n{USAGE}", file=sys.stderr)
        return 2
    return run_command(name, flags, prog=f"vit-colossal {name}")


def run_command(name: str, flags: Sequence[str], prog: str) -> int:
    """Load the configuration, start local processes if asked to, run, and map errors to codes."""
    debug = "--debug" in flags
    try:
        _set_up_logging()
        if name in _COMMANDS:
            return _run(name, flags, prog)
        # Imported when asked for: no command pays for what another one needs.
        command = import_module(f"vit_colossal.commands.{name}")
        return int(command.main(flags, prog))
    except UserError as error:
        if debug:
            traceback.print_exc()
        elif os.environ.get("RANK", "0") == "0" or not os.environ["RANK"].isdigit():
            _print_error(error)
        return error.exit_code


def _run(name: str, flags: Sequence[str], prog: str) -> int:
    """A command that trains or evaluates, in this process or in N."""
    config, problems = parse_config(flags, prog, TrainConfig)
    if problems or config.nproc is not None:
        return _spawn(name, config, list(flags), problems)
    return _COMMANDS[name](config)


def _spawn(name: str, config: TrainConfig, flags: list[str], problems: list[str]) -> int:
    """Validate here, before anything starts; then run the same command in N processes."""
    from vit_colossal.launcher import launch
    from vit_colossal.run import plan_run
    from vit_colossal.runtime.launch import Topology

    if "RANK" in os.environ:
        if config.nproc is not None:
            problems.append("--nproc cannot be used under torchrun or colossalai run: drop it")
        topology = Topology.from_environment()
    else:
        topology = Topology(world_size=config.nproc or 1, local_world_size=config.nproc or 1)
    plan_run(config, topology, problems)
    count = topology.world_size
    return launch(["-m", "vit_colossal", name, *_without_nproc(flags)], count)


def _without_nproc(flags: list[str]) -> list[str]:
    kept, skip = [], False
    for flag in flags:
        if skip:
            skip = False
        elif flag == "--nproc":
            skip = True
        elif not flag.startswith("--nproc="):
            kept.append(flag)
    return kept


def _train(config: TrainConfig) -> int:
    from vit_colossal.run import train

    result = train(config)
    if result.stopped_by:
        return 130 if result.stopped_by == signal.SIGINT else 143
    return 0 if result.verdict is None or result.verdict.passed else 3


def _evaluate(config: TrainConfig) -> int:
    from vit_colossal.run import evaluate

    result = evaluate(config)
    if os.environ.get("RANK", "0") == "0":
        print(f"loss {result.loss:.4f}  {result}")
    return 0


_COMMANDS: dict[str, Callable[[TrainConfig], int]] = {"train": _train, "eval": _evaluate}


def _print_error(error: UserError) -> None:
    lines = str(error).splitlines()
    if len(lines) == 1:
        print(f"error: {lines[0]}", file=sys.stderr)
        return
    print(f"error: {len(lines)} problems:", file=sys.stderr)
    for line in lines:
        print(f"  - {line}", file=sys.stderr)


def _set_up_logging() -> None:
    from vit_colossal.metrics import TqdmHandler

    handler = TqdmHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("vit_colossal")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
