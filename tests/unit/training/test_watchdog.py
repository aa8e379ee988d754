"""What a rank does that gives up on another one."""

from __future__ import annotations

import pytest
import torch

from vit_colossal.training import stop


def test_a_peer_that_may_be_frozen_is_woken_when_its_answer_does_not_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else it could not even end when the launcher asks, which kills it half a minute later."""
    woken: list[bool] = []
    monkeypatch.setattr(stop, "_wake_peers", lambda: woken.append(True))
    monkeypatch.setattr(stop.dist, "get_rank", lambda: 0)
    watchdog = stop.Watchdog(60, ["host"], lambda: 7)
    with (
        pytest.raises(stop.PeerLost, match=r"rank 0 \(host\) at step 7"),
        watchdog.watching(torch.nn.Linear(1, 1)),
    ):
        raise RuntimeError("[/pytorch/third_party/gloo/gloo/transport/x.cc:1] Timed out")
    assert woken == [True]
