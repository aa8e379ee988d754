"""What is trained, and on which images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import Field, FiniteFloat, ValidationInfo, field_validator

from vit_colossal.config.settings.base import Settings, alias


class ModelSettings(Settings):
    """Which model, and what a preset changes."""

    title: ClassVar[str] = "the model"

    model: str | None = alias("model", "model_name_or_path")
    """A local directory, a hub name, or a preset trained from scratch:
    vit-micro, vit-tiny, vit-small, vit-base, vit-large."""
    model_overrides: dict[str, int | float | str | bool] = alias("model_config", default={})
    """ViTConfig keys for a preset, as key=value, may be repeated: --model-config hidden_size=96."""
    image_size: int | None = Field(None, ge=1)
    """Side of the images in pixels, in place of the model's own; of a pretrained model the position
    embeddings are interpolated."""

    @field_validator("model_overrides", mode="before")
    @classmethod
    def _typed_overrides(cls, values: Any) -> Any:
        """Flags arrive as text; YAML's own rules turn ``32`` into a number."""
        if not isinstance(values, dict):
            return values
        return {k: yaml.safe_load(v) if isinstance(v, str) else v for k, v in values.items()}


class DataSettings(Settings):
    """Where the images come from, how they are split and read."""

    title: ClassVar[str] = "the images"

    dataset: str | None = None
    """A local folder or file (parquet, arrow, csv, tsv, jsonl, tar, zip), digits (built in), beans,
    cifar10, or any hub name."""
    dataset_config: str | None = None
    """Configuration name of a hub data set, or of a local copy with a README.md."""
    dataset_revision: str | None = None
    """Revision (branch, tag or commit) of a hub data set."""
    image_column: str | None = None
    """Image column; found from the features when there is one."""
    label_column: str | None = None
    """Label column; found from the features when there is one."""
    classes_are_folders: bool = False
    """The folders in --dataset are the classes, even if they are called train or test, and though
    a table of labels lies beside them."""
    train_split: str | None = None
    """Training split, or a part of one: train[:4500]; default train."""
    eval_split: str | None = None
    """Evaluation split; default the first of validation, valid, val, dev. What is called test is
    kept for the end unless it is named here."""
    val_split: FiniteFloat | None = Field(None, gt=0, lt=1)
    """Share of the training images held out (stratified) when there is no evaluation split, or
    when it is given as a flag without --eval-split; default 0.1, and up to 0.2 of few images."""
    max_train_samples: int | None = Field(None, ge=1)
    """Use only the first N training images."""
    max_eval_samples: int | None = Field(None, ge=1)
    """Use only the first N evaluation images."""
    cache_dir: Path | None = None
    """Where decoded images are kept; default $VIT_COLOSSAL_CACHE or ~/.cache/vit_colossal."""
    cache: bool = True
    """Keep decoded images on disk; --no-cache decodes them again in every epoch."""
    feature_cache: bool = True
    """Compute what frozen layers make of an image once, and keep it on disk, where nothing random
    comes before what is trained; --no-feature-cache computes it in every epoch."""
    feature_cache_gb: FiniteFloat = Field(20.0, gt=0)
    """Most that the kept features of a run may take, in GB; more are computed in every epoch."""
    streaming: bool = False
    """Decode into the cache while downloading, and keep nothing of the originals."""
    skip_bad_images: bool = False
    """Leave out images that cannot be decoded; without it they are listed and nothing starts."""
    jpeg_draft: bool = False
    """Decode a large JPEG at the half, quarter or eighth of its size that is still twice the size
    it is resized to: four times as fast for 12 megapixels, twice for progressive files, with pixels
    that are a little off."""
    num_workers: int | None = Field(None, ge=0)
    """Loader processes per rank; default 0, which reads the cache in the training process, and
    with --no-cache, or augmentation on a GPU, the CPU cores of a rank, up to 8."""

    @field_validator("streaming")
    @classmethod
    def _streams_need_the_cache(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("cache") is False:
            raise ValueError("a stream is shuffled from the cache; drop --no-cache")
        return value
