"""LoRA: a product of two narrow matrices beside each linear layer of the blocks, through `peft`.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685, section 4.1:
``W x + (alpha / rank) B A x``, where only A and B are trained, and here the classifier. The names
are those that `peft` gives: ``LAYER.base_layer.weight`` for W, ``LAYER.lora_A.default.weight``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vit_colossal.config.train_config import TrainConfig
from vit_colossal.durable import filling
from vit_colossal.families.family import Family
from vit_colossal.model.configuration import blueprint
from vit_colossal.model.directory import make_readable
from vit_colossal.plan.model_spec import ModelSpec

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

_BASE = ".base_layer."
_ADAPTER = re.compile(r"(.+)\.(lora_[AB])\.default\.weight")


def adapt(model: PreTrainedModel, spec: ModelSpec, config: TrainConfig) -> PreTrainedModel:
    """Put adapters into a plain model and fix all of it but them and the classifier.

    A is drawn from the seed, B is zero, so that the model computes at first what it did before.
    Without ``--lora-rank`` the model stays as it is.

    Args:
        model: of the spec, changed in place.
        spec: what it is.
        config: of the run; ``lora_rank``, ``lora_alpha`` and ``seed`` are read.
    """
    if config.lora_rank is None:
        return model
    from peft import inject_adapter_in_model

    model.requires_grad_(False)
    # A generator of its own: the same adapters beside a new model and one from a checkpoint.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        inject_adapter_in_model(_peft_config(spec, config), model)
    model.get_submodule(spec.family.head).requires_grad_(True)
    return model


def merged(weights: dict[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    """The plain model of an adapted one, in fp32: in 16 bits small changes would be rounded away.

    Args:
        weights: by published name, adapters included.
        scale: alpha / rank.
    """
    found = {}
    for name, tensor in weights.items():
        if _ADAPTER.fullmatch(name):
            continue
        tensor = tensor.float()
        if name.endswith(f"{_BASE}weight"):
            layer = name.removesuffix(f"{_BASE}weight")
            down, up = (weights[f"{layer}.lora_{x}.default.weight"].float() for x in "AB")
            tensor = tensor + (up @ down) * scale
        found[name.replace(_BASE, ".")] = tensor
    return found


def save_adapter(
    folder: Path, spec: ModelSpec, config: TrainConfig, weights: dict[str, torch.Tensor]
) -> None:
    """Write adapters and classifier as ``peft.PeftModel.from_pretrained(model, folder)`` reads it.

    Args:
        folder: created if missing.
        spec: the model that they belong to.
        config: of the run.
        weights: by published name, adapters included.
    """
    from safetensors.torch import save_file

    row, found = spec.family, {}
    # What `peft` reads has the names of modules.
    modules = {row.published(n): n for n, _ in blueprint(spec, spec.image_size).named_parameters()}
    for name, tensor in weights.items():
        if match := _ADAPTER.fullmatch(name):
            layer = modules[f"{match[1]}.weight"].removesuffix(".weight")
            found[f"base_model.model.{layer}.{match[2]}.weight"] = tensor.float().contiguous()
        elif row.is_head(name):
            found[f"base_model.model.{name}"] = tensor.float().contiguous()
    settings = _peft_config(spec, config)
    # Not when adapters are put in: `peft` would train a copy of the classifier beside the first.
    settings.modules_to_save = [row.head]
    settings.base_model_name_or_path, settings.inference_mode = config.model, True
    with filling(folder) as unfinished:
        settings.save_pretrained(str(unfinished))
        save_file(found, unfinished / "adapter_model.safetensors", metadata={"format": "pt"})
        make_readable(unfinished, like="adapter_config.json")


def target_layers(row: Family) -> str:
    """A pattern of the whole names of the modules that get adapters."""
    blocks = re.escape(f"{row.backbone}.{row.blocks}").replace(r"\*", r"\d+")
    return rf"{blocks}\.\d+\.({'|'.join(map(re.escape, row.adapted))})"


def _peft_config(spec: ModelSpec, config: TrainConfig) -> LoraConfig:
    from peft import LoraConfig

    alpha: Any = config.lora_alpha or config.lora_rank  # `peft` declares whole ones, takes others
    return LoraConfig(
        r=config.lora_rank or 0, lora_alpha=alpha, target_modules=target_layers(spec.family)
    )
