"""What was asked for, as far as it concerns the data."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vit_colossal.plan.recipe import LEAST_HELD_OUT

# In order of preference.
EVAL_SPLITS = ("validation", "valid", "val", "dev", "test")


@dataclass(frozen=True)
class SourceRequest:
    """What was asked for; the fields are named after the flags.

    Attributes:
        dataset: An existing local path, a pattern of shards, ``digits``, an alias, or a name on
            the hub; in this order.
        image_column: Column of the images; None finds the only one.
        label_column: Column of the labels; None finds the only one.
        train_split: Split to train on; None is ``train``.
        eval_split: Split to evaluate on; None takes the first of ``EVAL_SPLITS`` that has labels.
            Naming the training split, or having none of these, holds out ``val_split`` of the
            training split.
        val_split: Share (0 to 1) of the training split that is held out, stratified by label; None
            fits the number of images and labels.
        seed: Chooses the held-out samples.
        keep_test: What is called test is left for the end, unless ``eval_split`` names it: a part
            of the training split is held out instead. Training asks for it, as its evaluations
            choose the best epoch.
        classes_are_folders: The folders in ``dataset`` are the classes, whatever their names say.
        dataset_config: Configuration (subset) of a hub data set, or of a copy of one.
        revision: Branch, tag or commit of a hub data set.
        max_train_samples: Keep the first so many training rows, in the order of the source
            (a folder is ordered by class).
        max_eval_samples: The same for the evaluation rows.
        streaming: Do not copy what `datasets` would copy: the hub's files, Parquet and Arrow.
        min_labels: Fewest labels there may be; a trained model can be evaluated on a single one.
        cache_dir: Where the digests of files are kept; None is the default cache.
    """

    dataset: str
    image_column: str | None = None
    label_column: str | None = None
    train_split: str | None = None
    eval_split: str | None = None
    val_split: float | None = LEAST_HELD_OUT
    seed: int = 42
    keep_test: bool = False
    classes_are_folders: bool = False
    dataset_config: str | None = None
    revision: str | None = None
    max_train_samples: int | None = None
    max_eval_samples: int | None = None
    streaming: bool = False
    min_labels: int = 2
    cache_dir: Path | None = None

    @property
    def share(self) -> float:
        """``val_split``, once it is known; 0 before."""
        return self.val_split or 0.0


def default_cache_root() -> Path:
    """``$VIT_COLOSSAL_CACHE``, or else ``~/.cache/vit_colossal``."""
    root = os.environ.get("VIT_COLOSSAL_CACHE")
    return Path(root).expanduser() if root else Path.home() / ".cache" / "vit_colossal"
