"""Adam kernels in plain PyTorch, for machines where ColossalAI's compiled ones cannot be had.

``HybridAdam``, ``CPUAdam`` and ``FusedAdam`` load compiled kernels; without a CUDA toolkit upstream
either finds none or tries a build that must fail. `register_stand_ins` decides once, per loader,
and leaves exactly one candidate in it: upstream's kernel where it can be loaded or built, otherwise
one of the two here, whose arithmetic is in `adam`.
"""

from __future__ import annotations

import importlib.util
import shutil
from types import SimpleNamespace
from typing import Any, Literal

from colossalai.kernel.extensions.base_extension import _Extension
from colossalai.kernel.kernel_loader import CPUAdamLoader, FusedOptimizerLoader

from vit_colossal.runtime.adam import (
    CPUAdamOptimizer,
    multi_tensor_adam,
    multi_tensor_l2norm,
    multi_tensor_scale,
)


class TorchExtension(_Extension):
    """A kernel that needs no building: it is Python."""

    def __init__(self) -> None:
        super().__init__(name=type(self).__name__, support_aot=False, support_jit=False, priority=0)

    def is_available(self) -> bool:
        """Always: it runs wherever PyTorch does."""
        return True

    def assert_compatible(self) -> None:
        """Compatible with every machine."""

    def build_aot(self) -> Any:
        """Never asked for, as neither kind of build is declared."""
        raise RuntimeError("there is nothing to build: this kernel is PyTorch code")

    build_jit = build_aot


class TorchCpuAdam(TorchExtension):
    """Stand-in for the extensions of ``CPUAdamLoader``."""

    def load(self) -> SimpleNamespace:
        """A module-like object with the class ``CPUAdamOptimizer``."""
        return SimpleNamespace(CPUAdamOptimizer=CPUAdamOptimizer)


class TorchFusedAdam(TorchExtension):
    """Stand-in for ``FusedOptimizerLoader``'s extension, less its SGD and LAMB."""

    def load(self) -> SimpleNamespace:
        """A module-like object with ``multi_tensor_adam``, ``_scale`` and ``_l2norm``."""
        return SimpleNamespace(
            multi_tensor_adam=multi_tensor_adam,
            multi_tensor_scale=multi_tensor_scale,
            multi_tensor_l2norm=multi_tensor_l2norm,
        )


def native_kernel(extension: Any) -> Literal["prebuilt", "buildable"] | None:
    """Whether upstream's kernel can be used here, found out without building anything.

    Args:
        extension: An instance of one of ColossalAI's C++/CUDA extensions.

    Returns:
        ``"prebuilt"`` if its library was installed and loads, ``"buildable"`` if a matching toolkit
        and compiler are there, None otherwise.
    """
    if not extension.is_available():
        return None
    if importlib.util.find_spec(extension.prebuilt_import_path) is not None:
        try:
            extension.import_op()
        except ImportError:
            pass  # built for another PyTorch; upstream would build it afresh, and so judge that
        else:
            return "prebuilt"
    from torch.utils.cpp_extension import get_cxx_compiler, is_ninja_available

    try:
        extension.assert_compatible()
    except Exception:  # upstream raises AssertionError, ValueError, OSError and bare Exception here
        return None
    tools = is_ninja_available() and shutil.which(get_cxx_compiler()) is not None
    return "buildable" if tools else None


def choose_kernel(loader: Any, stand_in: type[TorchExtension]) -> None:
    """Leave exactly one candidate in ``loader``; a second call changes nothing.

    Upstream's loader checks every candidate, raises for one that cannot be built, and warns if two
    can be used; so the others have to go.

    Args:
        loader: A subclass of ColossalAI's ``KernelLoader``.
        stand_in: Taken if none of the loader's own kernels is usable.
    """
    for native in loader.REGISTRY:
        if issubclass(native, TorchExtension):
            return  # chosen before
        usable = native_kernel(native())
        if usable == "prebuilt":
            # A library that loads needs no toolkit, but the loader would ask for one.
            checked = {"assert_compatible": lambda self: None}
            native = type(native.__name__, (native,), checked)
        if usable is not None:
            loader.REGISTRY[:] = [native]
            return
    loader.REGISTRY.clear()
    loader.register_extension(stand_in)


def register_stand_ins() -> None:
    """Settle which Adam kernels ColossalAI's optimizers load; a second call changes nothing."""
    choose_kernel(CPUAdamLoader, TorchCpuAdam)
    choose_kernel(FusedOptimizerLoader, TorchFusedAdam)


def _attention() -> str:
    from transformers.models.vit.modeling_vit import ViTPreTrainedModel

    return "sdpa" if ViTPreTrainedModel._supports_sdpa else "eager"


def kernels_in_use() -> dict[str, str]:
    """Which implementations this process uses, for the log; call it after ``activate``.

    Returns:
        ``cpu_adam`` and ``fused_adam``: ``"native"`` (ColossalAI's) or ``"torch"`` (the stand-in);
        ``attention``: what Hugging Face's ViT takes by default, ``"sdpa"`` or ``"eager"``.
    """

    def chosen(loader: Any) -> str:
        ours = any(issubclass(candidate, TorchExtension) for candidate in loader.REGISTRY)
        return "torch" if ours else "native"

    return {
        "cpu_adam": chosen(CPUAdamLoader),
        "fused_adam": chosen(FusedOptimizerLoader),
        "attention": _attention(),
    }
