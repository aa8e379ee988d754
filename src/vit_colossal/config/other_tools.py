"""What to write here for a flag of another tool.

ColossalAI's examples, transformers' TrainingArguments and its image-classification script, timm,
Lightning. Likeness of the words alone would lead from `--warmup-steps` to `--max-steps`.
"""

from __future__ import annotations

import re
from collections.abc import Collection

#: By what to write, the flags of other tools, without their dashes.
_BY_FLAG = {
    "--auto-augment": "aa",
    "--batch-size": "batch per-device-train-batch-size",
    "--clip-grad-norm": "clip-grad gradient-clip-val max-grad-norm",
    "--compile": "torch-compile torchcompile",
    "--dataset": "data data-dir data-path dataset-name train-dir train-data-dir",
    "--device": "accelerator",
    "--ema, with the decay": "ema-decay model-ema model-ema-decay use-ema",
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
    "--plugin": "deepspeed fsdp strategy",
    "--precision": "amp-dtype mixed-precision",
    "--precision bf16": "amp bf16",
    "--precision fp16": "fp16",
    "--random-erasing": "reprob",
    "--resume": "resume-from-checkpoint",
    "--save-best-model": "load-best-model-at-end",
    "--save-every": "checkpointing-steps save-steps save-strategy",
    "--tracker-name": "run-name",
    "--tracker-project": "wandb-project",
    "--val-split": "train-val-split",
    "--wandb, --mlflow or neither": "report-to log-wandb",
    "--warmup-ratio, a share of all steps": "num-warmup-steps warmup-epochs warmup-steps",
}
#: The same, where no flag stands for it.
_WITHOUT = {
    "memory is not capped: --grad-checkpoint, a larger --tp or zero2 need less of it": "mem-cap",
    "the labels are those of the data: drop it": "num-classes num-labels",
    "every run trains, and evaluates after each epoch: drop it": (
        "do-eval do-train eval-steps eval-strategy evaluation-strategy"
    ),
    "a directory or a name on the hub is pretrained, a preset is not: drop it": "pretrained",
    "a classifier for other labels is made anew: drop it": "ignore-mismatched-sizes",
    "code of a repository is never run: drop it": "trust-remote-code",
    "vit-colossal push uploads a finished run": "hub-model-id push-to-hub",
    "HF_TOKEN in the environment is the token": "hub-token token",
}


def _by_name(names: dict[str, str], form: str) -> dict[str, str]:
    """A sentence's end by the flag it answers."""
    return {
        f"--{name}": form.format(answer) for answer, line in names.items() for name in line.split()
    }


#: What to write, by the other tool's flag.
ADVICE = _by_name(_BY_FLAG, "write {}") | _by_name(_WITHOUT, "{}")


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
