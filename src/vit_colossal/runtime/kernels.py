"""Adam kernels in plain PyTorch, for machines where ColossalAI's compiled ones cannot be had.

``HybridAdam``, ``CPUAdam`` and ``FusedAdam`` load compiled kernels; without a CUDA toolkit upstream
either finds none or tries a build that must fail. `register_stand_ins` decides once, per loader,
and leaves exactly one candidate in it: upstream's kernel where it was built with ColossalAI
(``BUILD_EXT=1``), otherwise one of the two here, whose arithmetic is in `adam`.

Nothing is built while a run starts. Upstream would compile for minutes in the optimizer's
constructor, on every rank at once; a rank that is killed meanwhile leaves a lock for which all
later runs wait for ever (``torch.utils.file_baton``); and a build that fails, as it may with a
toolkit or a PyTorch that is newer than upstream's sources, ends the run. PyTorch's own fused kernel
does the same work on CUDA.
"""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

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


def is_prebuilt(extension: Any) -> bool:
    """Whether upstream's kernel was installed with ColossalAI, runs here and loads.

    Args:
        extension: An instance of one of ColossalAI's C++/CUDA extensions.
    """
    if not extension.is_available():
        return False
    if importlib.util.find_spec(extension.prebuilt_import_path) is None:
        return False
    try:
        extension.import_op()
    except ImportError:  # built for another PyTorch
        return False
    return True


def choose_kernel(loader: Any, stand_in: type[TorchExtension]) -> None:
    """Leave exactly one candidate in ``loader``; a second call changes nothing.

    Upstream's loader checks every candidate, raises for one that cannot be built, and warns if two
    can be used; so the others have to go.

    Args:
        loader: A subclass of ColossalAI's ``KernelLoader``.
        stand_in: Taken if none of the loader's own kernels was built.
    """
    for native in loader.REGISTRY:
        if issubclass(native, TorchExtension):
            return  # chosen before
        if is_prebuilt(native()):
            # A library that loads needs no toolkit, but the loader would ask for one.
            checked = {"assert_compatible": lambda self: None}
            loader.REGISTRY[:] = [type(native.__name__, (native,), checked)]
            return
    loader.REGISTRY.clear()
    loader.register_extension(stand_in)


def register_stand_ins() -> bool:
    """Settle which Adam kernels ColossalAI's optimizers load.

    Why: ``kernel/kernel_loader.py`` compiles what was not built with it, which needs a compiler,
    and on CUDA its toolkit.

    Returns:
        Whether a stand-in is new; a second call changes nothing.
    """
    before = [tuple(loader.REGISTRY) for loader in (CPUAdamLoader, FusedOptimizerLoader)]
    choose_kernel(CPUAdamLoader, TorchCpuAdam)
    choose_kernel(FusedOptimizerLoader, TorchFusedAdam)
    return [tuple(loader.REGISTRY) for loader in (CPUAdamLoader, FusedOptimizerLoader)] != before


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
