"""What extrapolated times rest on, and what links of another speed would change."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from vit_colossal.forecast.candidates import Candidate, Candidates
from vit_colossal.forecast.extrapolation import Extrapolation
from vit_colossal.forecast.profiles import CALL_S, DEVICES_PER_HOST, GB, PEAK_SHARE, DeviceProfile


def as_sentences(extrapolation: Extrapolation, precision: str, shown: int) -> list[str]:
    """All numbers that the times are made of; for each other speed of the links what is first
    then, how long it takes, and which of the ``shown`` rows stay in their places."""
    others = [
        f"Links {_words(factor)}: {_first(extrapolation.found, other)}"
        f"{_rows(extrapolation.found, other, shown)}."
        for factor, other in extrapolation.others.items()
    ]
    return [_inputs(extrapolation.profile, precision), *others]


def as_document(extrapolation: Extrapolation, precision: str) -> dict[str, Any]:
    """Both, as JSON."""
    profile = extrapolation.profile
    before = extrapolation.found.found[0]
    return {
        "source": profile.source,
        "flops": profile.flops(precision),
        "share_of_peak": PEAK_SHARE,
        "memory_bytes_per_second": profile.bandwidth,
        "link": profile.link_name,
        "link_bytes_per_second": profile.link,
        "network_bytes_per_second": profile.network,
        "network": profile.network_words,
        "devices_per_host": DEVICES_PER_HOST,
        "call_seconds": CALL_S,
        "other_links": [
            {
                "factor": factor,
                "first": other.found[0].flags,
                "step_seconds": _seconds(other.found[0]),
                "change": _seconds(other.found[0]) / _seconds(before) - 1,
                "rows_in_place": len(_same_rows(extrapolation.found, other)),
                "order": [
                    {"flags": each.flags, "step_seconds": _seconds(each)}
                    for each in other.of_each_layout
                ],
            }
            for factor, other in extrapolation.others.items()
        ],
    }


def _inputs(profile: DeviceProfile, precision: str) -> str:
    bits, peak = 32 if precision == "fp32" else 16, profile.flops(precision) / 1e12
    return (
        f"Times by that data sheet: {peak:g} TFLOP/s dense in {bits} bits, of which "
        f"{PEAK_SHARE:.0%} are reached (assumed: Llama 3's on H100s, arXiv:2407.21783, table 4); "
        f"{profile.bandwidth / GB:,.0f} GB/s of memory; {profile.link / GB:g} GB/s each "
        f"way by {profile.link_name} among the {DEVICES_PER_HOST} devices of a host; "
        f"{profile.network / GB:g} GB/s for each device between hosts (assumed: "
        f"{profile.network_words}); {CALL_S * 1e6:g} us a call (assumed); nothing for what is sent "
        "beside the backward pass as far as that takes as long (assumed)."
    )


def _words(factor: float) -> str:
    return {0.5: "half as fast", 2.0: "twice as fast"}.get(factor, f"{factor:g} times as fast")


def _first(before: Candidates, other: Candidates) -> str:
    first, was = other.found[0], before.found[0]
    change = _seconds(first) / _seconds(was) - 1
    stays = "stays first" if first.flags == was.flags else "would be first"
    return f"{first.flags} {stays}, {_seconds(first):.3g} s a step ({change:+.1%})"


def _same_rows(before: Candidates, other: Candidates) -> list[Candidate]:
    """From the first on, those of both in the same place."""
    pairs = zip(before.of_each_layout, other.of_each_layout, strict=True)
    return [row for row, _ in takewhile(lambda pair: pair[0].flags == pair[1].flags, pairs)]


def _rows(before: Candidates, other: Candidates, shown: int) -> str:
    same, all_shown = len(_same_rows(before, other)), min(shown, len(before.of_each_layout))
    if same >= all_shown:
        return "; all rows above stay in their order"
    return f"; the order changes from row {same + 1} on" if same else ""


def _seconds(candidate: Candidate) -> float:
    assert candidate.time is not None
    return candidate.time.total
