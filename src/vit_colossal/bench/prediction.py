"""What is predicted of a case before it is measured, as ``vit-colossal plan`` does."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vit_colossal.bench.case import BenchCase
from vit_colossal.calibration.calibrate import in_own_processes, rates_of
from vit_colossal.calibration.work import Work
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.errors import ConfigError
from vit_colossal.forecast.candidates import candidates
from vit_colossal.forecast.devices import room_here
from vit_colossal.forecast.memory import predict, predicts
from vit_colossal.forecast.outline import outline
from vit_colossal.forecast.rates import Rates
from vit_colossal.forecast.step_time import step_time, why_untimed
from vit_colossal.forecast.subject import subject, undivided
from vit_colossal.plan.plan import RunPlan


@dataclass(frozen=True)
class Prediction:
    """Of one case; what is not predicted is None.

    Attributes:
        step_seconds: of an optimizer step, without waiting for images.
        growth_bytes: what the fullest rank takes beyond what its process has before.
        why: the reason where something is not predicted.
    """

    step_seconds: float | None = None
    growth_bytes: int | None = None
    why: str = ""


class Predictor:
    """Predicts cases; rates are read or measured once for those that divide the same work."""

    def __init__(self, *, calibrate: bool) -> None:
        """Whether to measure the machine where no rates of it are kept."""
        self._measure = in_own_processes if calibrate else _refuse
        self._rates: dict[tuple[str, int, int, int], Rates | ConfigError] = {}

    def predict(self, case: BenchCase, plan: RunPlan, num_labels: int) -> Prediction:
        """What a case will take.

        Args:
            case: no peer.
            plan: its run.
            num_labels: of its head.
        """
        if not predicts(plan):
            what = f"--plugin {plan.config.plugin} and models of type {plan.spec.model_type}"
            return Prediction(why=f"nothing is predicted of {what}")
        whole = outline(plan, num_labels)
        growth = predict(plan, whole).growth
        if reason := why_untimed(plan, whole):
            return Prediction(None, growth, f"no time is predicted with {reason}")
        rates = self._rates_for(case, plan, num_labels)
        if isinstance(rates, ConfigError):
            return Prediction(None, growth, str(rates))
        try:
            return Prediction(step_time(plan, whole, rates).total, growth)
        except KeyError as error:
            return Prediction(None, growth, f"nothing was measured of {error.args[0]}")

    def _rates_for(self, case: BenchCase, plan: RunPlan, num_labels: int) -> Rates | ConfigError:
        """Those that all ways to divide the case's work need, or why there are none."""
        config = undivided(plan.config)
        key = config.dump(), num_labels, case.processes, case.threads
        if key not in self._rates:
            os.environ["OMP_NUM_THREADS"] = str(case.threads)
            try:
                self._rates[key] = self._find(config, num_labels, case.processes)
            except ConfigError as error:
                self._rates[key] = error
        return self._rates[key]

    def _find(self, config: TrainConfig, num_labels: int, processes: int) -> Rates:
        room = room_here(config, processes)
        about = subject(config, set(), room.device, processes, num_labels)
        every = candidates(about.plan, set(), processes, room, about.whole)
        return rates_of(every, about, processes, room, measure=self._measure)[0]


def _refuse(work: Work, path: Path) -> None:
    raise ConfigError([f"no rates of this machine are kept in {path}: leave --no-calibrate out"])
