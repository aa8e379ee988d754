"""What ``doctor`` asks of heavy packages, in processes of its own: these may hang or crash.

``python -m vit_colossal.doctor.probe PART...`` prints one JSON object for each part: what was
found, or ``error``, why it could not be had; then it ends. A part that crashes prints nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def probe_torch() -> dict[str, Any]:
    """Its version, devices and communication backends."""
    import torch
    import torch.distributed as dist

    devices = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
            devices.append({"name": name, "free": free, "total": total})
    distributed = dist.is_available()
    return {
        "version": torch.__version__,
        "built_for_cuda": torch.version.cuda,
        "devices": devices,
        "gloo": distributed and dist.is_gloo_available(),
        "nccl": ".".join(map(str, torch.cuda.nccl.version()))
        if distributed and dist.is_nccl_available()
        else None,
    }


def probe_transformers() -> dict[str, Any]:
    """Its version, once its ViT was imported."""
    transformers = import_module("transformers")
    getattr(transformers, "ViTForImageClassification")  # noqa: B009 - imported when it is asked for
    return {"version": transformers.__version__}


def probe_colossalai() -> dict[str, Any]:
    """Its version and the kernels that a run would use, once its plugins were imported."""
    import torch

    from vit_colossal import runtime
    from vit_colossal.config.plugins import BUILT_IN

    colossalai = import_module("colossalai")
    runtime.activate("cuda" if torch.cuda.is_available() else "cpu")
    for facts in BUILT_IN.values():
        import_module(facts.strategy.partition(":")[0])
    from vit_colossal.runtime.kernels import kernels_in_use

    return {"version": colossalai.__version__, "kernels": kernels_in_use()}


def probe_group() -> dict[str, Any]:
    """Two processes, started as ``--nproc 2`` does, add a number."""
    from vit_colossal.runtime.spawn import Program, launch

    code = launch(Program(("-m", "vit_colossal.doctor.probe", "member")), 2)
    if code:
        raise RuntimeError(f"the two processes ended with exit code {code}")
    return {"backend": _backend()}


def join_group() -> dict[str, Any]:
    """What each of the two does."""
    import torch
    import torch.distributed as dist

    from vit_colossal.runtime.group import Topology, start, stop

    topology = Topology.from_environment()
    if _backend() == "nccl":
        torch.cuda.set_device(topology.local_rank)
    device = start(topology, "cuda" if _backend() == "nccl" else "cpu", timeout_s=60)
    total = torch.ones(1, device=device)
    dist.all_reduce(total)
    stop()
    if int(total) != topology.world_size:
        raise RuntimeError(f"{topology.world_size} processes added up to {int(total)}")
    return {}


def _backend() -> str:
    """NCCL where each of two processes can have a device, as in training."""
    import torch

    return "nccl" if torch.cuda.is_available() and torch.cuda.device_count() > 1 else "gloo"


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "torch": probe_torch,
    "transformers": probe_transformers,
    "colossalai": probe_colossalai,
    "group": probe_group,
    "member": join_group,
}


def _answer(part: str) -> dict[str, Any]:
    try:
        return PARTS[part]()
    except Exception as error:  # whatever a broken package raises is the answer
        lines = str(error).strip().splitlines() or [""]
        return {"error": f"{type(error).__name__}: {lines[0]}"}


def main(parts: list[str]) -> int:
    """Answer part after part, to the end or to the first that fails."""
    for part in parts:
        answer = _answer(part)
        if part != "member":
            print(json.dumps({"part": part, **answer}), flush=True)
        elif "error" in answer:
            print(answer["error"], file=sys.stderr)
        if "error" in answer:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
