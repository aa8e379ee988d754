"""The README.md beside a model: what was measured, how it was made, and how to load it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from vit_colossal.data.sources.source import ALIASES
from vit_colossal.durable import write_durably
from vit_colossal.errors import ConfigError
from vit_colossal.plan import run_folder
from vit_colossal.plan.channels import MODES
from vit_colossal.plan.model_spec import PRESETS
from vit_colossal.rundir.finished import FinishedRun, read_run
from vit_colossal.text import counted
from vit_colossal.trained.saved import SavedModel, locate

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

logger = logging.getLogger("vit_colossal")

_MAX_LABELS = 50
_HERE = "path/to/this/directory"

_USE = """## Use

```python
{code}
```

or, with vit_colossal: `vit-colossal predict {name} photo.jpg`
"""

_PIPELINE = """from transformers import pipeline

classify = pipeline("image-classification", model="{name}")
print(classify("photo.jpg"))"""

#: For images that are not RGB, which transformers' pipeline makes of all.
_WITHOUT_PIPELINE = """from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

processor = AutoImageProcessor.from_pretrained("{name}", backend="pil")
model = AutoModelForImageClassification.from_pretrained("{name}")
image = Image.open("photo.jpg").convert("{mode}")
scores = model(**processor(image, return_tensors="pt")).logits[0]
print(model.config.id2label[int(scores.argmax())])"""

#: Where transformers has the backbone alone, and what reads both tokens and patches is a product.
_BACKBONE = """# transformers has the backbone of this model, and no class for the classifier on it.
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModel
from transformers.utils import cached_file

name = "{name}"
processor = AutoImageProcessor.from_pretrained(name, backend="pil")
backbone = AutoModel.from_pretrained(name).eval()
head = load_file(cached_file(name, "model.safetensors"))

inputs = processor(Image.open("photo.jpg").convert("{mode}"), return_tensors="pt")
with torch.inference_mode():
    tokens = backbone(**inputs).last_hidden_state
    patches = tokens[:, 1 + backbone.config.num_register_tokens :]
    features = torch.cat([tokens[:, 0], patches.mean(dim=1)], dim=1)
    logits = features @ head["classifier.weight"].T + head["classifier.bias"]
print(backbone.config.id2label[int(logits.argmax())])"""


def model_card(saved: SavedModel, name: str | None = None) -> str:
    """A model card in Markdown, with the metadata that hubs read in front.

    Numbers appear only where a run's own record has them: the accuracy is that of the evaluation
    after the step whose weights these are, with the counts. Local paths are left out.

    Args:
        saved: the model; its run, where known, is read.
        name: the repository that a reader will load it from; None is a directory.
    """
    run, reason = _read(saved)
    sections = [f"---\n{_metadata(saved, run, name)}---\n", f"# {_title(saved, run)}\n"]
    sections += [_result(run, reason), _labels(saved), _use(saved, name or _HERE)]
    if run is not None:
        sections += [_training(saved, run), _environment(run)]
    return "\n".join(sections)


def _read(saved: SavedModel) -> tuple[FinishedRun | None, str]:
    """The run as it stood when these weights were saved, or why there is none."""
    if saved.run_dir is None:
        return None, "the model came without the record of a run"
    try:
        return read_run(saved.run_dir, saved.step), ""
    except ConfigError:
        at = "" if saved.step is None else f" after step {saved.step}"
        return None, f"the record of the run has no evaluation{at}"


def _hub_name(name: str) -> str | None:
    """The name of a repository on a hub; None for what only this machine knows."""
    name = ALIASES.get(name, name)
    is_repository = name.count("/") == 1 and not name.startswith((".", "/", "~"))
    return name if is_repository and not Path(name).exists() else None


def _public(name: str) -> str:
    """A name without the folders it lies in: those are nobody else's business."""
    return _hub_name(name) or Path(name).name


