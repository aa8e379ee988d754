"""When a run saves, what it saves, and how it continues."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch.distributed as dist

from vit_colossal.checkpoints import files
from vit_colossal.checkpoints.state import TrainState, collect, not_finite, restore
from vit_colossal.plan import run_folder
from vit_colossal.plan.checkpoint import Checkpoint
from vit_colossal.strategies.engine import Engine

logger = logging.getLogger("vit_colossal")


def checkpoint_bytes(num_parameters: int) -> int:
    """About what a checkpoint takes on disk: the weights and both moments in fp32."""
    return 12 * num_parameters


class Checkpointer:
    """The ``checkpoints`` folder of one run. All ranks call its methods alike."""

    def __init__(
        self, engine: Engine, run_dir: Path, identity: dict[str, Any], layout: dict[str, Any]
    ) -> None:
        self.engine = engine
        self.root = run_dir / run_folder.CHECKPOINTS
        self.identity = {**identity, "layout": layout}
        self.layout = layout
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._written: Future[None] | None = None
        if engine.is_lead:
            files.sweep(self.root)

    def save(self, step: int, progress: dict[str, Any], *, best: bool) -> None:
        """Collect the state on the lead rank and write it there.

        With ``--async-save`` training goes on while the lead rank writes; the next call, or
        ``finish``, waits for it and tells how it went.

        Args:
            step: optimizer steps taken.
            progress: where the run is, as JSON.
            best: this is the best model so far, as `training.loop` judges.

        Raises:
            files.CheckpointError: on every rank, when the lead rank could not write.
        """
        # The earlier one first: two states at a time might not fit the memory.
        self.finish()
        state = collect(self.engine)
        if state is not None:
            self._written = self._writer.submit(self._write, step, state, progress, best)
        if not self.engine.plan.config.async_save:
            self._wait()

    def finish(self) -> None:
        """Wait until what was saved is on the disk.

        Raises:
            files.CheckpointError: on every rank, when the lead rank could not write.
        """
        if self.engine.plan.config.async_save:
            self._wait()

    def _wait(self) -> None:
        problem = [""]
        written, self._written = self._written, None
        try:
            if written is not None:
                written.result()
        except files.CheckpointError as error:
            problem = [str(error)]
        dist.broadcast_object_list(problem, src=self.engine.dims.lead_rank)
        if problem[0]:
            raise files.CheckpointError(problem[0])

    def _write(self, step: int, state: TrainState, progress: dict[str, Any], best: bool) -> None:
        config = self.engine.plan.config
        spoiled = not_finite(state)
        if spoiled:
            logger.warning("step %d is not saved: %s is not finite", step, spoiled)
            return
        tensors = {"weights": state.weights, "moments": state.moments, "rng": state.rng}
        if state.ema:
            tensors["ema"] = state.ema
        values = {"train_state": state.values, "progress": progress}
        path = files.write(self.root, step, tensors, values, self.identity)
        files.point(self.root, run_folder.LAST, path)
        if best and config.keep_best:
            files.point(self.root, run_folder.BEST, path)
        files.prune(self.root, config.keep_last)

    def resume(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Put the checkpoint's state into this run; returns the progress it was saved with."""
        saved = checkpoint.identity.get("layout", {})
        same = saved == self.layout
        state = checkpoint.state["train_state"]
        exact = restore(self.engine, checkpoint.path, state, same_layout=same)
        if self.engine.is_lead:
            how = "same layout, so bit-exact"
            if same and not exact:
                how = "same layout, but dropout draws anew: the checkpoint has not all generators"
            if not same:
                changed = ", ".join(files.differences(saved, self.layout))
                how = f"equal up to rounding, as sums are taken in another order ({changed})"
            logger.info("resumed from %s: %s", checkpoint.path, how)
            for path in files.drop_after(self.root, checkpoint.step):
                logger.info("deleted %s, of later steps that this run does anew", path)
        progress: dict[str, Any] = checkpoint.state["progress"]
        return progress

    def return_to_best(self) -> int | None:
        """Put the state of the best checkpoint into this run.

        Returns:
            Its step; None if none was kept.

        Raises:
            files.CheckpointError: it is damaged.
        """
        link = self.root / run_folder.BEST
        if not link.exists():
            return None
        best = files.verify(link.resolve())
        restore(self.engine, best.path, best.state["train_state"], same_layout=False)
        if self.engine.is_lead:
            logger.info("returned to the weights of %s", best.path)
        return best.step

    def last_good(self) -> str:
        """The newest checkpoint, in words."""
        paths = files.listed(self.root)
        return f"the last good checkpoint is {paths[0]}" if paths else "there is no checkpoint yet"
