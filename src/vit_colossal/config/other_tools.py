"""What to write here for a flag of another tool.

ColossalAI's examples, transformers' TrainingArguments and its image-classification script, timm,
Lightning. Likeness of the words alone would lead from `--warmup-steps` to `--max-steps`.

An answer that is a flag, or a flag with its value, can be written in the other's place; where one
says to drop the flag it can be left out. An answer with a comma needs a person.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

#: By what to write, the flags of other tools, without their dashes.
_BY_FLAG = {
    "--auto-augment": "aa",
    "--batch-size": "batch per-device-train-batch-size",
    "--clip-grad-norm": "clip-grad gradient-clip-val max-grad-norm",
    "--compile": "torch-compile torchcompile",
    "--dataset": "data data-dir data-path dataset-name train-dir train-data-dir",
    "--dataset, of the folder that holds train/ and val/": "val-dir validation-dir",
    "--device": "accelerator",
    "--ema": "ema-decay model-ema-decay",
    "--ema, with the decay": "model-ema use-ema",
    "--epochs": "max-epochs num-train-epochs",
    "--grad-accumulation, which cuts the batch and does not enlarge it": (
        "accumulate-grad-batches grad-accum-steps gradient-accumulation-steps"
    ),
    "--grad-checkpoint": "gradient-checkpointing grad-checkpointing",
    "--horizontal-flip": "hflip",
    "--image-column": "image-column-name",
    "--image-size": "img-size input-size resolution",
    "--keep-last": "checkpoint-hist checkpoints-total-limit save-total-limit",
    "--label-column": "label-column-name",
    "--label-smoothing": "label-smoothing-factor smoothing",
    "--log-every": "log-every-n-steps log-interval logging-steps",
    "--lr-schedule": "lr-scheduler lr-scheduler-type sched scheduler",
    "--max-steps": "max-train-steps",
    "--min-crop-scale": "scale",
    "--nproc": "devices gpus num-processes nproc-per-node",
    "--num-workers": "dataloader-num-workers workers",
    "--optimizer": "opt optim",
    "--overwrite": "overwrite-output-dir",
    "--plugin, as --help lists them": "deepspeed fsdp strategy",
    "--precision": "amp-dtype mixed-precision",
    "--precision bf16": "amp bf16",
    "--precision fp16": "fp16",
    "--random-erasing": "reprob",
    "--resume": "resume-from-checkpoint",
    "--save-best-model": "load-best-model-at-end",
    "--save-every": "checkpointing-steps save-steps",
    "--tracker-name": "run-name",
    "--tracker-project": "wandb-project",
    "--val-split": "train-val-split",
    "--wandb": "log-wandb",
    "--wandb, --mlflow or neither": "report-to",
    "--warmup-ratio, a share of all steps": "num-warmup-steps warmup-epochs warmup-steps",
}
#: The same, where no flag stands for it.
_WITHOUT = {
    "memory is not capped: --grad-checkpoint, a larger --tp or zero2 need less of it": "mem-cap",
    "the labels are those of the data: drop it": "num-classes num-labels",
    "every run trains, and evaluates after each epoch: drop it": (
        "do-eval do-train eval-steps eval-strategy evaluation-strategy"
    ),
    "a checkpoint follows each epoch, or every --save-every steps: drop it": "save-strategy",
    "every --log-every steps have a line: drop it": "logging-strategy logging-first-step",
    "images are evaluated as many at once as are trained: drop it": "per-device-eval-batch-size",
    "other columns are not read: drop it": "remove-unused-columns",
    "a directory or a name on the hub is pretrained, a preset is not: drop it": "pretrained",
    "a classifier for other labels is made anew: drop it": "ignore-mismatched-sizes",
    "code of a repository is never run: drop it": "trust-remote-code",
    "vit-colossal push uploads a finished run": "hub-model-id push-to-hub push-to-hub-model-id",
    "HF_TOKEN in the environment is the token": "hub-token token",
}


def _by_name(names: dict[str, str], form: str) -> dict[str, str]:
    """A sentence's end by the flag it answers."""
    return {
        f"--{name}": form.format(answer) for answer, line in names.items() for name in line.split()
    }


#: What a value of another tool's flag stands for, where the flag alone does not say it.
_BY_VALUE = {
    "--checkpointing-steps": {"epoch": ""},
    "--report-to": {"wandb": "--wandb", "mlflow": "--mlflow", "tensorboard": "", "none": ""},
    "--save-strategy": {"no": "--save-every 0"},
}

_LEFT_OUT = _by_name(_WITHOUT, "{}")
#: What to write, by the other tool's flag.
ADVICE = _by_name(_BY_FLAG, "write {}") | _LEFT_OUT


def advice(flag: str, flags: Collection[str]) -> str | None:
    """What to write for a flag of another tool; None where that is not known.

    Args:
        flag: with hyphens.
        flags: those of the command, which are all that is advised.
    """
    answer = ADVICE.get(flag)
    if answer is None or not set(re.findall(r"--[a-z-]+", answer)) <= set(flags):
        return None
    return answer


def in_our_words(
    arguments: Sequence[str], flags: Collection[str], switches: Collection[str]
) -> list[str] | None:
    """The command line with what is advised in the place of other tools' flags.

    Args:
        arguments: the command line, flags with hyphens.
        flags: those of the command.
        switches: those of them that take no value.

    Returns:
        The command line; None where a flag needs a person, or is not known at all.
    """
    line: list[str] = []
    left = list(arguments)
    while left:
        argument = left.pop(0)
        flag, equals, value = argument.partition("=")
        if not flag.startswith("--") or flag in flags:
            line.append(argument)
            continue
        if not equals and left and not left[0].startswith("-"):
            value = left.pop(0)
        answer = advice(flag, flags)
        words = None if answer is None else _in_place_of(flag, value, answer, switches)
        if words is None:
            return None
        line += words
    return line


def _in_place_of(flag: str, value: str, answer: str, switches: Collection[str]) -> list[str] | None:
    """The words for one flag of another tool; None where they need a person."""
    known = _BY_VALUE.get(flag, {}).get(value)
    if known is not None:
        return known.split()
    if flag in _LEFT_OUT or value.lower() == "false":
        return []
    words = answer.removeprefix("write ").split()
    if "," in answer or len(words) > 2:
        return None
    if len(words) == 2 or words[0] in switches:
        return words if value.lower() in ("", "true") else None
    return [*words, value] if value else None
