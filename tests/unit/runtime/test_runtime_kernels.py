"""The Adam stand-ins against PyTorch's own, the choice of kernels, and what activation does."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import warnings
from typing import Any, ClassVar

import pytest
import torch
from colossalai.kernel.kernel_loader import KernelLoader
from colossalai.utils import multi_tensor_applier

from vit_colossal.runtime.adam import _update_fused
from vit_colossal.runtime.kernels import (
    CPUAdamOptimizer,
    TorchCpuAdam,
    TorchFusedAdam,
    choose_kernel,
    is_prebuilt,
    multi_tensor_adam,
    multi_tensor_l2norm,
    multi_tensor_scale,
)

LR, BETAS, EPS, STEPS = 3e-3, (0.9, 0.98), 1e-7, 20
SHAPES = ((7, 5), (13,), (2, 3, 4))


def weights() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def gradients(step: int, dtype: torch.dtype, scale: float = 1.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return [(torch.randn(shape, generator=generator) * scale).to(dtype) for shape in SHAPES]


def reference(
    dtype: torch.dtype, decay: float, divisor: float, *, decoupled: bool, foreach: bool
) -> list[torch.Tensor]:
    """The weights after `STEPS` steps of PyTorch's optimizer on widened, divided gradients."""
    params = [torch.nn.Parameter(weight) for weight in weights()]
    optimizer_type = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimizer = optimizer_type(
        params, lr=LR, betas=BETAS, eps=EPS, weight_decay=decay, foreach=foreach
    )
    for step in range(1, STEPS + 1):
        for param, grad in zip(params, gradients(step, dtype, divisor), strict=True):
            param.grad = grad.float() / divisor
        optimizer.step()
    return [param.detach() for param in params]


CASES = pytest.mark.parametrize(
    ("dtype", "decay", "divisor", "decoupled"),
    [
        (torch.float32, 0.0, 1.0, True),
        (torch.float32, 0.05, 1.0, True),
        (torch.float32, 0.05, 3.0, True),
        (torch.float32, 0.05, 1.0, False),
        (torch.float16, 0.05, 128.0, True),
        (torch.bfloat16, 0.05, 128.0, True),
        (torch.bfloat16, 0.05, 2.5, False),
    ],
)


@CASES
def test_cpu_adam_is_adamw_to_the_bit(
    dtype: torch.dtype, decay: float, divisor: float, decoupled: bool
) -> None:
    params, firsts, seconds = weights(), [], []
    for param in params:
        firsts.append(torch.zeros_like(param))
        seconds.append(torch.zeros_like(param))
    kernel = TorchCpuAdam().load().CPUAdamOptimizer(LR, *BETAS, EPS, decay, decoupled)
    loss_scale = divisor if divisor != 1.0 else -1.0
    for step in range(1, STEPS + 1):
        grads = gradients(step, dtype, divisor)
        for param, grad, first, second in zip(params, grads, firsts, seconds, strict=True):
            hyper = (LR, *BETAS, EPS, decay, True)
            kernel.step(step, *hyper, param, grad, first, second, loss_scale)
        for grad, fresh in zip(grads, gradients(step, dtype, divisor), strict=True):
            assert torch.equal(grad, fresh), "the gradient belongs to the caller"
    expected = reference(dtype, decay, divisor, decoupled=decoupled, foreach=False)
    for param, wanted in zip(params, expected, strict=True):
        assert torch.equal(param, wanted)


