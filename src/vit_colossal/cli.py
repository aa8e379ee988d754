"""The command line: ``vit-colossal COMMAND`` and ``train.py``."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from vit_colossal.commands.names import SUMMARIES, USAGE, WITHOUT_TORCH
from vit_colossal.errors import ConfigError, ExitCode, UserError
from vit_colossal.redaction import SafeFormatter, hide_secrets
from vit_colossal.runtime.importing import without_collecting
from vit_colossal.text import printable
from vit_colossal.version import __version__

if TYPE_CHECKING:
    from vit_colossal.config.reading import TrainConfig
    from vit_colossal.runtime.group import Topology


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    0 is ok, 1 a failed run, 2 bad usage or configuration, 3 a result unlike the reference.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return ExitCode.OK if arguments else ExitCode.USAGE
    if arguments[0] == "--version":
        print(f"vit-colossal {__version__}")
        return 0
    name, *flags = arguments
    if name not in SUMMARIES:
        print(f"error: no command {name!r}\n\n{USAGE}", file=sys.stderr)
        return ExitCode.USAGE
    return run_command(name, flags, prog=f"vit-colossal {name}")


def run_command(name: str, flags: Sequence[str], prog: str) -> int:
    """Load the configuration, start local processes if asked to, run, and map errors to codes."""
    debug = "--debug" in flags
    try:
        if name not in WITHOUT_TORCH:
            _set_up_logging(debug)
        if name in _COMMANDS:
            return _run(name, flags, prog)
        # Imported when asked for: no command pays for what another one needs.
        with without_collecting():
            command = import_module(f"vit_colossal.commands.{name}")
        return int(command.main(flags, prog))
    except UserError as error:
        if debug:
            print(hide_secrets(traceback.format_exc()), end="", file=sys.stderr)
        elif _speaks_for_all():
            _print_error(error)
        return error.exit_code
    except BrokenPipeError:
        # Whoever read the output, such as `head`, has enough. Python would complain at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.READER_GONE
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if debug or package == "vit_colossal":
            raise
        print(f"error: {error}: run 'vit-colossal doctor' for what to do", file=sys.stderr)
        return 1


def _run(name: str, flags: Sequence[str], prog: str) -> int:
    """A command that trains or evaluates, in this process or in N."""
    from vit_colossal.config.reading import TrainConfig, parse_config

    kind: type[TrainConfig] = TrainConfig
    if name == "eval":
        from vit_colossal.config.eval_config import EvalConfig as kind
    config, problems = parse_config(flags, prog, kind)
    with without_collecting():
        import_module("vit_colossal.training.run")
    if problems or config.nproc is not None:
        return _spawn(name, config, list(flags), problems)
    return _COMMANDS[name](config)


def _spawn(name: str, config: TrainConfig, flags: list[str], problems: list[str]) -> int:
    """Validate here, before anything starts; then run the same command in N processes."""
    from vit_colossal.runtime.spawn import launch

    topology = _topology(config, problems)
    if name == "eval":
        from vit_colossal.trained.evaluate import plan_evaluation

        plan_evaluation(config, topology, problems)
    else:
        from vit_colossal.training.run import plan_run

        plan_run(config, topology, problems)
    count = topology.world_size
    return launch(["-m", "vit_colossal", name, *_without_nproc(flags)], count)


def _topology(config: TrainConfig, problems: list[str]) -> Topology:
    """This process's place, or that of the first of N processes that are yet to be started."""
    from vit_colossal.runtime.group import Topology

    if "RANK" in os.environ:
        if config.nproc is not None:
            problems.append("--nproc cannot be used under torchrun or colossalai run: drop it")
        return Topology.from_environment()
    return Topology(world_size=config.nproc or 1, local_world_size=config.nproc or 1)


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
    from vit_colossal.training.run import rehearse, train

    if config.dry_run:
        rehearse(config)
        return 0
    result = train(config)
    if result.stopped_by:
        return ExitCode.after(result.stopped_by)
    passed = result.verdict is None or result.verdict.passed
    return ExitCode.OK if passed else ExitCode.DIFFERENT


def _evaluate(config: TrainConfig) -> int:
    from vit_colossal.trained.evaluate import evaluate

    result = evaluate(config)
    if os.environ.get("RANK", "0") == "0":
        print(f"loss {result.loss:.4f}  {result}")
    return 0


_COMMANDS: dict[str, Callable[[TrainConfig], int]] = {"train": _train, "eval": _evaluate}


def _speaks_for_all() -> bool:
    """Whether what is wrong would otherwise be said by another rank, or by none."""
    rank, world = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "0")
    numbers = rank.isdecimal() and world.isdecimal()
    return not numbers or int(rank) == 0 or int(rank) >= int(world)


def _print_error(error: UserError) -> None:
    # A file's name may hold what ends a line or steers a terminal.
    found = error.problems if isinstance(error, ConfigError) else str(error).splitlines()
    lines = [printable(hide_secrets(line)) for line in found]
    if len(lines) == 1:
        print(f"error: {lines[0]}", file=sys.stderr)
        return
    print(f"error: {len(lines)} problems:", file=sys.stderr)
    for line in lines:
        print(f"  - {line}", file=sys.stderr)


def _set_up_logging(debug: bool) -> None:
    from vit_colossal.rundir.metrics import TqdmHandler

    handler = TqdmHandler()
    handler.setFormatter(SafeFormatter("%(message)s"))
    logger = logging.getLogger("vit_colossal")
    logger.handlers = [handler]
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    logger.propagate = False
