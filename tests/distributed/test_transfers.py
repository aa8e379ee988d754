"""Fewer transfers than upstream's plugins make, and the same bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from launching import forked, run
from vit_colossal.runtime.transfers import buckets

WORKER = str(Path(__file__).with_name("transfers_worker.py"))


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    flags = ["--device", "cpu", "--dataset", "digits", "--model", "vit-micro"]
    flags += ["--global-batch-size", "16", "--max-steps", "4"]
    finished = run(forked(2, WORKER, *flags), timeout_s=200)
    assert finished.returncode == 0, finished.output
    line = next(line for line in finished.stdout.splitlines() if line.startswith("REPORT "))
    found: dict[str, Any] = json.loads(line.removeprefix("REPORT "))
    return found


@pytest.mark.parametrize("plugin", ["zero1", "zero2"])
def test_zero_trains_as_upstream_does_bit_for_bit(report: dict[str, Any], plugin: str) -> None:
    ours, upstream = report[plugin]["losses"]
    assert ours == upstream
    same, count = report[plugin]["same_weights"]
    assert same == count > 70


@pytest.mark.parametrize("plugin", ["zero1", "zero2"])
def test_zero_sends_one_bucket_instead_of_one_for_each_change_of_group(
    report: dict[str, Any], plugin: str
) -> None:
    ours, upstream = report[plugin]["calls"]
    assert ours == 1  # the model fits one bucket, and no norm is asked for
    assert upstream > 40


@pytest.mark.parametrize("plugin", ["zero1", "zero2"])
def test_a_bucket_is_as_large_as_the_plan_says(report: dict[str, Any], plugin: str) -> None:
    planned, used = report[plugin]["bucket_elements"]
    assert planned == used


def test_a_pipeline_averages_over_replicas_in_one_transfer(report: dict[str, Any]) -> None:
    same, calls = report["averaged"]
    assert same
    assert calls == 1


def test_buckets_hold_all_tensors_in_order() -> None:
    sizes = [4, 6, 1, 30, 2, 8, 1]
    found = buckets([torch.zeros(size) for size in sizes], 10)
    assert [[len(tensor) for tensor in bucket] for bucket in found] == [
        [4, 6],
        [1],
        [30],
        [2, 8],
        [1],
    ]
    assert buckets([], 10) == []