@CASES
def test_fused_adam_is_adamw_to_the_bit(
    dtype: torch.dtype, decay: float, divisor: float, decoupled: bool
) -> None:
    params = weights()
    moments = [[torch.zeros_like(param) for param in params] for _ in range(2)]
    kernel = TorchFusedAdam().load().multi_tensor_adam
    flag = torch.zeros(1, dtype=torch.int)
    div_scale = divisor if divisor != 1.0 else -1
    for step in range(1, STEPS + 1):
        lists = [gradients(step, dtype, divisor), params, *moments]
        hyper = (LR, *BETAS, EPS, step, int(decoupled), 1, decay, div_scale)
        multi_tensor_applier(kernel, flag, lists, *hyper)
        for grad, fresh in zip(lists[0], gradients(step, dtype, divisor), strict=True):
            assert torch.equal(grad, fresh), "the gradient belongs to the caller"
    expected = reference(dtype, decay, divisor, decoupled=decoupled, foreach=True)
    for param, wanted in zip(params, expected, strict=True):
        assert torch.equal(param, wanted)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_one_step_without_bias_correction(fused: bool, dtype: torch.dtype) -> None:
    """By hand in float64; 16-bit weights and moments are rounded once, at the end."""
    lr, beta1, beta2, eps, decay = 0.25, 0.5, 0.75, 0.125, 0.5
    param, grad = torch.tensor([1.5], dtype=dtype), torch.tensor([0.3], dtype=dtype)
    first, second = torch.tensor([0.2], dtype=dtype), torch.tensor([0.4], dtype=dtype)
    slope = grad.double()
    mean = beta1 * first.double() + (1 - beta1) * slope
    square = beta2 * second.double() + (1 - beta2) * slope**2
    wanted = param.double() * (1 - lr * decay) - lr * mean / (square.sqrt() + eps)
    if fused:
        lists = [[grad], [param], [first], [second]]
        hyper = (lr, beta1, beta2, eps, 3, 1, 0, decay)
        multi_tensor_adam(0, torch.zeros(1, dtype=torch.int), lists, *hyper)
    else:
        hyper = (lr, beta1, beta2, eps, decay)
        CPUAdamOptimizer(*hyper).step(3, *hyper, False, param, grad, first, second)
    tolerance = {"rtol": torch.finfo(dtype).eps, "atol": 0.0}
    torch.testing.assert_close(param, wanted.to(dtype), **tolerance)
    torch.testing.assert_close(first, mean.to(dtype), **tolerance)
    torch.testing.assert_close(second, square.to(dtype), **tolerance)


def test_fused_kernels_beside_adam() -> None:
    flag = torch.zeros(1, dtype=torch.int)
    multi_tensor_adam(0, flag, [[], [], [], []], LR, *BETAS, EPS, 1, 1, 1, 0.0)
    inputs = [torch.tensor([3.0, 4.0]), torch.tensor([12.0], dtype=torch.bfloat16)]
    total, each = multi_tensor_l2norm(0, flag, [inputs], True)
    assert total.tolist() == [13.0] and each.tolist() == [5.0, 12.0]
    assert multi_tensor_l2norm(0, flag, [inputs])[1].numel() == 0

    outputs = [torch.empty(2, dtype=torch.float16), torch.empty(1)]
    multi_tensor_scale(0, flag, [inputs, outputs], 0.5)
    assert [tensor.tolist() for tensor in outputs] == [[1.5, 2.0], [6.0]]
    assert flag.item() == 0
    multi_tensor_scale(0, flag, [inputs, outputs], float("inf"))
    assert flag.item() == 1


@pytest.mark.parametrize("decoupled", [True, False])
def test_on_cuda_the_fused_kernel_is_what_adamw_calls(decoupled: bool) -> None:
    """Its arguments, on the CPU's version of that kernel; every plugin then rounds alike."""
    params, expected = weights(), [torch.nn.Parameter(weight) for weight in weights()]
    firsts, seconds = ([torch.zeros_like(param) for param in params] for _ in range(2))
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimizer = kind(expected, lr=LR, betas=BETAS, eps=EPS, weight_decay=0.05, fused=True)
    numbers = {"lr": LR, "beta1": BETAS[0], "beta2": BETAS[1], "eps": EPS, "weight_decay": 0.05}
    for step in range(1, STEPS + 1):
        slopes = gradients(step, torch.float32)
        for param, slope in zip(expected, slopes, strict=True):
            param.grad = slope.clone()
        optimizer.step()
        _update_fused(params, slopes, firsts, seconds, step, numbers, decoupled=decoupled)
    for param, wanted in zip(params, expected, strict=True):
        assert torch.equal(param, wanted)


class Native(TorchCpuAdam):
    """A compiled kernel as ColossalAI declares one; upstream's part, so made up here."""

    available, compatible, module = True, True, "colossalai._C.nothing"

    @property
    def prebuilt_import_path(self) -> str:
        return self.module

    def is_available(self) -> bool:
        return self.available

    def import_op(self) -> Any:
        return __import__(self.module)

    def assert_compatible(self) -> None:
        if not self.compatible:
            raise AssertionError("no toolkit")


class NoDevice(Native):
    available, module = False, "json"


class NoToolkit(Native):
    compatible = False


class Prebuilt(NoToolkit):
    module = "json"


def test_native_kernels_are_not_built() -> None:
    """Where a toolkit would allow it, neither: see the module's text."""
    assert not is_prebuilt(NoDevice())
    assert not is_prebuilt(Native())
    assert is_prebuilt(Prebuilt())


