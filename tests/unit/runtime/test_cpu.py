from __future__ import annotations

from pathlib import Path

import pytest

from vit_colossal.runtime.cpu import bf16_unit


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx2 avx512f", None),
        ("fpu avx512_bf16 avx512f", "AVX512-BF16"),
        ("fpu avx512_bf16 amx_bf16 amx_tile", "AMX"),
    ],
)
def test_the_unit_is_read_from_the_flags(tmp_path: Path, flags: str, expected: str | None) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\nmodel name\t: amx_bf16\nflags\t\t: {flags}\n")
    assert bf16_unit(file) == expected


def test_a_system_without_the_file_is_not_asked_further(tmp_path: Path) -> None:
    assert bf16_unit(tmp_path / "none") is None
