"""The reference for any family: transformers' model and processor in a plain single-process loop.

Shares with the package the order of the samples alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import peft
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    PreTrainedModel,
)
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.pytorch_utils import ALL_LAYERNORM_LAYERS
from transformers.trainer_pt_utils import get_parameter_names

from vit_colossal.data.order import epoch_order

#: The second epoch, of 12 steps each, is entered.
STEPS, BATCH, LR, DECAY, SEED, CLIP = 20, 16, 1e-3, 0.1, 42, 0.5


@dataclass(frozen=True)
class Images:
    """Normalized pixels fp32 [N, C, H, W] and labels int64 [N]."""

    pixels: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class Run:
    """Losses and gradient norms of each step, the last weights by published name, and how many of
    the evaluation images are labelled right."""

    losses: list[float]
    norms: list[float]
    weights: dict[str, torch.Tensor]
    correct: int


def read_split(dataset: Path, split: str, model: Path) -> Images:
    """A split as the model's own processor prepares it."""
    file = str(dataset / f"{split}.parquet")
    rows = datasets.load_dataset("parquet", data_files={split: file})[split]
    processor = AutoImageProcessor.from_pretrained(model, backend="pil")
    mode = "L" if len(processor.image_mean) == 1 else "RGB"
    found = [
        processor(
            image.convert(mode), do_rescale=False, do_normalize=False, return_tensors="np"
        ).pixel_values[0]
        for image in rows["image"]
    ]
    # Normalized here, in fp32: in NumPy it rounds otherwise.
    mean, std = (
        torch.tensor(values)[:, None, None]
        for values in (processor.image_mean, processor.image_std)
    )
    pixels = torch.from_numpy(np.stack(found)).float()
    return Images((pixels / 255 - mean) / std, torch.tensor(rows["label"]))


class Headed(torch.nn.Module):
    """A linear layer on transformers' DINOv3, as docs/models.md shows; nothing is drawn."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        off = {"drop_path_rate": 0.0, "pos_embed_rescale": None}
        self.backbone = AutoModel.from_pretrained(folder, **off)
        weights = load_file(folder / "model.safetensors")
        self.classifier = torch.nn.Linear(*reversed(weights["classifier.weight"].shape))
        kinds = ("weight", "bias")
        self.classifier.load_state_dict({kind: weights[f"classifier.{kind}"] for kind in kinds})

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None
    ) -> ImageClassifierOutput:
        tokens = self.backbone(pixel_values).last_hidden_state
        patches = tokens[:, 1 + self.backbone.config.num_register_tokens :]
        features = torch.cat([tokens[:, 0], patches.mean(dim=1)], dim=1)
        logits = self.classifier(features)
        loss = None if labels is None else torch.nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)


def load(folder: Path, rank: int = 0) -> PreTrainedModel | Headed:
    """The plain model, without dropped paths; with a rank as `peft` adapts it."""
    if AutoConfig.from_pretrained(folder).model_type == "dinov3_vit":
        model = Headed(folder)
    else:
        model = AutoModelForImageClassification.from_pretrained(folder)
        changed = {"drop_path_rate": 0.0} if hasattr(model.config, "drop_path_rate") else {}
        model = AutoModelForImageClassification.from_pretrained(folder, **changed)
    model.train()
    if not rank:
        return model
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    # What lies in no block: also SigLIP's pooling head, and what joins the stages of a Swin.
    outside = ("classifier", "vision_model.head.", ".downsample.")
    adapted = [name for name in linear if not any(part in name for part in outside)]
    torch.manual_seed(SEED)
    settings = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=adapted, modules_to_save=["classifier"]
    )
    return peft.get_peft_model(model, settings)


def train(
    folder: Path, data: Images, evaluation: Images, *, bf16: bool, parts: int = 1, rank: int = 0
) -> Run:
    """AdamW with warm-up and cosine, clipped.

    Args:
        folder: the model.
        data: what is trained on.
        evaluation: what is counted at the end.
        bf16: 16-bit weights that follow fp32 masters.
        parts: in how many parts the gradients of a batch are summed.
        rank: of the adapters that are trained with the classifier; 0 trains all.
    """
    master = working = load(folder, rank)
    if bf16:
        working = load(folder, rank).to(torch.bfloat16)
        master.load_state_dict(working.state_dict())
    optimizer = torch.optim.AdamW(_groups(master), lr=LR)
    losses, norms = [], []
    for step, rows in enumerate(_batches(len(data.labels))):
        working.zero_grad()
        losses.append(_accumulate(working, data.pixels[rows], data.labels[rows], parts))
        if bf16:
            for ours, theirs in zip(master.parameters(), working.parameters(), strict=True):
                ours.grad = None if theirs.grad is None else theirs.grad.float()
        norms.append(float(torch.nn.utils.clip_grad_norm_(master.parameters(), CLIP)))
        for group in optimizer.param_groups:
            group["lr"] = LR * _factor(step)
        optimizer.step()
        if bf16:
            with torch.no_grad():
                for ours, theirs in zip(master.parameters(), working.parameters(), strict=True):
                    theirs.copy_(ours)
    working.eval()
    if rank:
        working = working.merge_and_unload()
    with torch.no_grad():
        scores = working(pixel_values=evaluation.pixels.to(working.dtype)).logits
    correct = int((scores.argmax(dim=1) == evaluation.labels).sum())
    return Run(losses, norms, _published(working), correct)


def _published(model: PreTrainedModel | Headed) -> dict[str, torch.Tensor]:
    """The weights by the names that transformers writes."""
    if isinstance(model, Headed):
        return _published(model.backbone) | model.classifier.state_dict(prefix="classifier.")
    found: dict[str, torch.Tensor] = revert_weight_conversion(model, model.state_dict())
    return found


def _groups(model: torch.nn.Module) -> list[dict[str, object]]:
    decayed = get_parameter_names(model, ALL_LAYERNORM_LAYERS, ["bias", "layernorm", "rmsnorm"])
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    return [
        {"params": [p for n, p in named if (n in decayed) == yes], "weight_decay": DECAY * yes}
        for yes in (True, False)
    ]


def _batches(count: int) -> list[torch.Tensor]:
    """The last one of an epoch is smaller."""
    batches: list[torch.Tensor] = []
    while len(batches) < STEPS:
        epoch = len(batches) // math.ceil(count / BATCH)
        batches += epoch_order(count, SEED, epoch).split(BATCH)
    return batches[:STEPS]


def _factor(step: int) -> float:
    warmup = math.ceil(0.1 * STEPS)
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (STEPS - warmup)))


def _accumulate(
    model: PreTrainedModel | Headed, pixels: torch.Tensor, labels: torch.Tensor, parts: int
) -> float:
    total = 0.0
    for images, right in zip(pixels.chunk(parts), labels.chunk(parts), strict=True):
        logits = model(pixel_values=images.to(model.dtype)).logits
        loss = cross_entropy(logits.float(), right, reduction="sum") / len(labels)
        loss.backward()
        total += loss.item()
    return total
