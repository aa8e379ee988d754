"""What a run says in the end: how good the model is, which weights it has, what to do next."""

from __future__ import annotations

from pathlib import Path

from vit_colossal.evaluation.certainty import interval, majority_baseline
from vit_colossal.evaluation.scores import Evaluation
from vit_colossal.plan import run_folder
from vit_colossal.text import in_command, printable, shown
from vit_colossal.training.loop import Loop
from vit_colossal.training.weak import weakness


def closing_lines(loop: Loop, evaluation: Evaluation, run_dir: Path, model_dir: Path) -> list[str]:
    """The last lines of a run.

    Args:
        loop: that trained.
        evaluation: of the weights that were saved.
        run_dir: the run directory.
        model_dir: where the weights were saved.
    """
    low, high = interval(evaluation.correct, evaluation.total)
    baseline = majority_baseline(evaluation.confusion, evaluation.labels)
    label = printable(shown(baseline.label))
    lines = [
        str(evaluation),
        f"95 % interval {low:.4f} to {high:.4f}; always answering {label!r} is right for "
        f"{baseline.correct}/{evaluation.total}",
    ]
    if not baseline.is_beaten:
        meaning = "the model is of no use yet"
        if not baseline.can_be_beaten:
            meaning = (
                f"{evaluation.total} images are too few to tell; evaluate on more (--val-split)"
            )
        lines.append(
            f"warning: this is not significantly better than always answering {label!r} (exact "
            f"McNemar test, p = {baseline.p_value:.2g}): {meaning}"
        )
    data = loop.job.data
    weak = weakness(loop.job.plan, data.name, len(data.train))
    lines += [weak] if weak else []
    lines += [f"model saved to {model_dir}", _weights(loop, evaluation, run_dir)]
    lines.append(f"curves, confusions and mistakes: vit-colossal report {in_command(run_dir)}")
    return lines


def _weights(loop: Loop, evaluation: Evaluation, run_dir: Path) -> str:
    """Which weights the model has, and where better ones are."""
    average = "the average of the weights" if loop.config.ema is not None else "the weights"
    if loop.model_step != loop.step:
        return f"it has {average} of the best evaluation, after step {loop.model_step}"
    line = f"it has {average} of the last step, {loop.step}"
    if loop.best <= evaluation.accuracy:
        return line
    best = run_dir / run_folder.CHECKPOINTS / run_folder.BEST
    if not best.exists():
        return f"{line}; the best accuracy, {loop.best:.4f}, is of weights that were not kept"
    return (
        f"{line}; the best accuracy was {loop.best:.4f}: vit-colossal export "
        f"{in_command(run_dir)} DIRECTORY --checkpoint best, or train with --save-best-model"
    )
