"""ColossalAI on this machine: CPU over gloo, and CUDA with or without a toolkit.

Importing this package only quiets messages that ColossalAI gives while it is imported;
`activate` does the rest and belongs before anything of ColossalAI is built.
"""

from __future__ import annotations

import logging
import os
import warnings

from vit_colossal.runtime.interpreter import without_collecting

# Each is the beginning of one message that ColossalAI causes with every import or run, and the
# module that is blamed for it: two are about optional packages that no plugin here uses, the others
# about its use of PyTorch.
_NOISE = (
    (r"Please install apex from source", r"colossalai\b"),
    (r"Please install the latest tensornvme", r"colossalai\b"),
    (r"TypedStorage is deprecated", r"colossalai\b"),
    (r"`broadcast_buffers` is deprecated", r"colossalai\b"),
    (r"`torch.jit.script` is deprecated", r"torch\.jit\b"),
    # Renamed in torch 2.14; ColossalAI calls them by the names that torch 2.11 has too.
    (r"`torch.distributed.\w+_tensor` is deprecated", r"torch\.distributed\b"),
    # Of the class token where a micro-batch has one image: the stride of such a dimension is any.
    (r"Grad strides do not match bucket view strides", r"torch\.autograd\b"),
)
logger = logging.getLogger("vit_colossal")
_BITSANDBYTES_LOGGER = "bitsandbytes.backends.cpu.ops"


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Failed to load CPU gemm_4bit_forward")


def _quiet_imports() -> None:
    for message, module in _NOISE:
        warnings.filterwarnings("ignore", message=message, module=module)
    logging.getLogger(_BITSANDBYTES_LOGGER).addFilter(_is_news)


def _start_no_compilers() -> None:
    """Keep every rank from starting processes that would compile kernels nobody asks for.

    Importing ColossalAI imports PyTorch's inductor, which starts a pool of them at once, one for
    each core and rank; each imports PyTorch anew. With one "thread" it compiles in the process
    itself, when something is compiled at all.
    """
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")


_quiet_imports()
_start_no_compilers()


@without_collecting()
def activate(device_type: str) -> list[str]:
    """Prepare this process for ColossalAI's plugins; a second call changes nothing.

    Both device types get Adam kernels that load (see `kernels`) and the correction of Gemini's
    gradient accumulation. ``"cuda"`` keeps ColossalAI's own accelerator, and nothing else happens;
    ``"cpu"`` sets `GlooAccelerator` and patches upstream's remaining obstacles (see `corrections`).

    Call it before importing anything of ``colossalai.booster``, and on CUDA after
    ``torch.cuda.set_device``: the import of Gemini opens a context on the current device.

    Args:
        device_type: ``"cpu"`` or ``"cuda"``.

    Returns:
        The names of the corrections that this call made.

    Raises:
        ValueError: Another device type.
        RuntimeError: ``"cuda"`` without a CUDA device, or after ``"cpu"``, whose patches stay for
            the life of the process.
    """
    if device_type not in ("cpu", "cuda"):
        raise ValueError(f"device type {device_type!r}: use 'cpu' or 'cuda'")
    import torch
    from colossalai.accelerator import get_accelerator, set_accelerator

    from vit_colossal.runtime.accelerator import GlooAccelerator

    on_cpu = isinstance(get_accelerator(), GlooAccelerator)
    if device_type == "cuda" and on_cpu:
        raise RuntimeError("this process runs on the CPU already; start another for CUDA")
    if device_type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("PyTorch finds no CUDA device here: use 'cpu'")
    if not on_cpu:
        # Before the patches are imported: Gemini's modules ask for the device at import time.
        set_accelerator(GlooAccelerator() if device_type == "cpu" else device_type)
    from vit_colossal.runtime.corrections import SUBCLASSED, apply_corrections

    applied = apply_corrections(device_type)
    replaced = [kind.__mro__[1].__name__ for kind in SUBCLASSED]
    logger.debug("corrected in ColossalAI: %s; subclassed: %s", applied, replaced)
    return applied
