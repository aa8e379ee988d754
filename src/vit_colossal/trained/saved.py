"""A trained model, wherever it lies: a Hugging Face directory, a run, or one of its checkpoints.

None of them needs ColossalAI or a process group: a checkpoint holds whole tensors by name.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vit_colossal.checkpoints.files import MANIFEST
from vit_colossal.errors import ModelError
from vit_colossal.model.adapters import merged
from vit_colossal.model.pretrained import load_pretrained
from vit_colossal.model.untrained import build_untrained
from vit_colossal.model.weights_fit import check_weights
from vit_colossal.plan import run_folder
from vit_colossal.plan.model_spec import PRESETS, ModelSpec, read_labels, read_spec
from vit_colossal.rundir.data_record import has_data_record, read_data_record
from vit_colossal.rundir.finished import has_gone_on, read_run_config
from vit_colossal.rundir.seal import changes_since

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from vit_colossal.plan.checkpoint import Checkpoint

logger = logging.getLogger("vit_colossal")


@dataclass(frozen=True)
class SavedModel:
    """Where a model's parts are.

    Attributes:
        spec: its shape; ``spec.name`` has the configuration and the image processor.
        labels: label names, in the order of the outputs.
        checkpoint: the folder with its weights; None is ``spec.name``.
        step: optimizer steps of that checkpoint.
        averaged: it is evaluated with the moving average of its weights.
        lora_scale: of a checkpoint with adapters, what their product is multiplied by; else 0.
        run_dir: the run that made it, where that is known.
        manifest: SHA-256 of the checkpoint's manifest.
    """

    spec: ModelSpec
    labels: tuple[str, ...]
    checkpoint: Path | None = None
    step: int | None = None
    averaged: bool = False
    lora_scale: float = 0.0
    run_dir: Path | None = None
    manifest: str = ""

    def __str__(self) -> str:
        return str(self.checkpoint or self.spec.name)


def locate(name: str, checkpoint: str | None = None) -> SavedModel:
    """Find a model by what a person calls it; no weights are loaded yet.

    Args:
        name: a model directory, a run directory, the folder of a checkpoint, or a hub name.
        checkpoint: of a run: ``last``, ``best``, or a checkpoint's path; None is its final model.

    Raises:
        ConfigError: nothing usable is there, or the checkpoint is damaged.
    """
    path = Path(name).expanduser()
    try:
        if (path / run_folder.CONFIG).is_file():
            return _of_run(path, checkpoint)
        if checkpoint is not None:
            raise ModelError([f"--checkpoint {checkpoint}: {name} is no run: name a run directory"])
        if (path / MANIFEST).is_file():
            from vit_colossal.checkpoints.files import named

            return _of_checkpoint(named(path, name), path.resolve().parents[1])
        if name in PRESETS and not path.is_dir():
            raise ModelError([f"{name} is a preset without weights: name a trained model or a run"])
        beside = path.parent != Path() and path.parent.is_dir()
        if not path.exists() and (beside or name.startswith((".", "/", "~"))):
            raise ModelError([f"{name}: no such model, run or checkpoint"])
        if problem := _no_model(path):
            raise ModelError([problem])
        return _of_directory(str(path) if path.exists() else name, _run_of(path))
    except ModelError as error:
        # There may be a positional argument behind it.
        raise ModelError([line.removeprefix("--model ") for line in error.problems]) from None


def _no_model(path: Path) -> str:
    """What a person named instead of a model or a run, and what to name; empty for a folder."""
    if path.is_file():
        return f"{path} is a file: name the folder of the model, or the run"
    if not path.is_dir() or ((path / "config.json").is_file() and path.name != run_folder.BASE):
        return ""
    above = path.parent if path.name != ".." else path.resolve().parent
    if (above / run_folder.CONFIG).is_file():
        return f"{path} is a part of a run: name the run, {above}"
    runs = sorted(config.parent.name for config in path.glob(f"*/{run_folder.CONFIG}"))
    more = ", ..." if len(runs) > 5 else ""
    return f"{path} is a folder of runs: name one of {', '.join(runs[:5])}{more}" if runs else ""


def _run_of(path: Path) -> Path | None:
    """The run directory that a model directory lies in, also where a link leads to it."""
    if path.resolve().name != run_folder.MODEL:
        return None
    parents = (path.parent, path.resolve().parent)
    return next((run for run in parents if (run / run_folder.CONFIG).is_file()), None)


def _of_run(run_dir: Path, which: str | None) -> SavedModel:
    if which is not None:
        return _of_checkpoint(_find(run_dir, which), run_dir)
    if not (run_dir / run_folder.MODEL / "config.json").is_file():
        raise ModelError([_unfinished(run_dir)])
    if has_gone_on(run_dir):
        logger.warning(
            "%s has gone on since its model was saved: that of an earlier end is taken; "
            "--checkpoint last is newer",
            run_dir,
        )
    return _of_directory(str(run_dir / run_folder.MODEL), run_dir)


def _unfinished(run_dir: Path) -> str:
    """What is wrong with a run that has not ended, and what can be had of it."""
    if any((run_dir / run_folder.CHECKPOINTS).glob("step-*")):
        return f"{run_dir} has no model yet: add --checkpoint last, or finish the run"
    return f"{run_dir} has no model yet, and no checkpoint: start the run again"


def _of_directory(name: str, run_dir: Path | None) -> SavedModel:
    if run_dir is not None and (problems := changes_since(run_dir, run_folder.MODEL)):
        raise ModelError(problems)
    spec = read_spec(name, {})
    check_weights(spec)
    return SavedModel(spec, read_labels(name), run_dir=run_dir)


def _find(run_dir: Path, which: str) -> Checkpoint:
    from vit_colossal.checkpoints.files import in_run, named, newest_valid

    root = run_dir / run_folder.CHECKPOINTS
    if which == run_folder.LAST:
        found, skipped = newest_valid(root)
        for reason in skipped:
            logger.warning("skipped %s", reason)
        if found is None:
            raise ModelError([f"--checkpoint last: {root} has no valid checkpoint"])
        return found
    return named(in_run(root, which), f"--checkpoint {which}")


def _of_checkpoint(checkpoint: Checkpoint, run_dir: Path) -> SavedModel:
    """The shape and the processor are those that the run keeps beside its checkpoints."""
    spec = _spec_of_run(checkpoint, run_dir)
    saved, here = checkpoint.identity.get("model"), spec.identity()
    if not isinstance(saved, dict) or any(here.get(key) != value for key, value in saved.items()):
        raise ModelError([f"{checkpoint.path} is of another model than {spec.name}: {saved}"])
    labels = tuple(str(label) for label in checkpoint.identity.get("labels", ()))
    _refuse_another_run(checkpoint, run_dir)
    adapters = checkpoint.identity.get("lora") or {}
    return SavedModel(
        spec,
        labels,
        checkpoint=checkpoint.path,
        step=checkpoint.step,
        averaged=bool(checkpoint.identity.get("weight average")),
        lora_scale=float(adapters.get("scale", 0.0)),
        run_dir=run_dir,
        manifest=checkpoint.manifest,
    )


def _spec_of_run(checkpoint: Checkpoint, run_dir: Path) -> ModelSpec:
    base, model = run_dir / run_folder.BASE, run_dir / run_folder.MODEL
    if not (run_dir / run_folder.CONFIG).is_file():
        raise ModelError([f"{checkpoint.path} lies in no run: its config.yaml is missing"])
    if (base / "config.json").is_file():
        return read_spec(str(base), {}, weights=False)
    # What follows is a run of an earlier version.
    if (model / "config.json").is_file():
        return read_spec(str(model), {})
    config = read_run_config(run_dir)
    try:
        return read_spec(config.model or "", config.model_overrides)
    except ModelError as error:
        missing = f"{run_dir} has no {run_folder.BASE}/, as earlier versions wrote none, and"
        raise ModelError([f"{missing} {line}" for line in error.problems]) from None


def _refuse_another_run(checkpoint: Checkpoint, run_dir: Path) -> None:
    """Raise ModelError for a checkpoint that was brought here from elsewhere."""
    if not has_data_record(run_dir):
        return
    from vit_colossal.checkpoints.files import differences

    record = read_data_record(run_dir)
    own = {"labels": list(record.labels), "data": record.fingerprint}
    wrong = differences(checkpoint.identity, own)
    if wrong:
        raise ModelError(
            [f"{checkpoint.path} belongs to another run than {run_dir}: {line}" for line in wrong]
        )


def load_model(saved: SavedModel) -> PreTrainedModel:
    """The model with its weights: fp32, on the CPU, in evaluation mode.

    Raises:
        ModelError: weights are missing, of other shapes, or unreadable.
    """
    if saved.checkpoint is not None:
        return _from_checkpoint(saved, saved.checkpoint)
    model, missing = load_pretrained(saved.spec, saved.labels, None, str(saved))
    if missing:
        # transformers would make these up and carry on.
        raise ModelError(
            [f"{saved}: no trained classifier: it has no weights for {', '.join(missing[:4])}"]
        )
    return model.eval()


def _from_checkpoint(saved: SavedModel, path: Path) -> PreTrainedModel:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from vit_colossal.checkpoints.files import AVERAGE

    model = build_untrained(saved.spec, saved.labels)
    try:
        weights = load_file(path / "weights.safetensors")
        if saved.averaged:  # of all but the frozen ones
            weights |= load_file(path / AVERAGE)
        if saved.lora_scale:
            weights = merged(weights, saved.lora_scale)
        modules = {saved.spec.family.published(name): name for name in model.state_dict()}
        model.load_state_dict({modules.get(name, name): w for name, w in weights.items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError([f"{path}: its weights are not this model's: {reason}"]) from None
    return model.eval()
