"""Which piece of every parameter, of its fp32 master and of its moments a rank holds.

Each strategy scatters the training state its own way; this module describes all of them in one
form, so that saving and loading need to know only this form.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from colossalai.amp.naive_amp.mixed_precision_optimizer import MixedPrecisionOptimizer
from colossalai.zero import GeminiDDP
from colossalai.zero.low_level import LowLevelZeroOptimizer

from vit_colossal.plan.weight_names import named_weights, published
from vit_colossal.strategies.engine import Engine


@dataclass(frozen=True)
class Part:
    """This rank's piece of one parameter.

    Attributes:
        name: the parameter's published name.
        master: the values that the optimizer updates; flat where ``start`` is not None.
        owner: the tensor under which the optimizer keeps its moments.
        working: the tensor that the model computes with; None where Gemini owns it.
        tp_dim: dimension that tensor parallelism cuts, or None.
        start: first element of this piece in the flattened (tensor-parallel) parameter, where
            data parallelism cuts it; None for the whole, which every replica holds.
        frozen: the optimizer does not know it; ``master`` is then what the model computes with.
    """

    name: str
    master: torch.Tensor
    owner: Any
    working: torch.Tensor | None
    tp_dim: int | None = None
    start: int | None = None
    frozen: bool = False

    def piece_of(self, full: torch.Tensor, tp_index: int, tp: int) -> torch.Tensor:
        """The elements of the plain parameter that belong here, shaped like ``master``."""
        local = full if self.tp_dim is None else full.chunk(tp, dim=self.tp_dim)[tp_index]
        if self.start is None:
            return local
        return local.flatten()[self.start : self.start + self.master.numel()]


def local_parts(engine: Engine) -> list[Part]:
    """All pieces this rank holds."""
    if isinstance(engine.model, GeminiDDP):
        return list(_gemini_parts(engine))
    return list(_module_parts(engine))


def _module_parts(engine: Engine) -> Iterator[Part]:
    optimizer = engine.optimizer
    for name, parameter in named_weights(engine.model.unwrap()):
        tp_dim = _cut_dimension(parameter.shape, engine.shapes[name])
        if not parameter.requires_grad:
            yield Part(name, parameter.detach(), parameter, parameter, tp_dim, frozen=True)
            continue
        if isinstance(optimizer, LowLevelZeroOptimizer):
            shard = optimizer.working_to_master_param[id(parameter)]
            rank = optimizer.pid_to_bucket_store[id(parameter)].local_rank
            start = rank * shard.numel()
            # The last shards are padded to equal lengths; the padding is nobody's state.
            length = max(0, min(shard.numel(), parameter.numel() - start))
            yield Part(name, shard[:length], shard, parameter, tp_dim, start)
            continue
        master = parameter
        if isinstance(optimizer, MixedPrecisionOptimizer):
            master = optimizer.working_to_master_map[parameter]
        yield Part(name, master, master, parameter, tp_dim)


def _gemini_parts(engine: Engine) -> Iterator[Part]:
    """Slices of Gemini's fp32 chunks, or of this rank's shard of a chunk."""
    for name, parameter in named_weights(engine.model.unwrap()):
        if not parameter.requires_grad:  # left out of the chunks
            yield Part(name, parameter.detach(), parameter, parameter, frozen=True)
    optimizer = engine.optimizer
    for index, fake in optimizer.id_to_fake_params.items():
        parameter = optimizer.id_to_real_params[index]
        chunk = optimizer.param_to_chunk16[fake]
        begin, start, length = optimizer.get_offsets(index)
        master = chunk.paired_chunk.payload[begin : begin + length]
        name = published(engine.model.param2name[parameter])
        yield Part(name, master, fake, None, None, start)


def refresh_working_weights(engine: Engine) -> None:
    """Make what the model computes with follow the masters, as the optimizer does after a step.

    Every rank has to call this.
    """
    optimizer = engine.optimizer
    if isinstance(engine.model, GeminiDDP):
        for chunk in optimizer.chunk16_set:
            chunk.payload.copy_(chunk.paired_chunk.payload)
            if chunk.cuda_shard is not None:
                # A copy of it on the host, if there is one, is out of date.
                chunk.cpu_vis_flag = False
    elif isinstance(optimizer, LowLevelZeroOptimizer):
        for working, padded in optimizer._working_param_to_padded_working_param.items():
            shard = optimizer.working_to_master_param[id(working)].to(padded)
            dist.all_gather_into_tensor(padded, shard, group=optimizer.param_to_pg[working])
    elif isinstance(optimizer, MixedPrecisionOptimizer):
        for working, master in optimizer.working_to_master_map.items():
            working.data.copy_(master)


def _cut_dimension(local: torch.Size, full: torch.Size) -> int | None:
    for dimension, (mine, whole) in enumerate(zip(local, full, strict=True)):
        if mine != whole:
            return dimension
    return None