def _metadata(saved: SavedModel, run: FinishedRun | None, name: str | None) -> str:
    from huggingface_hub import EvalResult

    data = _card_data(saved)
    if run is not None:
        dataset, base = _hub_name(run.subject.dataset), _hub_name(run.subject.model)
        data.datasets = [dataset] if dataset else None
        data.base_model = base
        data.model_name = name.rpartition("/")[2] if name else _title(saved, run)
        result = run.result
        data.eval_results = [
            EvalResult(
                task_type="image-classification",
                dataset_type=dataset or _public(run.subject.dataset),
                dataset_name=_public(run.subject.dataset),
                dataset_split=run.subject.split,
                metric_type="accuracy",
                metric_name=f"accuracy ({result.correct}/{result.total})",
                metric_value=round(result.correct / result.total, 6),
            )
        ]
    return str(data.to_yaml()) + "\n"


def _card_data(saved: SavedModel) -> ModelCardData:
    from huggingface_hub import ModelCardData

    return ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["vision", saved.spec.model_type, "colossalai", "vit_colossal"],
        metrics=["accuracy"],
    )


def _title(saved: SavedModel, run: FinishedRun | None) -> str:
    if run is None:
        return f"{saved.spec.family.title} for {len(saved.labels)} labels"
    return f"{_public(run.subject.model)} on {_public(run.subject.dataset)}"


def _result(run: FinishedRun | None, reason: str) -> str:
    if run is None:
        return f"## Result\n\nThe accuracy was not measured: {reason}.\n"
    result = run.result
    return (
        f"## Result\n\naccuracy **{result.correct / result.total:.4f}** "
        f"({result.correct}/{result.total}) on the split {_code(run.subject.split)} of "
        f"{_public(run.subject.dataset)}, every image counted once.\n"
    )


def _labels(saved: SavedModel) -> str:
    shown = ", ".join(_code(label) for label in saved.labels[:_MAX_LABELS])
    rest = len(saved.labels) - _MAX_LABELS
    more = f" and {rest} more" if rest > 0 else ""
    return f"## Labels\n\n{len(saved.labels)}: {shown}{more}\n"


def _use(saved: SavedModel, name: str) -> str:
    mode = MODES[saved.spec.shape.channels]
    code = _PIPELINE if mode == "RGB" else _WITHOUT_PIPELINE
    code = code if saved.spec.family.in_transformers else _BACKBONE
    return _USE.replace("{code}", code).replace("{mode}", mode).replace("{name}", name)


def _training(saved: SavedModel, run: FinishedRun) -> str:
    subject, layout = run.subject, run.layout
    origin = "trained from scratch" if subject.model in PRESETS else "fine-tuned"
    replicas = layout.processes // (layout.tp * layout.pp)
    degrees = f"dp {replicas} x pp {layout.pp} x tp {layout.tp}"
    zero = f", ZeRO-{layout.zero}" if layout.zero else ""
    processes = counted(layout.processes, "process", "processes")
    rows = {
        "model": f"{_public(subject.model)}, {origin}",
        "data set": f"{_public(subject.dataset)}, split {subject.train_split}",
        "data fingerprint": f"SHA-256 {subject.fingerprint}",
        "strategy": f"{layout.plugin} on {processes} ({degrees}{zero})",
        "seed": str(run.result.seed),
        **{key.replace("_", " "): str(value) for key, value in run.settings.items()},
    }
    if run.turns:
        rows["changed on the way"] = "; ".join(run.turns)
    if saved.step is not None:
        kind = "moving average of the weights, fp32," if saved.averaged else "fp32 master weights"
        rows["weights"] = f"{kind} after step {saved.step}"
    return "## Training\n\n" + _table(rows)


def _environment(run: FinishedRun) -> str:
    rows = dict(run.versions)
    if run.commit:
        rows["commit"] = run.commit
    if run.device:
        rows["device"] = run.device
    return "## Environment\n\n" + _table(rows)


def _table(rows: dict[str, str]) -> str:
    lines = [f"| {key} | {_cell(value)} |" for key, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines]) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _code(text: str) -> str:
    return "`" + " ".join(text.split()).replace("`", "'") + "`"


def write_card(run_dir: Path) -> None:
    """README.md into the ``model`` folder of a run that has just ended."""
    try:
        card = model_card(locate(str(run_dir)))
        write_durably(run_dir / run_folder.MODEL / "README.md", card)
    except (OSError, ConfigError) as error:
        # The run is complete without it.
        logger.warning("no model card: %s", error)
