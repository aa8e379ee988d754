"""One line of a comparison: a run, what it is compared with, and whether it may differ so much."""

from __future__ import annotations

from dataclasses import dataclass, field

from vit_colossal.parity.references import Tolerance
from vit_colossal.parity.trace import Difference, Trace, compare, first_beyond


@dataclass
class Row:
    """One line of the report."""

    name: str
    precision: str
    clip: float
    processes: int
    difference: Difference | None = None
    tolerance: Tolerance | None = None
    accuracy: str = ""
    problems: list[str] = field(default_factory=list)
    trace: Trace | None = None
    reference: Trace | None = None

    @property
    def passed(self) -> bool:
        return self.difference is not None and not self.problems

    def judge(self, trace: Trace, reference: Trace, tolerance: Tolerance) -> None:
        """Compare a trace with what it should be, and note what is beyond the tolerance."""
        self.trace, self.reference, self.tolerance = trace, reference, tolerance
        self.difference = compare(trace, reference)
        self.accuracy = f"{trace.correct}/{trace.total}"
        self.problems += _problems(trace, reference, self.difference, tolerance)


def _problems(
    trace: Trace, reference: Trace, difference: Difference, tolerance: Tolerance
) -> list[str]:
    problems = []
    step = first_beyond(trace.losses, reference.losses, tolerance.loss)
    if step is not None:
        problems.append(
            f"loss differs from step {step}: {trace.losses[step - 1]:.9g} against "
            f"{reference.losses[step - 1]:.9g}"
        )
    if difference.grad_norm is not None and difference.grad_norm > tolerance.grad_norm:
        step = first_beyond(trace.grad_norms, reference.grad_norms, tolerance.grad_norm)
        problems.append(f"gradient norm differs from step {step}: {difference.grad_norm:.1e}")
    if difference.lr > 1e-12:
        problems.append(f"learning rate differs by {difference.lr:.1e}")
    if difference.weights > tolerance.weights:
        problems.append(f"weights differ by {difference.weights:.1e} (L2, relative)")
    if abs(difference.correct) > tolerance.correct:
        problems.append(f"accuracy differs by {difference.correct:+d} images")
    return problems
