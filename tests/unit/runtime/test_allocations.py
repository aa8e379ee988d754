"""Where glibc puts large tensors."""

from __future__ import annotations

import ctypes

import torch

from vit_colossal.runtime.memory import keep_large_allocations, mapping_large_allocations

MEGA = 2**20


def in_heap(tensor: torch.Tensor) -> bool:
    """Mapped ones lie far above it."""
    libc = ctypes.CDLL(None)
    libc.sbrk.restype, libc.sbrk.argtypes = ctypes.c_void_p, [ctypes.c_ssize_t]
    return tensor.data_ptr() < int(libc.sbrk(0))


def test_large_tensors_are_mapped_although_the_heap_has_room_for_them() -> None:
    keep_large_allocations()
    freed = [torch.empty(2 * MEGA, dtype=torch.uint8) for _ in range(20)]
    assert all(in_heap(each) for each in freed)
    pinned = torch.empty(4096, dtype=torch.uint8)  # above them, so that the heap stays large
    del freed
    with mapping_large_allocations():
        assert not in_heap(torch.empty(2 * MEGA, dtype=torch.uint8))
    assert in_heap(torch.empty(2 * MEGA, dtype=torch.uint8))
    del pinned
