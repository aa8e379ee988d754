"""What is known of each optimizer before any framework is imported."""

from __future__ import annotations

from dataclasses import dataclass

from vit_colossal.config.train_config import TrainConfig


@dataclass(frozen=True)
class OptimizerFacts:
    """What an optimizer is called, keeps, and is set by.

    Attributes:
        title: for people.
        moments: what it keeps of each weight, fp32, by PyTorch's names.
        settings: of it alone, by their names in the configuration.
    """

    title: str
    moments: tuple[str, ...]
    settings: tuple[str, ...]


OPTIMIZERS = {
    "adamw": OptimizerFacts(
        "AdamW",
        ("exp_avg", "exp_avg_sq"),
        ("adam_beta1", "adam_beta2", "adam_eps"),
    ),
    "sgd": OptimizerFacts("SGD", ("momentum_buffer",), ("momentum",)),
}


def moments_of(config: TrainConfig) -> tuple[str, ...]:
    """What the configured optimizer keeps, as in ``OptimizerFacts.moments``."""
    if config.optimizer == "sgd" and not config.momentum:
        return ()
    return OPTIMIZERS[config.optimizer].moments