@pytest.mark.parametrize(
    ("natives", "wanted"),
    [
        ([NoDevice, NoToolkit], TorchFusedAdam),
        ([Native], TorchFusedAdam),
        ([NoToolkit, Prebuilt], Prebuilt),
        ([], TorchFusedAdam),
    ],
)
def test_a_loader_is_left_with_one_kernel(natives: list[type], wanted: type) -> None:
    # Real loaders know nothing of the base class that marks a stand-in.
    made = [type(n.__name__, (Unmarked,), {"native": n()}) for n in natives]

    class Loader(KernelLoader):
        REGISTRY: ClassVar[list[type]] = list(made)

    for _ in range(2):
        choose_kernel(Loader, TorchFusedAdam)
    assert [candidate.__name__ for candidate in Loader.REGISTRY] == [wanted.__name__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Loader().load()


class Unmarked:
    """Delegates to a `Native` without being a `TorchExtension`."""

    native: Native

    def __getattr__(self, name: str) -> Any:
        return getattr(self.native, name)

    def assert_compatible(self) -> None:
        self.native.assert_compatible()


def run_python(*parts: str) -> str:
    """Run the parts in a fresh interpreter: activation is for a process's whole life."""
    code = "".join(textwrap.dedent(part) for part in parts)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


EXPECTED = """
    EXPECTED = [
        "register_stand_ins", "count_accumulated_gradients_once",
        "end_accumulation_with_every_step", "divide_bf16_gradients_in_adam",
        "join_norms_without_gradients", "let_the_first_group_be_empty",
        "give_record_stream_a_cpu_kernel", "name_the_hccl_backend",
        "keep_gemini_shards_resident", "fork_one_generator_once", "scale_fp16_loss_on_cpu",
    ]
"""
PATCHED = """
    import torch, torch.distributed as dist
    from torch.distributed.distributed_c10d import Backend
    from colossalai.booster.mixed_precision.fp16_torch import TorchAMPOptimizer
    from colossalai.nn.optimizer import CPUAdam, HybridAdam
    from colossalai.shardformer.layer.utils import Randomizer
    from colossalai.zero.gemini.chunk import Chunk, ChunkManager

    def patched():
        functions = dict(
            close=Chunk.close_chunk, move=ChunkManager.move_chunk, cpu_adam=CPUAdam.step,
            hybrid_adam=HybridAdam.step, fork=Randomizer.fork_rng, amp=TorchAMPOptimizer.__init__,
        )
        found = {n for n, f in functions.items() if "vit_colossal" in f.__code__.co_filename}
        if torch._C._dispatch_has_kernel_for_dispatch_key("aten::record_stream", "CPU"):
            found.add("record_stream")
        if hasattr(dist, "is_hccl_available") or hasattr(Backend, "HCCL"):
            found.add("hccl")
        return found
"""


def test_cuda_gets_nothing_of_the_cpu_path() -> None:
    """With a CUDA device that PyTorch only claims to have, and no toolkit.

    The two optimizers update what Gemini keeps on the host, which is the CPU's path on CUDA too.
    """
    output = run_python(
        """
        import os
        os.environ["CUDA_HOME"] = "/nonexistent"
        import torch
        torch.cuda.is_available, torch.cuda.current_device = (lambda: True), (lambda: 0)
        from vit_colossal.runtime import activate
        activate("cuda")
        activate("cuda")
        from colossalai.accelerator import CudaAccelerator, get_accelerator
        assert type(get_accelerator()) is CudaAccelerator
        """,
        PATCHED,
        """
        assert patched() == {"cpu_adam", "hybrid_adam"}, patched()
        from vit_colossal.runtime.kernels import kernels_in_use
        used = kernels_in_use()
        assert (used["cpu_adam"], used["fused_adam"]) == ("torch", "torch"), used
        from colossalai.kernel.kernel_loader import CPUAdamLoader, FusedOptimizerLoader
        CPUAdamLoader().load(), FusedOptimizerLoader().load()
        """,
    )
    assert "apex" not in output and "tensornvme" not in output and "gemm_4bit" not in output


def test_cuda_without_a_device_is_refused() -> None:
    run_python(
        """
        import torch
        torch.cuda.is_available = lambda: False
        from vit_colossal.runtime import activate
        for device_type, expected in (("cuda", RuntimeError), ("tpu", ValueError)):
            try:
                activate(device_type)
            except expected:
                continue
            raise SystemExit(device_type)
        """
    )


def test_cpu_gets_all_of_it_once() -> None:
    run_python(
        PATCHED,
        EXPECTED,
        """
        from vit_colossal.runtime import activate
        assert patched() == set()
        # With ColossalAI 0.5.0 all are necessary; those that a release makes idle leave this list.
        from importlib.metadata import version
        assert version("colossalai") == "0.5.0"
        assert activate("cpu") == EXPECTED, "another set of corrections"
        everything = patched()
        assert len(everything) == 8, everything
        steps = CPUAdam.step, HybridAdam.step, Chunk.close_chunk
        activate("cpu")
        assert (CPUAdam.step, HybridAdam.step, Chunk.close_chunk) == steps
        from vit_colossal.runtime.corrections import apply_corrections
        assert apply_corrections("cpu") == []

        from colossalai.accelerator import get_accelerator
        accelerator = get_accelerator()
        torch.ones(2).record_stream(accelerator.Stream())
        state = accelerator.get_rng_state()
        with Randomizer(seed=3).fork_rng(enable_cpu=True):
            forked = torch.rand(2)
        assert torch.equal(accelerator.get_rng_state(), state)
        assert not torch.equal(torch.rand(2), forked)
        with accelerator.autocast(dtype=torch.bfloat16):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        start, end = accelerator.Event(), accelerator.Event()
        start.record(); end.record()
        assert start.elapsed_time(end) >= 0
        assert accelerator.max_memory_allocated() >= accelerator.memory_allocated() // 2 > 2**20
        try:
            activate("cuda")
        except RuntimeError:
            pass
        else:
            raise SystemExit("cuda after cpu was accepted")
        """,
    )


def test_hybrid_adam_on_cpu_divides_every_kind_of_gradient() -> None:
    run_python(
        """
        from vit_colossal.runtime import activate
        activate("cpu")
        import torch
        from colossalai.nn.optimizer import CPUAdam, HybridAdam
        for optimizer_type in (CPUAdam, HybridAdam):
            for dtype in (torch.float32, torch.float16, torch.bfloat16):
                generator = torch.Generator().manual_seed(0)
                start = torch.randn(40, generator=generator)
                wanted = torch.nn.Parameter(start.clone())
                plain = torch.optim.AdamW([wanted], lr=1e-2, weight_decay=0.1, foreach=False)
                param = torch.nn.Parameter(start.to(dtype))
                ours = optimizer_type([param], lr=1e-2, weight_decay=0.1)
                for _ in range(20):
                    grad = torch.randn(40, generator=generator).to(dtype)
                    wanted.grad = grad.float() / 7
                    plain.step()
                    param.grad = None
                    param.data = param.data.to(dtype)  # as Gemini: the gradient's type first,
                    param.grad = grad
                    param.data = start  # then the float32 master
                    ours.step(div_scale=7)
                assert torch.equal(start, wanted.detach()), (optimizer_type, dtype)
        """
    )


def test_patches_are_idle_where_upstream_has_no_need_of_them() -> None:
    """Each thing is put right by other means first; then nothing may be touched."""
    run_python(
        PATCHED,
        """
        import inspect
        from contextlib import contextmanager
        from vit_colossal.runtime.corrections import CORRECTIONS
        from vit_colossal.runtime.accelerator import GlooAccelerator
        from vit_colossal.runtime.kernels import register_stand_ins
        from colossalai.accelerator import set_accelerator
        set_accelerator(GlooAccelerator())
        register_stand_ins()
        torch.library.impl("aten::record_stream", "cpu", lambda tensor, stream: None)
        dist.is_hccl_available, Backend.HCCL = (lambda: False), "hccl"

        def close_chunk(self): ...
        def step(self, closure=None, div_scale=-1):
            for param in self.param_groups[0]["params"]:
                self.state[param]["exp_avg"] = param.grad.float() * 0.5 / div_scale
        @contextmanager
        def fork_rng(self, enable_cpu=False):
            state = torch.get_rng_state()
            yield
            torch.set_rng_state(state)
        def init(self, optim, **kwargs):
            self.scaler = torch.amp.GradScaler("cpu")
        def rearrange(self, chunk):
            return self.init_grad_chunk(chunk)

        Chunk.close_chunk, Randomizer.fork_rng, TorchAMPOptimizer.__init__ = (
            close_chunk, fork_rng, init)
        CPUAdam.step = HybridAdam.step = step
        ChunkManager.rearrange_accumulated_grad_chunk = rearrange
        source = inspect.getsource
        def corrected(thing):
            text = source(thing).replace("return 0.0", "").replace('groups[0]["params"][0]', "")
            return text + "accumulating_grads = False"
        inspect.getsource = corrected
        applied = [each.name for each in CORRECTIONS if each.apply()]
        assert applied == [], "touched what was right"
        assert patched() == {"record_stream", "hccl"}
        assert ChunkManager.rearrange_accumulated_grad_chunk is rearrange
        """,
    )
