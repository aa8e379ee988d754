"""Exact evaluation against scikit-learn, and its counts under any way of sharing out a split."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from vit_colossal.data.loaders import EvalBatches, Shard
from vit_colossal.data.pixels import CachedSplit
from vit_colossal.data.samples import IGNORED_LABEL, PADDING_INDEX
from vit_colossal.evaluation.exact import Evaluation, _Sums

CPU = torch.device("cpu")
EXAMPLES = settings(max_examples=80, deadline=None)


def names(count: int) -> tuple[str, ...]:
    return tuple(f"label {index}" for index in range(count))


def scores(seed: int, rows: int, num_labels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [rows, num_labels] without ties, and labels that they get right about half the time.

    Every second label never occurs for odd seeds: metrics have to cope with empty rows.
    """
    random = np.random.RandomState(seed)
    ranks = np.stack([random.permutation(num_labels) for _ in range(rows)])
    logits = torch.from_numpy(ranks / 2 + random.rand(rows, 1)).float()
    labels = torch.from_numpy(random.randint(0, num_labels, rows))
    right = torch.from_numpy(random.rand(rows) < 0.5)
    labels = torch.where(right, logits.argmax(dim=-1), labels)
    return logits, labels - labels % 2 if seed % 2 else labels


def summed(
    logits: torch.Tensor, labels: torch.Tensor, batch: int, seed: int, num_labels: int
) -> _Sums:
    """The sums over batches, with rows of padding strewn in."""
    random = np.random.RandomState(seed)
    sums = _Sums(CPU, num_labels)
    for start in range(0, len(labels), batch):
        rows, truth = logits[start : start + batch], labels[start : start + batch]
        padding = random.randint(0, 4)
        rows = torch.cat([rows, torch.from_numpy(random.randn(padding, num_labels)).float()])
        truth = torch.cat([truth, torch.full((padding,), IGNORED_LABEL)])
        order = torch.from_numpy(random.permutation(len(truth)))
        sums.add(rows[order], truth[order])
    return sums


@EXAMPLES
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 60),
    num_labels=st.integers(2, 12),
    batch=st.integers(1, 20),
)
def test_metrics_are_those_of_scikit_learn(
    seed: int, rows: int, num_labels: int, batch: int
) -> None:
    logits, labels = scores(seed, rows, num_labels)
    sums = summed(logits, labels, batch, seed, num_labels)
    found = sums.result(rows, names(num_labels))
    truth, predicted = labels.numpy(), logits.argmax(dim=-1).numpy()
    every = np.arange(num_labels)

    assert found.total == rows
    assert found.correct == accuracy_score(truth, predicted, normalize=False)
    assert found.confusion == tuple(
        tuple(row) for row in confusion_matrix(truth, predicted, labels=every).tolist()
    )
    expected = precision_recall_fscore_support(truth, predicted, labels=every, zero_division=0)
    columns = [(s.precision, s.recall, s.f1, s.support) for s in found.per_class()]
    np.testing.assert_allclose(np.array(columns).T, expected, rtol=1e-12, atol=0)
    occurring = np.unique(truth)
    macro = f1_score(truth, predicted, labels=occurring, average="macro", zero_division=0)
    assert found.macro_f1 == pytest.approx(macro, rel=1e-12)
    probabilities = logits.double().softmax(dim=-1).numpy()
    assert found.loss == pytest.approx(log_loss(truth, probabilities, labels=every), rel=1e-5)
    if num_labels > 5:  # scikit-learn has no top-5 of five labels or fewer: all are right there
        top5 = top_k_accuracy_score(truth, logits.numpy(), k=5, labels=every, normalize=False)
        assert found.correct_top5 == top5
    else:
        assert found.correct_top5 == rows


def test_a_tie_counts_as_argmax_decides() -> None:
    logits = torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0]])
    sums = _Sums(CPU, 3)
    sums.add(logits, torch.tensor([0, 1]))
    assert sums.result(2, names(3)).correct == int(
        (logits.argmax(-1) == torch.tensor([0, 1])).sum()
    )


def test_a_batch_of_padding_alone_counts_nothing() -> None:
    sums = _Sums(CPU, 3)
    sums.add(torch.randn(4, 3), torch.full((4,), IGNORED_LABEL))
    assert not sums.confusion.any()
    assert sums.loss.item() == 0.0
    assert sums.top5.item() == 0


@pytest.mark.parametrize("num_samples", [2, 4])
def test_a_sample_too_few_or_too_many_is_an_error(num_samples: int) -> None:
    sums = _Sums(CPU, 2)
    sums.add(torch.randn(3, 2), torch.tensor([0, 1, 0]))
    with pytest.raises(RuntimeError, match=f"3 samples of a split of {num_samples}"):
        sums.result(num_samples, names(2))


def evaluated(split: CachedSplit, logits: torch.Tensor, batch: int, shards: int) -> Evaluation:
    """Evaluate as ``shards`` replicas do, and add their sums up."""
    num_labels = logits.shape[-1]
    total = _Sums(CPU, num_labels)
    for rank in range(shards):
        mine = _Sums(CPU, num_labels)
        for part in EvalBatches(split, batch, Shard(rank, shards)).batches():
            # Padding is scored like any other row: only its label keeps it out.
            mine.add(logits[part.indices], part.labels)
        total.loss += mine.loss
        total.top5 += mine.top5
        total.confusion += mine.confusion
    return total.result(len(split), names(num_labels))


@EXAMPLES
@given(
    seed=st.integers(0, 10_000),
    size=st.integers(1, 70),
    batch=st.integers(1, 24),
    shards=st.integers(1, 6),
)
def test_counts_do_not_depend_on_how_the_split_is_shared_out(
    seed: int, size: int, batch: int, shards: int
) -> None:
    logits, labels = scores(seed, size, 11)
    images = np.zeros((size, 3, 2, 2), dtype=np.uint8)
    split = CachedSplit(images, labels.numpy())
    alone = evaluated(split, logits, size, 1)
    shared = evaluated(split, logits, batch, shards)
    assert shared.confusion == alone.confusion
    assert (shared.correct, shared.total) == (alone.correct, size)
    assert shared.correct_top5 == alone.correct_top5
    assert shared.per_class() == alone.per_class()
    assert shared.loss == pytest.approx(alone.loss, rel=1e-6)


@EXAMPLES
@given(size=st.integers(1, 200), batch=st.integers(1, 40), shards=st.integers(1, 8))
def test_every_sample_is_dealt_out_once_in_batches_of_one_size(
    size: int, batch: int, shards: int
) -> None:
    split = CachedSplit(np.zeros((size, 3, 1, 1), dtype=np.uint8), np.arange(size))
    dealt = [
        list(EvalBatches(split, batch, Shard(rank, shards)).batches()) for rank in range(shards)
    ]
    parts = [part for mine in dealt for part in mine]
    assert len({len(mine) for mine in dealt}) == 1
    assert {len(part.labels) for part in parts} == {batch}
    indices = torch.cat([part.indices for part in parts])
    labels = torch.cat([part.labels for part in parts])
    real = indices != PADDING_INDEX
    assert sorted(indices[real].tolist()) == list(range(size))
    assert torch.equal(labels[real], indices[real])
    assert set(labels[~real].tolist()) <= {IGNORED_LABEL}
