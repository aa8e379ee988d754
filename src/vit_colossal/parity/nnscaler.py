"""nnScaler's own trainer on the same job, in the Python of an environment that has it.

It wants an older PyTorch than this package, so both sides share files alone: the job as nnScaler's
YAML (``nnscaler/cli/trainer_args.py`` of release 0.8), the data and the first weights; back come
the losses and the last weights. In the same Python transformers' Trainer runs the same job, whose
loss nnScaler's example promises to the bit where nothing is clipped (``examples/vit/README.md``).
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from transformers import AutoModelForImageClassification

from vit_colossal.config.train_config import TrainConfig
from vit_colossal.data.order import epoch_order
from vit_colossal.data.prepare import RunData
from vit_colossal.errors import ConfigError
from vit_colossal.families.names import named_weights
from vit_colossal.model.build import build_model
from vit_colossal.model.configuration import quiet
from vit_colossal.model.optim import SCHEDULES, schedule_shape
from vit_colossal.parity.config import NNSCALER, TRANSFORMERS, ParityConfig
from vit_colossal.parity.plain_loop import Grouping, count_correct
from vit_colossal.parity.references import NONE, References
from vit_colossal.parity.row import Row
from vit_colossal.parity.trace import Trace
from vit_colossal.plan.layouts import AUTOCAST
from vit_colossal.plan.plan import RunPlan, steps_per_epoch, total_steps
from vit_colossal.runtime.group import Topology
from vit_colossal.training.run import plan_run

logger = logging.getLogger("vit_colossal")

#: The folder of what the other Python imports.
SIDE = Path(__file__).with_name("nnscaler_side")
_ADAPTER = "parity_adapter"
#: What has to be there.
_MODULES = ("nnscaler", "torch", "transformers", "accelerate", "safetensors")
_WHERE_FROM = (
    "it is on no package index; https://github.com/microsoft/nnscaler is its source and says how "
    "to build it (with g++), beside torch <= 2.6, transformers and accelerate"
)


def require_nnscaler(config: ParityConfig) -> dict[str, str]:
    """What the other Python has, by name; nothing where it is not asked for.

    Raises:
        ConfigError: nnScaler cannot run this job, or not there.
    """
    python, peer = config.nnscaler_python, f"--peers {config.peers}"
    if not config.has_peer(NNSCALER):
        if python is not None:
            raise ConfigError([f"--nnscaler-python {python}: add --peers {NNSCALER}, or drop it"])
        return {}
    problems = []
    if python is None:
        problems.append(f"{peer}: name the Python that has it by --nnscaler-python: {_WHERE_FROM}")
    if config.device != "cpu":
        problems.append(f"{peer}: nnScaler is compared on the CPU alone: drop --device cuda")
    if config.weight_decay and not config.decay_all:
        problems.append(f"{peer}: nnScaler has one group of parameters: add --decay-all")
    if problems or python is None:
        raise ConfigError(problems)
    code = f"import json; from importlib import import_module as load; names = {_MODULES}\n"
    code += "print(json.dumps({name: load(name).__version__ for name in names}))"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, env=_alone())
        versions: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    except (OSError, ValueError, IndexError) as error:
        said = str(error.strerror) if isinstance(error, OSError) else done.stderr.strip()
        reason = (said.splitlines() or ["it says nothing"])[-1]
        raise ConfigError([f"--nnscaler-python {python}: {reason}: {_WHERE_FROM}"]) from None
    return versions


def compare_nnscaler(
    references: References, processes: int, folder: Path, software: dict[str, str]
) -> list[Row]:
    """Rows for one process and for several, for each clipping: see ``_compare``."""
    config = references.config
    assert config.nnscaler_python is not None, "require_nnscaler"
    rows = []
    for count in sorted({1, processes}):
        for clip in config.clips:
            job = config.job(plugin=AUTOCAST, precision="fp32", clip_grad_norm=clip)
            plan, data = plan_run(job, Topology(world_size=count))
            place = folder / NNSCALER / f"{count}p{f'-clip{clip:g}' if clip else ''}"
            write_job(plan, data, count, place)
            codes = {}
            for trainer in (TRANSFORMERS, NNSCALER):
                logger.info("%s in %s: %s", trainer, config.nnscaler_python, place.name)
                codes[trainer] = train_there(config.nnscaler_python, trainer, place, count)
            rows += _compare(references, plan, data, count, place, codes, software)
    return rows


def _compare(
    references: References,
    plan: RunPlan,
    data: RunData,
    processes: int,
    place: Path,
    codes: dict[str, int],
    software: dict[str, str],
) -> list[Row]:
    """Both trainers against the plain loop; nnScaler against Trainer, to the bit if not clipped.

    It sums the norm up in other parts, so that it clips by another factor.
    """
    clip, ours = plan.config.clip_grad_norm, Grouping.of(plan)
    trainer = f"transformers.Trainer {software['transformers']}, torch {software['torch']}"
    scaler = f"nnScaler {software['nnscaler']}"
    rows = {
        TRANSFORMERS: Row(trainer, "fp32", clip, processes),
        NNSCALER: Row(scaler, "fp32", clip, processes),
        "both": Row(f"{scaler} against that Trainer", "fp32", clip, processes),
    }
    traces = {}
    for name, code in codes.items():
        if code:
            log = place / f"{name}.log"
            rows[name].problems.append(f"the run failed with exit code {code}: see {log}")
        else:
            traces[name] = read_trace(place / name, plan, data)
    tolerance = references.tolerance(plan.config)
    for name, trace in traces.items():
        rows[name].judge(trace, references.trace(plan.config, ours), tolerance)
    if len(traces) == len(codes):
        rows["both"].judge(traces[NNSCALER], traces[TRANSFORMERS], tolerance if clip else NONE)
    else:
        rows["both"].problems.append("one of the two runs failed")
    return list(rows.values())


def write_job(plan: RunPlan, data: RunData, processes: int, place: Path) -> None:
    """The job as files: ``job.yaml``, ``data.safetensors`` and ``first/``, the model untrained."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    config, size = plan.config, plan.batches.global_batch
    steps = total_steps(config, steps_per_epoch(config, len(data.train)))
    model = build_model(plan.spec, data.labels, config.seed)
    with quiet():
        model.save_pretrained(place / "first")
    images = np.ascontiguousarray(data.train.images[np.arange(len(data.train))])
    tensors = {
        "images": torch.from_numpy(images),
        "labels": torch.from_numpy(np.array(data.train.labels)),
        "order": sample_order(len(data.train), size, config.seed, steps),
    }
    save_file(tensors, place / "data.safetensors")
    attention = str(model.config._attn_implementation)
    job = as_yaml(plan, data, processes, steps, place.resolve(), attention)
    (place / "job.yaml").write_text(yaml.safe_dump(job, sort_keys=False), encoding="utf-8")


