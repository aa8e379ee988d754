"""Which piece of every parameter, of its fp32 master and of its moments a rank holds.

Each strategy scatters the training state its own way; this module describes all of them in one
form, so that saving and loading need to know only this form.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from colossalai.amp.naive_amp.mixed_precision_optimizer import MixedPrecisionOptimizer
from colossalai.zero import GeminiDDP
from colossalai.zero.low_level import LowLevelZeroOptimizer

from vit_colossal.engine import Engine


@dataclass(frozen=True)
class Part:
    """This rank's piece of one parameter.

    Attributes:
        name: of the parameter in the plain model.
        master: the values that the optimizer updates; flat where ``start`` is not None.
        owner: the tensor under which the optimizer keeps its moments.
        working: the tensor that the model computes with; None where Gemini owns it.
        tp_dim: dimension that tensor parallelism cuts, or None.
        start: first element of this piece in the flattened (tensor-parallel) parameter, where
            data parallelism cuts it; None for the whole.
    """

    name: str
    master: torch.Tensor
    owner: Any
    working: torch.Tensor | None
    tp_dim: int | None = None
    start: int | None = None

    def piece_of(self, full: torch.Tensor, tp_index: int, tp: int) -> torch.Tensor:
        """The elements of the plain parameter that belong here, shaped like ``master``."""
        local = self.tensor_parallel_piece(full, tp_index, tp)
        if self.start is None:
            return local
        return local.flatten()[self.start : self.start + self.master.numel()]

    def tensor_parallel_piece(self, full: torch.Tensor, tp_index: int, tp: int) -> torch.Tensor:
        if self.tp_dim is None:
            return full
        return full.chunk(tp, dim=self.tp_dim)[tp_index]


def local_parts(engine: Engine) -> list[Part]:
    """All pieces this rank holds."""
    if isinstance(engine.model, GeminiDDP):
        return list(_gemini_parts(engine))
    return list(_module_parts(engine))


def replicas_hold_the_same(engine: Engine) -> bool:
    """Whether the first data-parallel replica alone has everything."""
    return not isinstance(engine.model, GeminiDDP) and not isinstance(
        engine.optimizer, LowLevelZeroOptimizer
    )


def _module_parts(engine: Engine) -> Iterator[Part]:
    optimizer = engine.optimizer
    for name, parameter in engine.model.unwrap().named_parameters():
        tp_dim = _cut_dimension(parameter.shape, engine.shapes[name])
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
    optimizer = engine.optimizer
    for index, fake in optimizer.id_to_fake_params.items():
        parameter = optimizer.id_to_real_params[index]
        chunk = optimizer.param_to_chunk16[fake]
        begin, start, length = optimizer.get_offsets(index)
        master = chunk.paired_chunk.payload[begin : begin + length]
        yield Part(engine.model.param2name[parameter], master, fake, None, None, start)


def refresh_working_weights(engine: Engine) -> None:
    """Make Gemini's 16-bit chunks follow the fp32 chunks, as its optimizer does after a step."""
    if isinstance(engine.model, GeminiDDP):
        for chunk in engine.optimizer.chunk16_set:
            chunk.payload.copy_(chunk.paired_chunk.payload)


def _cut_dimension(local: torch.Size, full: torch.Size) -> int | None:
    for dimension, (mine, whole) in enumerate(zip(local, full, strict=True)):
        if mine != whole:
            return dimension
    return None
