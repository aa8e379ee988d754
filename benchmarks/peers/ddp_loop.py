"""A plain PyTorch training loop, data-parallel through DistributedDataParallel.

torchrun --nproc_per_node 2 benchmarks/peers/ddp_loop.py --model DIR --images A.npy …

Written as PyTorch's own examples are, with what makes them fast: gradients in the buckets' memory,
batches assembled in one gather, uint8 pixels moved and normalized on the device, fused AdamW on
CUDA. No plugin, no scheduler, no logging.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import cycle

import numpy as np
import torch
import torch.distributed as dist
from measure import Stopwatch, run_and_report
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from transformers import ViTForImageClassification, ViTImageProcessor


class Images(Dataset):
    """Decoded images; a whole batch at a time."""

    def __init__(self, images: str, labels: str, *, in_memory: bool) -> None:
        self.images = np.load(images, mmap_mode=None if in_memory else "r")
        self.labels = np.load(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(self.images[rows]), torch.from_numpy(self.labels[rows])


def endless(loader: DataLoader) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    while True:
        yield from loader


def train(flags: argparse.Namespace, watch: Stopwatch | None = None) -> dict[str, object]:
    distributed = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not flags.alone
    own_group = distributed and not dist.is_initialized()
    device = torch.device("cpu")
    if flags.device == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if own_group:
        dist.init_process_group("nccl" if flags.device == "cuda" else "gloo")
    torch.manual_seed(flags.seed)

    model = ViTForImageClassification.from_pretrained(flags.model).to(device).train()
    if flags.grad_checkpoint:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if flags.compile:
        for layer in model.vit.layers:
            layer.compile()
    # Weights decay, biases and norms do not.
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": decay, "weight_decay": flags.weight_decay},
            {"params": rest, "weight_decay": 0},
        ],
        lr=flags.lr,
        fused=flags.device == "cuda",
    )
    parallel = model
    if distributed:
        parallel = DistributedDataParallel(model, gradient_as_bucket_view=True)

    dataset = Images(flags.images, flags.labels, in_memory=flags.in_memory)
    sampler = DistributedSampler(dataset, shuffle=False, drop_last=True) if distributed else None
    loader = DataLoader(
        dataset,
        batch_size=flags.batch_size,
        sampler=sampler,
        collate_fn=lambda batch: batch,
        drop_last=True,
        pin_memory=flags.device == "cuda",
    )
    # Images in memory are no test of the loader: a few batches are made once.
    batches = cycle(list(loader)) if flags.in_memory else endless(loader)

    processor = ViTImageProcessor.from_pretrained(flags.model)
    mean = torch.tensor(processor.image_mean, device=device).view(-1, 1, 1)
    std = torch.tensor(processor.image_std, device=device).view(-1, 1, 1)
    watch = watch or Stopwatch(flags.device, flags.warmup_steps, flags.keep_losses)
    for _ in range(flags.warmup_steps + flags.steps):
        images, labels = next(batches)
        images = images.to(device, non_blocking=True)
        labels = labels.to(device, non_blocking=True)
        pixels = images.float().div_(255).sub_(mean).div_(std)
        autocast = torch.autocast(flags.device, torch.bfloat16)
        with autocast if flags.precision == "bf16" else nullcontext():
            logits = parallel(pixel_values=pixels).logits
        loss = cross_entropy(logits.float(), labels)
        loss.backward()
        if flags.clip_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), flags.clip_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        watch.step_done(loss)
    found = watch.result()
    if own_group:
        # Freeing a group waits for gloo's threads with Python's lock held, and one that still has
        # the last collective's tensors to drop needs that lock (seen with torch 2.5.1).
        time.sleep(0.1)
        dist.destroy_process_group()
    return found


if __name__ == "__main__":
    run_and_report(train, __doc__ or "")
