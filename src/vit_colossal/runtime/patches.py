"""What is left to correct in PyTorch and ColossalAI 0.5.0 before every plugin trains correctly.

Each function corrects one thing, says which upstream lines make it necessary, looks first whether
it still is, and returns whether it changed anything. So a second call does nothing, and a release
that fixes the matter makes its function idle. `corrections` lists them.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from colossalai.booster.mixed_precision.fp16_torch import TorchAMPOptimizer
from colossalai.nn.optimizer import CPUAdam, HybridAdam
from colossalai.shardformer.layer.utils import Randomizer
from colossalai.zero.gemini.chunk import Chunk, ChunkManager
from colossalai.zero.gemini.gemini_optimizer import GeminiOptimizer
from torch.distributed.distributed_c10d import Backend


def give_record_stream_a_cpu_kernel() -> bool:
    """Let CPU tensors accept ``record_stream``, which has nothing to do there.

    Why: ``zero/low_level/low_level_optim.py``, ``_run_reduction``, calls it on every bucket when
    communication overlaps; PyTorch registers a kernel for device backends only.
    """
    if torch._C._dispatch_has_kernel_for_dispatch_key("aten::record_stream", "CPU"):
        return False
    torch.library.impl("aten::record_stream", "cpu", lambda tensor, stream: None)
    return True


def name_the_hccl_backend() -> bool:
    """Give ``torch.distributed`` the two HCCL names that Huawei's build of PyTorch has.

    Why: ``pipeline/p2p.py``, ``_check_for_nccl_hccl_backend``, reads both as soon as the process
    group is not NCCL. The answers are true for this build: there is no HCCL.
    """
    missing = False
    if not hasattr(dist, "is_hccl_available"):
        dist.is_hccl_available = lambda: False  # type: ignore[attr-defined]
        missing = True
    if not hasattr(Backend, "HCCL"):
        Backend.HCCL = "hccl"  # type: ignore[attr-defined]
        missing = True
    return missing


def keep_gemini_shards_resident() -> bool:
    """Do not take Gemini's shards for offloaded only because their device is the CPU.

    Why: ``zero/gemini/chunk/chunk.py``, ``close_chunk``, moves the shard to ``cpu_shard`` when
    ``shard_device`` is a CPU, and ``shard_move`` does so on every ``ChunkManager.move_chunk``
    towards a CPU; the backward pass then finds no ``cuda_shard``. Here both mean the same memory,
    so the shard stays the resident one and a move to where it is already is none.
    """
    if "shard_device" not in Chunk.close_chunk.__code__.co_names:
        return False
    close_chunk, move_chunk = Chunk.close_chunk, ChunkManager.move_chunk

    @functools.wraps(close_chunk)
    def close_resident(self: Any) -> None:
        close_chunk(self)
        if not self.is_gathered and self.cuda_shard is None:
            self.cuda_shard, self.cpu_shard = self.cpu_shard, None
            self.cpu_vis_flag = False

    @functools.wraps(move_chunk)
    def move_if_elsewhere(
        self: Any,
        chunk: Any,
        device: torch.device,
        force_copy: bool = False,
        async_move: bool = False,
    ) -> None:
        if chunk.payload.device.type != device.type:
            move_chunk(self, chunk, device, force_copy, async_move)

    Chunk.close_chunk, ChunkManager.move_chunk = close_resident, move_if_elsewhere
    return True


def _divides_bf16_gradients(optimizer_type: type[CPUAdam]) -> bool:
    """Take one step with a bfloat16 gradient of 1 and a divisor of 2, and look at the moment."""
    param = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    optimizer: Any = object.__new__(optimizer_type)
    # Without HybridAdam's own part, which is for parameters on a GPU.
    CPUAdam.__init__(optimizer, [param], betas=(0.5, 0.5))
    param.grad = torch.ones(1, dtype=torch.bfloat16)
    param.data = param.data.float()
    optimizer.step(div_scale=2.0)
    return bool(optimizer.state[param]["exp_avg"] == 0.25)


def divide_bf16_gradients_in_adam() -> bool:
    """Make ``CPUAdam`` and ``HybridAdam`` honour ``div_scale`` for bfloat16 gradients on the CPU.

    Why: ``nn/optimizer/cpu_adam.py`` and ``hybrid_adam.py``, ``step``, send those gradients to
    ``torch_adam_update``, which is not given ``div_scale``: Gemini's clipping is lost. In float32
    they take the kernel's path, which divides. Gemini accepts these exact types and no subclass
    (``zero/gemini/gemini_optimizer.py``, ``_AVAIL_OPTIM_LIST``), hence a patch. Any device: on CUDA
    what Gemini offloads is updated on the CPU.

    The kernels have to be settled before (``kernels.register_stand_ins``): this builds optimizers.
    """
    changed = False
    for optimizer_type in (CPUAdam, HybridAdam):
        if not _divides_bf16_gradients(optimizer_type):
            optimizer_type.step = _widen_gradients_first(optimizer_type.step)
            changed = True
    return changed


def _widen_gradients_first(step: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(step)
    def widened(self: Any, closure: Any = None, div_scale: float = -1) -> Any:
        for group in self.param_groups:
            for param in group["params"]:
                grad = param.grad
                if grad is None or param.device.type != "cpu" or param.dtype != torch.float32:
                    continue
                if grad.dtype == torch.bfloat16:
                    param.grad = grad.float()
        return step(self, closure, div_scale)

    return widened


def _fork_restores_generator() -> bool:
    before = torch.get_rng_state()
    try:
        with Randomizer(seed=1).fork_rng(enable_cpu=True):
            torch.rand(1)
        return torch.equal(torch.get_rng_state(), before)
    finally:
        torch.set_rng_state(before)


def fork_one_generator_once() -> bool:
    """Let ``Randomizer.fork_rng(enable_cpu=True)`` give the generator back as it found it.

    Why: ``shardformer/layer/utils.py``, ``fork_rng``, saves the device's generator, replaces it,
    and then saves the CPU's, which on CPU is the same one, replaced already; that is what it
    restores last. Every tensor-parallel rank would leave boosting with a random state of its own.
    """
    if _fork_restores_generator():
        return False
    fork_rng = Randomizer.fork_rng

    @functools.wraps(fork_rng)
    def fork_device_only(self: Any, enable_cpu: bool = False) -> AbstractContextManager[None]:
        return fork_rng(self, enable_cpu=False)

    Randomizer.fork_rng = fork_device_only
    return True


def _fp16_loss_is_scaled() -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the CUDA scaler says is what is being asked here
        scaler = TorchAMPOptimizer(torch.optim.SGD([torch.zeros(1)], lr=0.0)).scaler
    return scaler.is_enabled() and scaler._device == "cpu"


def scale_fp16_loss_on_cpu() -> bool:
    """Give the data-parallel plugin's fp16 a loss scaler that works on CPU.

    Why: ``booster/mixed_precision/fp16_torch.py``, ``TorchAMPOptimizer.__init__``, builds
    ``torch.cuda.amp.GradScaler``, which disables itself without CUDA: gradients underflow silently.
    """
    if _fp16_loss_is_scaled():
        return False
    init = TorchAMPOptimizer.__init__

    @functools.wraps(init)
    def with_cpu_scaler(self: Any, optim: Any, *args: Any, **kwargs: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            init(self, optim, *args, **kwargs)
        names = ("init_scale", "growth_factor", "backoff_factor", "growth_interval")
        given = dict(zip(names, args, strict=False)) | kwargs
        self.scaler = torch.amp.GradScaler("cpu", **given)

    TorchAMPOptimizer.__init__ = with_cpu_scaler
    return True


def _counts_accumulated_gradients_once() -> bool:
    """Let a replicated chunk of two ranks carry a gradient of 1 into the next micro-batch."""
    grad_chunk = SimpleNamespace(is_gathered=True, cuda_global_chunk=torch.ones(1))
    chunk = SimpleNamespace(pg_size=2, grad_chunk=grad_chunk)
    manager = SimpleNamespace(init_grad_chunk=lambda chunk: chunk.grad_chunk)
    carried = ChunkManager.rearrange_accumulated_grad_chunk(manager, chunk)
    return bool(carried.cuda_global_chunk == 1)


def count_accumulated_gradients_once() -> bool:
    """Give all micro-batches the same weight when Gemini accumulates gradients.

    Why: ``zero/gemini/chunk/manager.py``, ``rearrange_accumulated_grad_chunk``, multiplies what
    was accumulated by the number of ranks, to outlive the division after the reduction. That is
    right where one rank adds its shard; in a replicated chunk (``keep_gathered``: every model
    smaller than ``min_chunk_size_m``) all ranks add it, and earlier micro-batches count that many
    times. Averaging equal values returns them, so there the chunk can go on as it is. Any device.
    """
    if _counts_accumulated_gradients_once():
        return False
    rearrange = ChunkManager.rearrange_accumulated_grad_chunk

    @functools.wraps(rearrange)
    def carry_on(self: Any, chunk: Any) -> Any:
        if chunk.grad_chunk.is_gathered:
            return self.init_grad_chunk(chunk)
        return rearrange(self, chunk)

    ChunkManager.rearrange_accumulated_grad_chunk = carry_on
    return True


def end_accumulation_with_every_step() -> bool:
    """Let Gemini start to accumulate afresh after a step that an overflow made it skip.

    Why: ``zero/gemini/gemini_optimizer.py``, ``step``, clears ``accumulating_grads`` at its end but
    not where it returns early; the overflowing gradients then stay in every later sum, each step
    overflows, and nothing trains any more. Any device, fp16 with accumulation.
    """
    step = GeminiOptimizer.step
    patched = hasattr(step, "__wrapped__")
    if patched or inspect.getsource(step).count("accumulating_grads") != 1:
        return False

    @functools.wraps(step)
    def step_and_end(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return step(self, *args, **kwargs)
        finally:
            self.module.chunk_manager.accumulating_grads = False

    GeminiOptimizer.step = step_and_end
    return True
