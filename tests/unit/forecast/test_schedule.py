"""A pipeline played through takes what it takes by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from vit_colossal.forecast.schedule import one_forward_one_backward


def alike(busy: int) -> float:
    return 1.0


@pytest.mark.parametrize(("stages", "batches"), [(1, 1), (1, 5), (2, 1), (2, 4), (4, 2), (4, 16)])
def test_equal_stages_idle_as_narayanan_has_it(stages: int, batches: int) -> None:
    """(m + p - 1) times both passes, section 2.2."""
    found = one_forward_one_backward([(1.0, 2.0)] * stages, batches, alike)
    assert found == pytest.approx(3 * (batches + stages - 1))


@pytest.mark.parametrize(
    ("passes", "seconds"),
    [
        # f1 on the first stage, then F B four times on the last one, and B on the first.
        ([(1.0, 1.0), (3.0, 6.0)], 1 + 4 * 9 + 1),
        # The last stage is done while the first still takes another micro-batch.
        ([(3.0, 6.0), (1.0, 1.0)], 4 * 9),
        ([(0.0, 0.0), (1.0, 2.0)], 4 * 3),
    ],
)
def test_the_slowest_stage_sets_the_pace(
    passes: Sequence[tuple[float, float]], seconds: float
) -> None:
    assert one_forward_one_backward(passes, 4, alike) == pytest.approx(seconds)


def test_stages_that_share_a_core_cannot_win() -> None:
    """On one core all work is done one after the other, in whatever order."""
    found = one_forward_one_backward([(1.0, 2.0)] * 4, 3, lambda busy: busy / 4)
    assert found == pytest.approx(4 * 3 * 3 / 4)


def test_a_stage_alone_is_faster() -> None:
    """Two stages of one micro-batch are never at work together."""
    assert one_forward_one_backward([(1.0, 2.0)] * 2, 1, lambda busy: busy / 2) == pytest.approx(3)
