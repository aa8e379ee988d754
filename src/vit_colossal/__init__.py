"""Fine-tune Vision Transformers with any ColossalAI plugin on any number of processes.

>>> from vit_colossal import TrainConfig, train
>>> result = train(TrainConfig(dataset="digits", model="vit-micro", epochs=2))
>>> print(result.evaluation, result.model_dir)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vit_colossal.version import __version__

if TYPE_CHECKING:
    from vit_colossal.config.train_config import TrainConfig
    from vit_colossal.errors import ConfigError, UserError
    from vit_colossal.evaluation.scores import Evaluation
    from vit_colossal.plan.own_file import load_config
    from vit_colossal.trained.evaluate import evaluate
    from vit_colossal.trained.predict import Prediction, PredictResult, predict
    from vit_colossal.training.fit import TrainResult
    from vit_colossal.training.run import train

#: Where each public name lives; imported on first use, for torch and ColossalAI take seconds.
_PUBLIC = {
    "ConfigError": "errors",
    "Evaluation": "evaluation.scores",
    "PredictResult": "trained.predict",
    "Prediction": "trained.predict",
    "TrainConfig": "config.train_config",
    "TrainResult": "training.fit",
    "UserError": "errors",
    "evaluate": "trained.evaluate",
    "load_config": "plan.own_file",
    "predict": "trained.predict",
    "train": "training.run",
}

__all__ = [
    "ConfigError",
    "Evaluation",
    "PredictResult",
    "Prediction",
    "TrainConfig",
    "TrainResult",
    "UserError",
    "__version__",
    "evaluate",
    "load_config",
    "predict",
    "train",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
