"""Every correction of PyTorch and ColossalAI, in one list.

Each stands in `kernels`, `patches` or `stage_patches` with the upstream lines that make it
necessary, and does nothing where they are mended. Two more are subclasses in `transfers`, which the
strategies build instead of upstream's classes. A test pins which run with ColossalAI 0.5.0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vit_colossal.runtime import kernels, patches, stage_patches, transfers


@dataclass(frozen=True)
class Correction:
    """One thing that is corrected.

    Attributes:
        apply: corrects it where it is necessary, and says whether it was.
        cpu_only: CUDA runs do without it.
    """

    apply: Callable[[], bool]
    cpu_only: bool = False

    @property
    def name(self) -> str:
        return self.apply.__name__


#: In the order in which they are applied: the kernels first, as others build optimizers.
CORRECTIONS = (
    Correction(kernels.register_stand_ins),
    Correction(patches.count_accumulated_gradients_once),
    Correction(patches.end_accumulation_with_every_step),
    Correction(patches.divide_bf16_gradients_in_adam),
    Correction(stage_patches.join_norms_without_gradients),
    Correction(stage_patches.let_the_first_group_be_empty),
    Correction(patches.give_record_stream_a_cpu_kernel, cpu_only=True),
    Correction(patches.name_the_hccl_backend, cpu_only=True),
    Correction(patches.keep_gemini_shards_resident, cpu_only=True),
    Correction(patches.fork_one_generator_once, cpu_only=True),
    Correction(patches.scale_fp16_loss_on_cpu, cpu_only=True),
)
#: Upstream's classes that strategies replace by a subclass.
SUBCLASSED = (transfers.ZeroPlugin, transfers.HybridPlugin)


def apply_corrections(device_type: str) -> list[str]:
    """Apply what a device needs.

    Args:
        device_type: ``cpu`` or ``cuda``.

    Returns:
        The names of those that changed something.
    """
    wanted = [each for each in CORRECTIONS if device_type == "cpu" or not each.cpu_only]
    return [each.name for each in wanted if each.apply()]
