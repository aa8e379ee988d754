"""What the cases of a benchmark train on: the same images and initial weights for all of them.

A work folder holds ``images.npy`` (uint8 [N, C, H, W]), ``labels.npy`` and ``model/``, the initial
weights as a Hugging Face directory. The peers read all of it; the layouts read the images, and
build the same weights from the seed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vit_colossal.bench.case import BenchCase
from vit_colossal.data.pixels import CachedSplit
from vit_colossal.data.prepare import RunData
from vit_colossal.model.build import build_model
from vit_colossal.model.processor import build_processor, preprocessing_of
from vit_colossal.plan.plan import RunPlan, make_plan
from vit_colossal.runtime.group import Topology
from vit_colossal.training.run import choose_device, plan_run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vit_colossal.data.loaders import TrainBatches
    from vit_colossal.data.samples import Batch

#: Synthetic global batches that are held in memory, one after the other, again and again.
SYNTHETIC_BATCHES = 4
SYNTHETIC_LABELS = tuple(str(number) for number in range(10))


def plan_case(case: BenchCase, topology: Topology, work: Path | None) -> tuple[RunPlan, RunData]:
    """The validated run of a case and its images.

    Args:
        case: the case.
        topology: this process's place.
        work: the work folder; None before it exists, as synthetic images are then not read.

    Raises:
        ConfigError: it cannot be run as configured.
    """
    if case.data == "real":
        return plan_run(case.config, topology)
    device = choose_device(case.config, topology)
    plan = make_plan(case.config, topology.world_size, device)
    how = preprocessing_of(plan.spec)
    split = CachedSplit(np.zeros((0, *how.shape), np.uint8), np.zeros(0, np.int64))
    if work is not None:
        split = CachedSplit(np.load(work / "images.npy"), np.load(work / "labels.npy"))
    data = RunData(
        name="synthetic",
        fingerprint="synthetic",
        eval_split="none",
        labels=SYNTHETIC_LABELS,
        train=split,
        evaluation=split,
        preprocessing=how,
        source="synthetic",
        columns=("image", "label"),
    )
    return plan, data


def prepare_work(plan: RunPlan, data: RunData, root: Path) -> Path:
    """Write the work folder that fits a case, unless an earlier case did.

    Args:
        plan: the case's run.
        data: its images; synthetic ones are made here.
        root: where work folders are kept.
    """
    config, size, batch = plan.config, plan.spec.image_size, plan.batches.global_batch
    identity = [config.model, config.model_overrides, config.seed, data.labels, data.fingerprint]
    identity += [size, batch] if data.name == "synthetic" else [config.max_train_samples]
    work = root / hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    if (work / "model").exists():
        return work
    partial = work.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if data.name == "synthetic":
        generator = np.random.default_rng(config.seed)
        shape = (SYNTHETIC_BATCHES * batch, *data.preprocessing.shape)
        np.save(partial / "images.npy", generator.integers(0, 256, shape, dtype=np.uint8))
        labels = generator.integers(0, len(data.labels), shape[0])
        np.save(partial / "labels.npy", labels.astype(np.int64))
    else:
        images, file = data.train.images, getattr(data.train.images, "filename", None)
        if file is None:
            np.save(partial / "images.npy", images)
        else:  # the cache itself, so that all map the same pages
            os.symlink(Path(file).absolute(), partial / "images.npy")
        np.save(partial / "labels.npy", data.train.labels)
    build_model(plan.spec, data.labels, config.seed).save_pretrained(partial / "model")
    build_processor(plan.spec).save_pretrained(partial / "model")
    partial.rename(work)
    return work


class InMemory:
    """Batches that need no loading: the same few, again and again."""

    def __init__(self, source: TrainBatches) -> None:
        self._steps = list(islice(source.batches(0), SYNTHETIC_BATCHES))

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[list[Batch]]:
        """Endless; epochs make no difference."""
        return cycle(self._steps)
