"""What is compared: every layout that fits, and transformers' Trainer."""

from __future__ import annotations

import re
from pathlib import Path

from vit_colossal.config.train_config import RECIPE, TrainConfig
from vit_colossal.errors import ConfigError
from vit_colossal.parity.case import Case
from vit_colossal.parity.config import AS_PEERS, NO_PEERS, TRANSFORMERS, ParityConfig
from vit_colossal.plan.layouts import AUTOCAST, Layout, fitting_layouts, select
from vit_colossal.plan.plan import RunPlan
from vit_colossal.runtime.group import Topology
from vit_colossal.training.run import plan_run

#: What transformers' Trainer updates with: the optimizer that runs here on a CPU, and its default,
#: whose fused kernel rounds some elements otherwise.
TRAINER_OPTIMS = ("adamw_torch", "adamw_torch_fused")
#: The settings of a recipe that the peers are told, or that concern all alike.
_SHARED = frozenset(
    (
        *("global_batch_size", "grad_accumulation", "epochs", "max_steps", "lr", "lr_schedule"),
        *("lr_cycles", "cooldown_ratio"),
        *("warmup_ratio", "weight_decay", "decay_all", "adam_beta1", "adam_beta2", "adam_eps"),
        *("clip_grad_norm", "max_train_samples", "precision", "early_stopping_patience"),
        "save_best_model",
        # Without what they belong to these do nothing.
        *("min_crop_scale", "randaugment_num_ops", "randaugment_magnitude"),
    )
)


def make_cases(config: ParityConfig, processes: int, folder: Path) -> list[Case]:
    """Every layout, and Trainer, in the asked precision and clipping."""
    plan, _ = plan_run(config.job(plugin=AUTOCAST, pp=1, tp=1), Topology())
    fitting = fitting_layouts(processes, plan.spec)
    layouts = select(fitting, config.layouts, config.precision)
    if config.peers != NO_PEERS:
        _refuse_what_peers_lack(config, plan)
    subjects: list[tuple[str | None, Layout]] = [(None, layout) for layout in layouts]
    if config.has_peer(TRANSFORMERS):
        flags = {"plugin": AUTOCAST, "precision": "fp32"}
        for count in sorted({1, processes}):
            for optim in TRAINER_OPTIMS:
                subjects.append((optim, Layout(f"transformers.Trainer {optim}", flags, count)))
    cases: list[Case] = []
    for trainer_optim, layout in subjects:
        for clip in config.clips if layout.precision == "fp32" else config.clips[:1]:
            job = config.job(**layout.flags, clip_grad_norm=clip)
            clipped = f"-clip{clip:g}" if clip else ""
            name = f"{layout.name}-{layout.precision}{clipped}-{layout.processes}p"
            trace = folder / "traces" / re.sub(r"[^\w.+-]+", "-", name)
            cases.append(Case(layout.name, trainer_optim, layout.processes, job, trace))
    return cases


def _refuse_what_peers_lack(config: ParityConfig, plan: RunPlan) -> None:
    fields = TrainConfig.model_fields
    without = [
        f"--{name.replace('_', '-')}"
        for name in RECIPE
        if name not in _SHARED
        and getattr(config, name) not in (fields[name].default, AS_PEERS.get(name))
    ]
    if without:
        flags = ", ".join(without)
        raise ConfigError([f"{flags}: Trainer is compared without it: add --peers {NO_PEERS}"])
    if plan.config.drop_path:
        problem = f"Trainer draws the model's drop path ({plan.config.drop_path:g}) otherwise"
        raise ConfigError([f"{problem}: add --drop-path 0 or --peers {NO_PEERS}"])
