"""Computing what is frozen once: from then on a job's batches are what the trained part reads.

The boosted model computes it, so that it is what a training step would have computed: under the
same plugin, in the same precision, by the same kernels. Its frozen weights stay where they are, for
checkpoints and the saved model; only the forward pass leaves them out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tqdm import tqdm

from vit_colossal.data.features import FOLDER, FeatureForm, FeatureWriter, open_features
from vit_colossal.data.pixels import CachedSplit, images_digest
from vit_colossal.data.samples import PADDING_INDEX
from vit_colossal.data.sources.request import default_cache_root
from vit_colossal.rundir.record import versions
from vit_colossal.runtime.group import hosts_of_ranks
from vit_colossal.training.job import Job

logger = logging.getLogger("vit_colossal")

#: Changed when the same part makes other numbers of the same image.
_VERSION = 1
#: Keys of a configuration that say nothing of what a frozen part computes.
_OF_THE_HEAD = (
    *("id2label", "label2id", "num_labels", "problem_type", "architectures"),
    *("transformers_version", "_name_or_path", "dtype"),
)


def keep_features(job: Job) -> None:
    """From here on, train and evaluate on what the frozen part has made of each image, once.

    Evaluate alone, where it makes something else of a training image each time; and nothing changes
    where that is not to be. After a checkpoint was restored, which brings weights. Every rank has
    to call this.
    """
    if not job.reuse.active:
        return
    engine, data, found = job.engine, job.data, []
    identity = _identity(job)
    splits = [data.evaluation] if job.reuse.variation else [data.evaluation, data.train]
    for split in splits:
        kept = _kept(job, split, _entry(job, identity, split))
        if kept is None:
            return
        found.append(kept)
    (evaluation, form), *training = found
    # Rows of a mapped file: no loader process is worth its start.
    job.eval_batches = replace(job.eval_batches, split=evaluation, num_workers=0)
    for train, _ in training:
        job.train_batches = replace(job.train_batches, split=train, num_workers=0)
    engine.features = form
    model: Any = job.model
    model.forward = job.reuse.part.rest_of(model)


def _identity(job: Job) -> list[Any]:
    """All that decides what the frozen part makes of some pixels, as JSON."""
    engine, plan = job.engine, job.plan
    mine = _frozen_digest(job) if engine.coordinate.dp == 0 else None
    everyone: list[Any] = [None] * engine.dims.world_size
    dist.all_gather_object(everyone, mine)
    config = {k: v for k, v in job.model.config.to_dict().items() if k not in _OF_THE_HEAD}
    how = {name: value for name, value in asdict(job.data.preprocessing).items() if name != "notes"}
    cuda = engine.device.type == "cuda"
    return [
        _VERSION,
        [digest for digest in everyone if digest is not None],
        config,
        str(job.model.config._attn_implementation),
        job.reuse.part.depth,
        plan.spec.image_size,
        how,
        [plan.config.plugin, plan.config.precision, plan.dims.tp],
        torch.cuda.get_device_name(engine.device) if cuda else engine.device.type,
        versions("torch", "transformers", "colossalai"),
    ]


def _frozen_digest(job: Job) -> str:
    """SHA-256 of the weights of this rank that nothing trains, as the model computes with them."""
    found = hashlib.sha256()
    for part in job.engine.parts:
        if part.frozen:
            values = part.master.detach().to("cpu").contiguous().flatten()
            found.update(f"{part.name} {values.dtype} {tuple(part.master.shape)}".encode())
            found.update(values.view(torch.uint8).numpy().data)
    return found.hexdigest()


def _entry(job: Job, identity: list[Any], split: CachedSplit) -> Path:
    root = job.plan.config.cache_dir or default_cache_root()
    parts = json.dumps([*identity, images_digest(split.images), len(split)], default=str)
    return root / FOLDER / hashlib.sha256(parts.encode()).hexdigest()[:32]


def _kept(job: Job, split: CachedSplit, entry: Path) -> tuple[CachedSplit, FeatureForm] | None:
    """The split as rows of features, computed first unless they are there on every host.

    None, and a line that says so, where they cannot be kept.
    """
    hosts, rank = hosts_of_ranks(), job.engine.rank
    writes = hosts.index(hosts[rank]) == rank
    found = open_features(entry, compare=writes)
    if _problems("" if found else "absent"):
        writer = FeatureWriter(entry, len(split)) if writes and found is None else None
        problem = _problems(_compute(job, split, writer))
        found = open_features(entry, compare=False)
        problem = problem or _problems("" if found else f"{entry} cannot be read by all ranks")
        if problem:
            if job.engine.is_lead:
                logger.warning("features are not kept, and computed in each epoch: %s", problem)
            return None
    elif job.engine.is_lead:
        logger.info("features of %d images: taken from %s", len(split), entry)
    assert found is not None
    rows, form = found
    return CachedSplit(rows, split.labels, split.bad), form


def _compute(job: Job, split: CachedSplit, writer: FeatureWriter | None) -> str:
    """Let all ranks compute the split's features together, and those with a writer keep them all.

    Returns:
        Why this rank could not keep them; empty where it did, or was not to.
    """
    engine, batches = job.engine, replace(job.eval_batches, split=split)
    if engine.is_lead:
        place = (job.plan.config.cache_dir or default_cache_root()) / FOLDER
        logger.info("computing features of %d images once, kept in %s", len(split), place)
    shows = engine.is_lead and sys.stderr.isatty()
    engine.model.eval()
    with (
        torch.no_grad(),
        job.reuse.part.watched(job.model) as seen,
        contextlib.nullcontext() if writer is None else writer.writing(),
        tqdm(total=len(split), unit="image", disable=not shows) as bar,
    ):
        for number, batch in enumerate(batches.batches()):
            engine.model(pixel_values=engine.pixels(batch.images))
            features = seen.pop()
            form = FeatureForm(features.dtype, tuple(features.shape[1:]))
            mine = form.bytes_of(features)
            # Contiguous parts of a block, in the order of the replicas: see EvalBatches.
            every = [torch.empty_like(mine) for _ in range(engine.dims.dp)]
            dist.all_gather(every, mine, group=engine.dp_group)
            if writer is not None:
                writer.add(torch.cat(every).cpu(), form)
            if number == 0 and _problems("" if writer is None else writer.problem):
                break  # a disk without room is known by now
            bar.update(int((batch.indices != PADDING_INDEX).sum()) * len(every))
        else:
            if writer is not None:
                writer.finish()
    engine.model.train()
    return "" if writer is None else writer.problem


def _problems(mine: str) -> str:
    """The first problem of any rank, on all of them; empty where none has one."""
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return next(filter(None, everyone), "")
