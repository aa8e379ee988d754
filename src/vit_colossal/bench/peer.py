"""Other people's ways to train the same: scripts that a benchmark runs beside the plugins.

Such a script is started like any other under torchrun and takes the flags below; what it writes to
``--output`` are ``losses``, ``step_seconds``, ``window_seconds``, ``first_step_at`` (seconds since
the epoch), ``peak_memory_bytes`` (one for each rank), or an ``error``.
"""

from __future__ import annotations

from pathlib import Path

from vit_colossal.bench.case import LOSSES, BenchCase
from vit_colossal.config.plugins import DEFAULT_PLUGIN
from vit_colossal.errors import ConfigError
from vit_colossal.plan.plan import RunPlan


def peer_command(case: BenchCase, plan: RunPlan, work: Path, result: Path) -> list[str]:
    """The script and its flags for the work of a case.

    Raises:
        ConfigError: the script is not there, or the case asks for what peers do not do.
    """
    config, script = plan.config, case.peer
    problems = []
    if script is None or not script.is_file():
        problems.append(f"peer {script}: no such file")
    if config.plugin != DEFAULT_PLUGIN or config.grad_accumulation > 1:
        problems.append("a peer runs data-parallel, without --grad-accumulation")
    if config.lora_rank is not None:
        problems.append("a peer trains the whole model, without --lora-rank")
    if config.precision == "fp16":
        problems.append("a peer runs in fp32 or bf16, not in fp16")
    if problems:
        raise ConfigError(problems)
    command = [
        *(str(script), "--model", str(work / "model"), "--images", str(work / "images.npy")),
        *("--labels", str(work / "labels.npy"), "--device", plan.device.kind),
        *("--batch-size", str(plan.batches.forward_batch), "--steps", str(case.steps)),
        *("--warmup-steps", str(case.warmup), "--lr", str(config.lr)),
        *("--weight-decay", str(config.weight_decay), "--precision", str(config.precision)),
        *("--clip-grad-norm", str(config.clip_grad_norm), "--seed", str(config.seed)),
        *("--keep-losses", str(LOSSES), "--output", str(result.absolute())),
    ]
    flags = {
        "--in-memory": case.data == "synthetic",
        "--grad-checkpoint": config.grad_checkpoint,
        "--compile": config.compile,
    }
    return [*command, *(flag for flag, given in flags.items() if given)]
