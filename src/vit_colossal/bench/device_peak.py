"""Peak arithmetic of devices, where known: an unknown device has no MFU, not a guessed one."""

from __future__ import annotations

import torch

from vit_colossal.forecast.profiles import PROFILES

#: Dense 16-bit tensor-core peaks in FLOP/s, from NVIDIA's data sheets (without sparsity), by a part
#: of the device's name; the first that fits counts.
TENSOR_16_BIT = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    **{profile.title.split()[0]: profile.flops_16_bit for profile in PROFILES.values()},
}


def peak_flops(device: str, precision: str) -> float | None:
    """FLOP/s of one device in the given precision; None where it is not known.

    Args:
        device: ``cpu`` or ``cuda``.
        precision: ``fp32``, ``bf16`` or ``fp16``.
    """
    if device != "cuda" or precision == "fp32" or not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((peak for part, peak in TENSOR_16_BIT.items() if part in name), None)
