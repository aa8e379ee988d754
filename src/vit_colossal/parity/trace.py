"""What a training run did, step by step, on disk; and how two of them differ.

Losses and norms are kept unrounded: JSON writes a double so that it reads back bit for bit.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from vit_colossal.families.table import KEY_BIASES

_STEPS, _WEIGHTS = "trace.json", "weights.safetensors"


@dataclass(frozen=True)
class Trace:
    """One run.

    Attributes:
        losses: mean loss over the global batch, per step.
        grad_norms: global gradient norm before clipping, per step; empty where unknown.
        lrs: learning rate of each step.
        correct, total: exact evaluation after the last step.
        weights: final weights by parameter name, fp32, full shapes.
    """

    losses: list[float]
    grad_norms: list[float]
    lrs: list[float]
    correct: int
    total: int
    weights: dict[str, torch.Tensor]

    def save(self, directory: Path) -> None:
        """Write ``trace.json`` and ``weights.safetensors``; the JSON last, as proof of the rest."""
        directory.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.contiguous() for name, tensor in self.weights.items()}
        save_file(weights, directory / _WEIGHTS)
        values = {key: value for key, value in vars(self).items() if key != "weights"}
        (directory / _STEPS).write_text(json.dumps(values), encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> Trace:
        values = json.loads((directory / _STEPS).read_text(encoding="utf-8"))
        return cls(**values, weights=load_file(directory / _WEIGHTS))


def has_trace(directory: Path) -> bool:
    """Whether a whole trace is there."""
    return (directory / _STEPS).exists()


def remove_trace(directory: Path) -> None:
    """Of an earlier comparison in the same folder, which would pass for one of this."""
    (directory / _STEPS).unlink(missing_ok=True)


@dataclass(frozen=True)
class Difference:
    """How far one trace is from another.

    Attributes:
        loss: largest relative difference of a step's loss.
        loss_absolute: largest difference of a step's loss.
        grad_norm: largest relative difference of a step's gradient norm; None where unknown.
        lr: largest relative difference of a step's learning rate.
        weights: largest relative L2 difference of a tensor, key biases apart.
        weights_in_lr: largest difference of one weight in units of the peak learning rate.
        key_bias_in_lr: the same for the key biases.
        correct: difference of correctly classified images.
        identical_steps: steps whose loss is equal bit for bit, of ``steps``.
    """

    loss: float
    loss_absolute: float
    grad_norm: float | None
    lr: float
    weights: float
    weights_in_lr: float
    key_bias_in_lr: float
    correct: int
    identical_steps: int
    steps: int

    def as_dict(self) -> dict[str, float | int | None]:
        return asdict(self)


def compare(trace: Trace, reference: Trace) -> Difference:
    """The differences of ``trace`` from ``reference``; both ran the same number of steps.

    Raises:
        ValueError: they are not runs of the same length or model.
    """
    if len(trace.losses) != len(reference.losses):
        raise ValueError(f"{len(trace.losses)} steps against {len(reference.losses)}")
    if trace.weights.keys() != reference.weights.keys():
        raise ValueError("the two runs trained different models")
    # Adam turns the rounding noise of their gradients, which are zero, into steps of full size.
    names = [name for name in reference.weights if not name.endswith(KEY_BIASES)]
    biases = [name for name in reference.weights if name.endswith(KEY_BIASES)]
    peak = max(reference.lrs) or 1.0
    norms = trace.grad_norms and reference.grad_norms
    return Difference(
        loss=max(relative_differences(trace.losses, reference.losses)),
        loss_absolute=max(
            (abs(a - b) for a, b in zip(trace.losses, reference.losses, strict=True)), default=0.0
        ),
        grad_norm=max(relative_differences(trace.grad_norms, reference.grad_norms))
        if norms
        else None,
        lr=max(relative_differences(trace.lrs, reference.lrs)),
        weights=max(_relative_l2(trace.weights[n], reference.weights[n]) for n in names),
        weights_in_lr=max(_largest(trace.weights[n], reference.weights[n]) for n in names) / peak,
        key_bias_in_lr=max(
            (_largest(trace.weights[n], reference.weights[n]) for n in biases), default=0.0
        )
        / peak,
        correct=trace.correct - reference.correct,
        identical_steps=sum(a == b for a, b in zip(trace.losses, reference.losses, strict=True)),
        steps=len(trace.losses),
    )


def relative_differences(values: list[float], reference: list[float]) -> list[float]:
    """|a - b| / |b| step by step; infinite where only b is zero, or either is not finite."""
    differences = []
    for value, expected in zip(values, reference, strict=True):
        if value == expected:
            differences.append(0.0)
            continue
        difference = abs(value - expected) / abs(expected) if expected else float("inf")
        differences.append(difference if difference == difference else float("inf"))
    return differences


def first_beyond(values: list[float], reference: list[float], tolerance: float) -> int | None:
    """The first step (from 1) whose relative difference exceeds ``tolerance``."""
    for step, difference in enumerate(relative_differences(values, reference), start=1):
        if difference > tolerance:
            return step
    return None


def _relative_l2(tensor: torch.Tensor, reference: torch.Tensor) -> float:
    a, b = tensor.double(), reference.double()
    return float((a - b).norm() / b.norm().clamp_min(1e-30))


def _largest(tensor: torch.Tensor, reference: torch.Tensor) -> float:
    return float((tensor.double() - reference.double()).abs().max())