def sample_order(num_samples: int, global_batch: int, seed: int, steps: int) -> torch.Tensor:
    """The samples of every step, one step after the other, int64 [steps x global_batch]."""
    whole = num_samples // global_batch * global_batch
    epochs = math.ceil(steps * global_batch / whole)
    orders = [epoch_order(num_samples, seed, epoch)[:whole] for epoch in range(epochs)]
    return torch.cat(orders)[: steps * global_batch]


def as_yaml(
    plan: RunPlan, data: RunData, processes: int, steps: int, place: Path, attention: str
) -> dict[str, Any]:
    """The job in the terms of nnScaler's ``TrainerArgs``, with the plan of its ViT example.

    Args:
        plan: the job.
        data: how its images become inputs.
        processes: how many run it, each with a part of every global batch.
        steps: optimizer steps.
        place: the job's folder.
        attention: which of transformers' implementations computes it.
    """
    config, how, size = plan.config, data.preprocessing, plan.batches.global_batch
    file = str(place / "data.safetensors")
    return {
        "vars": {"folder": str(place)},
        "compute_config": {
            "plan_ngpus": 1,
            "runtime_ngpus": processes,
            "constant_folding": False,
            "trace_strategy": "cpu",
            "use_zero": True,
            "use_end2end": True,
        },
        "run_mode": "run",
        "pas_policy": "dp",
        "gen_savedir": str(place / "generated"),
        "micro_batch_size": size // processes,
        "global_batch_size": size,
        "max_train_steps": steps,
        "enable_progress_bar": False,
        "seed": config.seed,
        "model": {
            "type": f"{_ADAPTER}.WithLoss",
            "args": {"folder": str(place / "first"), "attention": attention},
        },
        **_recipe(config, steps),
        "dataset": {
            "type": f"{_ADAPTER}.Samples",
            "train_args": {
                "file": file,
                "divisor": how.divisor,
                "mean": list(how.mean),
                "std": list(how.std),
            },
        },
        "dataloader": {"train_args": {"drop_last": True}},
        "dataset_sampler": {
            "type": f"{_ADAPTER}.Order",
            "train_args": {"file": file, "global_batch": size},
        },
        "checkpoint": {"no_save": True},
        "hook": {
            "after_setup": f"{_ADAPTER}.begin",
            "before_log_train_metrics": f"{_ADAPTER}.record",
            "on_train_end": f"{_ADAPTER}.end",
        },
    }


def _recipe(config: TrainConfig, steps: int) -> dict[str, Any]:
    """Optimizer and schedule."""
    return {
        "optimizer": {
            "type": "torch.optim.AdamW",
            "args": {
                "lr": config.lr,
                "betas": [config.adam_beta1, config.adam_beta2],
                "eps": config.adam_eps,
                "weight_decay": config.weight_decay,
            },
            "clip_gnorm": config.clip_grad_norm,
        },
        "lr_scheduler": {
            "type": f"{_ADAPTER}.schedule",
            "args": {
                "name": SCHEDULES[config.lr_schedule],
                "warmup": math.ceil((config.warmup_ratio or 0.0) * steps),
                "steps": steps,
                "shape": schedule_shape(config, steps),
            },
            "interval": "step",
        },
    }


def train_there(python: Path, trainer: str, place: Path, processes: int) -> int:
    """Train in that Python; its messages go to a file. Returns the exit code."""
    command = [str(python), "-m", "torch.distributed.run", "--standalone"]
    command += ["--local-addr", "127.0.0.1", "--nproc-per-node", str(processes)]
    command += [str(SIDE / f"{_ADAPTER}.py"), trainer, str(place.resolve() / "job.yaml")]
    with (
        (place / f"{trainer}.log").open("wb") as log,
        subprocess.Popen(command, env=_alone(), stdout=log, stderr=log) as process,
    ):
        try:
            return process.wait()
        except BaseException:
            process.terminate()  # torchrun ends its workers
            raise


def _alone() -> dict[str, str]:
    """The environment without this package, whose dependencies that Python may not have."""
    changes = {"PYTHONPATH": str(SIDE), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **changes, "GLOO_SOCKET_IFNAME": "lo"}


def read_trace(folder: Path, plan: RunPlan, data: RunData) -> Trace:
    """What a trainer left; its model is evaluated here."""
    steps = json.loads((folder / "steps.json").read_text(encoding="utf-8"))
    with quiet():
        model = AutoModelForImageClassification.from_pretrained(folder, use_safetensors=True)
    weights = {name: p.detach().float().clone() for name, p in named_weights(model)}
    correct = count_correct(model, plan, data)
    return Trace(steps["losses"], [], steps["lrs"], correct, len(data.evaluation), weights)
