"""What parity compares: its flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, FiniteFloat, field_validator

from vit_colossal.config.train_config import TrainConfig
from vit_colossal.errors import ConfigError

#: On several processes Trainer fills the last batch with the epoch's first images.
AS_PEERS = {"last_batch": "drop"}
#: Other trainers that run the same job.
TRANSFORMERS, NNSCALER = "transformers", "nnscaler"
NO_PEERS = "none"


class ParityConfig(TrainConfig):
    """Compare every layout, a plain PyTorch loop and other trainers step by step."""

    layouts: str = "all"
    """Comma-separated layout names (ddp, zero1, hybrid tp2, ...), or all that fit --nproc."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where all of them train, the plain loop too: cuda takes one device for each process."""
    peers: str = TRANSFORMERS
    """Trainers that run the job too, alone and data-parallel: transformers, nnscaler or both with a
    comma between them; none."""
    nnscaler_python: Path | None = None
    """For --peers nnscaler: the Python of an environment with nnScaler in it."""
    clip_too: FiniteFloat = Field(1.0, ge=0)
    """Repeat the fp32 rows with the gradient norm clipped to this value; 0 leaves them out."""

    @field_validator("peers")
    @classmethod
    def _known(cls, value: str) -> str:
        unknown = set(_names(value)) - {TRANSFORMERS, NNSCALER}
        if unknown and value != NO_PEERS:
            raise ValueError(f"take {TRANSFORMERS}, {NNSCALER}, or {NO_PEERS}")
        return value

    def has_peer(self, name: str) -> bool:
        """Whether this trainer runs the job too."""
        return name in _names(self.peers)

    @property
    def clips(self) -> list[float]:
        """The gradient norms that the fp32 rows are clipped to; 0 is off."""
        too = [self.clip_too] if self.clip_too and self.clip_grad_norm == 0 else []
        return [self.clip_grad_norm, *too]

    def job(self, **changes: Any) -> TrainConfig:
        """The training that all subjects run."""
        own = set(ParityConfig.model_fields) - set(TrainConfig.model_fields)
        values = {key: value for key, value in dict(self).items() if key not in own}
        if self.batch_size is not None:
            # It would be another global batch for each number of replicas.
            raise ConfigError(["--batch-size: parity compares one batch: use --global-batch-size"])
        if self.order is not None:
            raise ConfigError(["--order: parity compares all subjects in its own order: drop it"])
        defaults: dict[str, Any] = {"nproc": None, "output_dir": None}
        if self.peers != NO_PEERS and self.last_batch is None:
            defaults |= AS_PEERS
        # All subjects train the whole model on plain images, but where something else is asked for.
        unasked = {"freeze": "none", "random_resized_crop": False}
        defaults |= {name: value for name, value in unasked.items() if values[name] is None}
        if self.max_steps is None and self.epochs is None:
            defaults["max_steps"] = 50
        if self.global_batch_size is None:
            defaults["global_batch_size"] = 16
        return TrainConfig.model_validate({**values, **defaults, **changes})


def _names(peers: str) -> list[str]:
    return [name.strip() for name in peers.split(",")]
