"""Where glibc puts large tensors."""

from __future__ import annotations

import torch

from vit_colossal.runtime.memory import heap_use, keep_large_allocations, mapping_large_allocations

MEGA = 2**20


def mapped_by_a_tensor() -> int:
    """How many pieces of memory a tensor of 2 MiB has mapped apart from the heap."""
    before = heap_use().hblks
    tensor = torch.empty(2 * MEGA, dtype=torch.uint8)
    mapped = int(heap_use().hblks - before)
    del tensor
    return mapped


def test_large_tensors_are_mapped_although_the_heap_has_room_for_them() -> None:
    keep_large_allocations()
    freed = [torch.empty(2 * MEGA, dtype=torch.uint8) for _ in range(20)]
    pinned = torch.empty(4096, dtype=torch.uint8)  # above them, so that the heap stays large
    del freed
    assert mapped_by_a_tensor() == 0
    with mapping_large_allocations():
        assert mapped_by_a_tensor() == 1
    assert mapped_by_a_tensor() == 0
    del pinned
