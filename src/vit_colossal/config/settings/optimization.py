"""Batches, schedule and optimizer."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, FiniteFloat

from vit_colossal.config.settings.base import Settings, alias

#: Shapes of the learning rate over the steps.
Schedule = Literal["cosine", "linear", "constant", "cosine-restarts", "constant-cooldown"]


class OptimizationSettings(Settings):
    """The recipe: none of these may change what another strategy would compute."""

    title: ClassVar[str] = "the recipe"

    global_batch_size: int | None = Field(None, ge=1)
    """Samples per optimizer step over all replicas. Default: as it fits the number of images; for
    digits 64, with a pretrained model 16."""
    batch_size: int | None = Field(None, ge=1)
    """Upstream's spelling: samples per data-parallel replica and step, in place of
    --global-batch-size."""
    num_microbatches: int | None = Field(None, ge=1)
    """Micro-batches of one replica's batch under a pipeline; default keeps the bubble under 12 %
    where the batch allows."""
    microbatch_size: int | None = Field(None, ge=1)
    """Samples per micro-batch, instead of --num-microbatches."""
    grad_accumulation: int = Field(1, ge=1)
    """Split each step's batch into this many sequential parts; the global batch stays the same."""
    epochs: int | None = alias("epochs", "num_epoch", "num_epochs", ge=1)
    """Passes over the training split. Default: as it fits the numbers of images and labels; for
    digits 20, with a pretrained model 3."""
    max_steps: int | None = Field(None, ge=1)
    """Stop after this many optimizer steps; the schedule spans them."""
    last_batch: Literal["train", "drop"] | None = None
    """What becomes of the images at the end of an epoch that fill no global batch: they train as a
    smaller one, each image counting alike, or sit out, others in each epoch. Default train; drop
    for the built-in digits, whose recorded results left them out."""
    sampler: Literal["shuffle", "balanced"] = "shuffle"
    """Each image once an epoch, in random order; or as many images drawn with replacement, each
    label as often as any other."""
    class_weights: Literal["none", "balanced"] = "none"
    """Weigh each image's loss by its label: images / (labels x images of the label), as
    scikit-learn's balanced does; training only."""
    lr: FiniteFloat | None = alias("lr", "learning_rate", ge=0)
    """Peak learning rate, never scaled. Default 2e-4 for a pretrained model, 3e-3 for its head
    alone, 1e-3 from scratch; an optimizer other than AdamW needs one of its own."""
    lr_schedule: Schedule = "cosine"
    """Shape after the warm-up. cosine-restarts starts --lr-cycles times from the peak;
    constant-cooldown falls evenly to 0 over the last --cooldown-ratio of the steps."""
    lr_cycles: int = Field(3, ge=1)
    """Cosines of --lr-schedule cosine-restarts."""
    cooldown_ratio: FiniteFloat = Field(0.2, gt=0, le=1)
    """Share of all steps with falling learning rate under --lr-schedule constant-cooldown."""
    warmup_ratio: FiniteFloat | None = Field(None, ge=0, lt=1)
    """Share of all steps with linearly rising learning rate; default 0.1, and 0 where the default
    is to train a head alone."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """What updates the weights; gemini has AdamW alone."""
    momentum: FiniteFloat = Field(0.9, ge=0, lt=1)
    """SGD's momentum."""
    weight_decay: FiniteFloat = Field(0.05, ge=0)
    """Weight decay: decoupled, but SGD adds it to the gradient."""
    decay_all: bool = False
    """One parameter group: decay biases and norms too (transformers leaves them out)."""
    adam_beta1: FiniteFloat = Field(0.9, ge=0, lt=1)
    """AdamW beta1."""
    adam_beta2: FiniteFloat = Field(0.999, ge=0, lt=1)
    """AdamW beta2."""
    adam_eps: FiniteFloat = Field(1e-8, gt=0)
    """AdamW epsilon."""
    clip_grad_norm: FiniteFloat = Field(0.0, ge=0)
    """Clip the global gradient norm to this value; 0 is off."""
    freeze: Literal["backbone", "none"] | None = None
    """Train the classifier alone, on the features of a fixed backbone (a linear probe), or all;
    default backbone for a pretrained model on a CPU, unless --lr or what is for all is given."""
    freeze_layers: int | None = Field(None, ge=0)
    """Keep the embeddings and the first N encoder layers as they are."""
    lora_rank: int | None = Field(None, ge=1)
    """Keep a pretrained model as it is, and train adapters of this rank beside the linear layers of
    every block (LoRA), and the classifier."""
    lora_alpha: FiniteFloat | None = Field(None, gt=0)
    """The adapters count alpha / rank times; default the rank."""
    layer_decay: FiniteFloat | None = Field(None, gt=0, le=1)
    """Each layer below the head learns at this factor of the rate of the one above it."""
    ema: FiniteFloat | None = Field(None, gt=0, lt=1)
    """Evaluate and save an exponential moving average of the weights with this decay; in the first
    steps it decays faster."""
    early_stopping_patience: int | None = Field(None, ge=1)
    """Stop after this many evaluations without a better accuracy, and return to the best weights
    (where --keep-best has kept them)."""
    save_best_model: bool = False
    """End with the weights of the best evaluation instead of the last ones."""
    order: Literal["transformers"] | None = None
    """Train on the batches of a transformers.Trainer run, in its order and with its optimizer;
    default an order of our own."""
    order_processes: int | None = Field(None, ge=1)
    """The number of processes of that Trainer run, whatever the number here: its batches depend on
    it. Part of what makes a run, with --grad-accumulation, its gradient_accumulation_steps."""
    seed: int = Field(42, ge=0, lt=2**32)
    """Seeds the weights of a new head or model, the order and the augmentation."""

    @property
    def lora_scale(self) -> float:
        """What the adapters' product is multiplied by; 0 without adapters."""
        rank = self.lora_rank
        return (self.lora_alpha or rank) / rank if rank else 0.0
