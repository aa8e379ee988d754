"""Fine-tune Vision Transformers with any ColossalAI plugin on any number of processes.

>>> from vit_colossal import TrainConfig, train
>>> result = train(TrainConfig(dataset="digits", model="vit-micro", epochs=2))
>>> print(result.evaluation, result.model_dir)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vit_colossal.config.reading import TrainConfig, load_config
    from vit_colossal.errors import ConfigError, UserError
    from vit_colossal.trained.predict import Prediction, PredictResult, predict
    from vit_colossal.training.run import train
    from vit_colossal.trained.evaluate import evaluate
    from vit_colossal.evaluation.scores import Evaluation
    from vit_colossal.training.job import TrainResult

__version__ = "0.1.0"

#: Where each public name lives; imported on first use, for torch and ColossalAI take seconds.
_PUBLIC = {
    "ConfigError": "errors",
    "Evaluation": "scores",
    "PredictResult": "predictor",
    "Prediction": "predictor",
    "TrainConfig": "config",
    "TrainResult": "trainer",
    "UserError": "errors",
    "evaluate": "run_evaluation",
    "load_config": "config",
    "predict": "predictor",
    "train": "run",
}

__all__ = [
    "ConfigError",
    "Evaluation",
    "PredictResult",
    "Prediction",
    "TrainConfig",
    "TrainResult",
    "UserError",
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
