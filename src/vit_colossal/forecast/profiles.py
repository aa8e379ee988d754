"""Devices by their data sheets, and what is assumed of them beside."""

from __future__ import annotations

from dataclasses import dataclass, replace

GB = 10**9

#: Of a device's peak, what a model's products reach in training. Llama 3 reached 38 to 43 % on
#: 8,192 and 16,384 H100s in 16 bits (arXiv:2407.21783, table 4): the middle, for every device and
#: precision. What those runs waited for is in it, so that it is rather too low for products alone.
PEAK_SHARE = 0.4
#: Seconds that a call takes whatever its size, of a kernel as of a transfer: assumed.
CALL_S = 10e-6
#: Of one host: assumed, as in NVIDIA's DGX.
DEVICES_PER_HOST = 8


@dataclass(frozen=True)
class DeviceProfile:
    """A device by its data sheet, the network by assumption.

    Attributes:
        title: what it is called there.
        memory: bytes, as the sheet counts them.
        flops_16_bit, flops_32_bit: FLOP/s of dense products, without sparsity; those of 32 bits
            without TF32, which training switches off.
        bandwidth: bytes/s of its memory.
        link_name: what connects the devices of a host.
        link: bytes/s that a device sends by it, half of what the sheet adds up for both ways.
        network: bytes/s that a device sends to other hosts while all of its host do.
        network_words: where that is taken from.
        bf16: whether it computes in it.
    """

    title: str
    memory: int
    flops_16_bit: float
    flops_32_bit: float
    bandwidth: float
    link_name: str
    link: float
    network: float
    network_words: str
    bf16: bool = True

    @property
    def source(self) -> str:
        """The sheet."""
        return f"NVIDIA's data sheet of the {self.title}"

    def flops(self, precision: str) -> float:
        """FLOP/s of products in ``fp32``, ``bf16`` or ``fp16``."""
        return self.flops_32_bit if precision == "fp32" else self.flops_16_bit

    def with_links(self, factor: float) -> DeviceProfile:
        """The same device where all that connects it is so many times as fast."""
        return replace(self, link=self.link * factor, network=self.network * factor)


@dataclass(frozen=True)
class _Host:
    """What connects its devices, in GB/s each way, and them with others, in Gb/s for each."""

    link_name: str
    link: float
    network: float
    words: str


_DGX_H100 = _Host("NVLink", 450, 400, "400 Gb/s each, as in a DGX H100")
_DGX_A100 = _Host("NVLink", 300, 200, "200 Gb/s each, as in a DGX A100")
_DGX_1 = _Host("NVLink", 150, 50, "400 Gb/s for a host, as in a DGX-1")
_L40S = _Host("PCIe 4.0", 32, 50, "400 Gb/s for a host")
_L4 = _Host("PCIe 4.0", 32, 12.5, "100 Gb/s for a host")


def _profile(
    title: str, memory: float, half: float, single: float, bandwidth: float, host: _Host
) -> DeviceProfile:
    """From GB, TFLOP/s in 16 and 32 bits, and GB/s of memory."""
    return DeviceProfile(
        title=title,
        memory=round(memory * GB),
        flops_16_bit=half * 1e12,
        flops_32_bit=single * 1e12,
        bandwidth=bandwidth * GB,
        link_name=host.link_name,
        link=host.link * GB,
        network=host.network * GB / 8,
        network_words=host.words,
        bf16=not title.startswith("V100"),
    )


PROFILES = {
    "h200-141g": _profile("H200", 141, 989, 67, 4800, _DGX_H100),
    "h100-80g": _profile("H100 SXM", 80, 989, 67, 3350, _DGX_H100),
    "a100-80g": _profile("A100 80GB", 80, 312, 19.5, 2039, _DGX_A100),
    "a100-40g": _profile("A100 40GB", 40, 312, 19.5, 1555, _DGX_A100),
    "l40s-48g": _profile("L40S", 48, 362, 91.6, 864, _L40S),
    "l4-24g": _profile("L4", 24, 121, 30.3, 300, _L4),
    "v100-32g": _profile("V100 32GB", 32, 125, 15.7, 900, _DGX_1),
}
