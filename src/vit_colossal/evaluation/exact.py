"""Exact evaluation: every sample of the split once, under every layout.

All replicas run the same number of forwards of the same size (padding carries label -100);
counts and loss sums come from the logits and are divided once, at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy

from vit_colossal.data.samples import IGNORED_LABEL, PADDING_INDEX, Batch
from vit_colossal.evaluation.predictions import Predictions
from vit_colossal.evaluation.scores import Evaluation
from vit_colossal.strategies.engine import Engine
from vit_colossal.strategies.inputs import stage_inputs


def evaluate(
    engine: Engine,
    batches: Iterable[Batch],
    num_samples: int,
    labels: tuple[str, ...],
    *,
    predictions: bool = False,
) -> Evaluation:
    """Evaluate this replica's batches and sum over all replicas.

    Args:
        engine: the boosted model.
        batches: this replica's share of the split, every batch of the same size.
        num_samples: size of the split; the number of samples seen has to equal it.
        labels: label names, in order.
        predictions: also tell what each image got.

    Raises:
        RuntimeError: a sample was seen twice or not at all.
    """
    rows = _Rows() if predictions else None
    sums = _Sums(engine.device, len(labels), rows)
    if rows is not None:
        batches = rows.noting(batches)
    engine.model.eval()
    with torch.no_grad(), engine.evaluated_weights():
        if engine.pipelined:
            inputs = (stage_inputs(engine, batch) for batch in batches)
            engine.strategy.forward_pipeline(engine, inputs, sums.add)
        else:
            for batch in batches:
                logits = engine.model(pixel_values=engine.pixels(batch.images)).logits
                sums.add(logits, batch.labels.to(engine.device, non_blocking=True))
    engine.model.train()
    sums.reduce(engine)
    result = sums.result(num_samples, labels)
    return result if rows is None else replace(result, predictions=rows.gather(engine, labels))


class _Sums:
    """Counts and the loss sum, kept on the device until the end of the split."""

    def __init__(self, device: torch.device, num_labels: int, rows: _Rows | None = None) -> None:
        self.rows = rows
        self.loss = torch.zeros(1, dtype=torch.float64, device=device)
        self.top5 = torch.zeros(1, dtype=torch.int64, device=device)
        self.confusion = torch.zeros(num_labels, num_labels, dtype=torch.int64, device=device)

    def add(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Count logits [B, labels] against labels int64 [B], leaving out the padding."""
        if self.rows is not None:
            self.rows.add(logits.float(), labels)
        logits, real = logits.float(), labels != IGNORED_LABEL
        if logits.device.type == "cpu":
            # A GPU would have to be waited for, to know how many rows are left.
            logits, labels, real = logits[real], labels[real], real[real]
        losses = cross_entropy(logits, labels, reduction="none", ignore_index=IGNORED_LABEL)
        self.loss += losses.double().sum()
        ranked = logits.topk(min(5, logits.shape[-1])).indices
        self.top5 += (ranked == labels[:, None]).sum()
        # Not ranked[:, 0]: topk and argmax break ties differently, and users compare with argmax.
        predicted = logits.argmax(dim=-1)
        places = (labels.clamp(min=0), predicted)
        self.confusion.index_put_(places, real.long(), accumulate=True)

    def reduce(self, engine: Engine) -> None:
        """Sum over the replicas, then tell every rank what the last stage knows."""
        for values in (self.loss, self.top5, self.confusion):
            if engine.last_stage:
                dist.all_reduce(values, group=engine.dp_group)
            dist.broadcast(values, src=engine.dims.loss_rank)

    def result(self, num_samples: int, labels: tuple[str, ...]) -> Evaluation:
        """The metrics of a split of ``num_samples``, once everything is summed."""
        seen = int(self.confusion.sum())
        if seen != num_samples:
            raise RuntimeError(f"evaluation saw {seen} samples of a split of {num_samples}")
        return Evaluation(
            loss=self.loss.item() / seen,
            correct=int(self.confusion.trace()),
            total=seen,
            correct_top5=int(self.top5),
            confusion=tuple(tuple(row) for row in self.confusion.tolist()),
            labels=labels,
        )


class _Rows:
    """What each image got, in the order in which this replica sees its images.

    A row is label, prediction, loss, then the best scores and their labels: float64 holds them all
    exactly, so that one tensor is gathered. Padding has its row, which is left out at the end.
    """

    def __init__(self) -> None:
        self.indices: list[torch.Tensor] = []
        self.labels: list[torch.Tensor] = []
        self.parts: list[torch.Tensor] = []

    def noting(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Pass the batches on and remember which images they hold."""
        for batch in batches:
            self.indices.append(batch.indices)
            self.labels.append(batch.labels)
            yield batch

    def add(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Note logits fp32 [B, labels] and labels int64 [B] of the next B images."""
        top = logits.softmax(dim=-1).topk(min(5, logits.shape[-1]))
        loss = cross_entropy(logits, labels, reduction="none", ignore_index=IGNORED_LABEL)
        columns = torch.stack([labels, logits.argmax(dim=-1), loss], dim=1)
        self.parts.append(torch.cat([columns, top.values, top.indices], dim=1).double())

    def gather(self, engine: Engine, labels: tuple[str, ...]) -> Predictions | None:
        """All replicas' rows in the order of the split, on the lead rank.

        Raises:
            RuntimeError: rows and images do not belong together, or an image has not one row.
        """
        every = self._of_all_replicas(engine) if engine.last_stage else None
        if engine.pipelined:
            every = self._on_the_lead(engine, every, columns=4 + 2 * min(5, len(labels)))
        if every is None or not engine.is_lead:
            return None
        rows = every.cpu().numpy()
        rows = rows[rows[:, 0] != PADDING_INDEX]
        rows = rows[rows[:, 0].argsort()]
        if not np.array_equal(rows[:, 0], np.arange(len(rows))):
            raise RuntimeError("an image of the split was predicted twice or not at all")
        scores, places = np.split(rows[:, 4:], 2, axis=1)
        return Predictions(
            labels,
            label=rows[:, 1].astype(np.int64),
            prediction=rows[:, 2].astype(np.int64),
            loss=rows[:, 3].astype(np.float32),
            top_labels=places.astype(np.int64),
            top_scores=scores.astype(np.float32),
        )

    def _of_all_replicas(self, engine: Engine) -> torch.Tensor:
        """The rows with their images' numbers in front, on every rank of the last stage."""
        mine = torch.cat(self.parts)
        if not torch.equal(mine[:, 0].cpu(), torch.cat(self.labels).double()):
            raise RuntimeError("the last stage did not score the images in their order")
        indices = torch.cat(self.indices).double().to(engine.device)
        mine = torch.cat([indices[:, None], mine], dim=1)
        every = [torch.empty_like(mine) for _ in range(engine.dims.dp)]
        dist.all_gather(every, mine, group=engine.dp_group)
        return torch.cat(every)

    def _on_the_lead(
        self, engine: Engine, every: torch.Tensor | None, columns: int
    ) -> torch.Tensor | None:
        """Bring the rows from the last stage, which has scored them, to the rank that writes."""
        dims = engine.dims
        if engine.rank == dims.loss_rank and every is not None:
            dist.send(every, dst=dims.lead_rank)
        if not engine.is_lead:
            return None
        count = dims.dp * sum(len(indices) for indices in self.indices)
        rows = torch.empty(count, columns, dtype=torch.float64, device=engine.device)
        dist.recv(rows, src=dims.loss_rank)
        return rows
