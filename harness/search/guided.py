"""The guided sampler: it asks for the plan that is expected to improve most on the best one, given a prediction.

What a prediction was wrong by is learnt from the trials that have finished (`harness.search.residual`). Without a
prediction the same sampler is plain Bayesian optimization.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from harness.search.choosers import Domain, at_random
from harness.search.guide import Guide
from harness.search.ledger import distribution, point_of
from harness.search.residual import Array, Residual, expected_improvement
from harness.search.spaces import GLOBAL_BATCH_SIZE, Point, Spaces
from strategies.knob import Setting

NEIGHBOURS = 64
"""Points near the best ones that are looked at besides: numbers of a range lie between the points of the grid."""
FAILED = math.log(2.0)
"""How much worse than the worst plan one counts that failed."""
TRUSTED = 400
"""Trials that are learnt from, the latest ones."""


class GuidedSampler(BaseSampler):
    """An Optuna sampler over points of a space.

    Args:
        spaces: what is searched.
        guide: what is predicted.
        seed: of everything that is drawn.
    """

    def __init__(self, spaces: Spaces, guide: Guide, seed: int) -> None:
        self._spaces, self._guide = spaces, guide
        self._random, self._rng = RandomSampler(seed=seed), random.Random(seed)
        guide.prepare(spaces.candidates)
        self._predicted: dict[Point, tuple[float, ...] | None] = {}
        self._chosen: dict[int, dict[str, tuple[Domain, Setting]]] = {}

    # -- Optuna's interface

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The choices on the way to the point that is asked for."""
        fixed = trial.system_attrs.get("fixed_params", {})
        if set(fixed) - {GLOBAL_BATCH_SIZE}:  # the point was settled before
            return {}
        point = self.next_point(study, fixed.get(GLOBAL_BATCH_SIZE))
        if point is None:
            return {}
        self._chosen[trial.number] = self._spaces.trace(point)
        return {name: distribution(domain) for name, (domain, _) in self._chosen[trial.number].items()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The values of those choices."""
        return {name: value for name, (_, value) in self._chosen.pop(trial.number, {}).items()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value, of choices that no point was asked for."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        self._random.reseed_rng()
        self._rng = random.Random()

    # -- choosing

    def next_point(self, study: Study, size: int | None = None) -> Point | None:
        """The point from which most is expected; None if every candidate was tried.

        Args:
            study: with the finished trials.
            size: the only global batch size to choose from; None for any.
        """
        trials = [(point, trial) for trial in study.get_trials(deepcopy=False) if (point := point_of(trial))]
        known = {point for point, _ in trials}
        seen = [(p, t.values) for p, t in trials if t.state is TrialState.COMPLETE and t.values][-TRUSTED:]
        near = [p for p in self._near([p for p, _ in seen[-NEIGHBOURS:]]) if self._spaces.why_not(p) is None]
        self._guide.prepare((*self._spaces.candidates, *near))
        open_points = [
            point
            for point in dict.fromkeys((*self._spaces.candidates, *near))
            if point not in known and size in (None, point.global_batch_size) and self._guide.why_not(point) is None
        ]
        if not open_points:
            return None
        failed = [point for point, trial in trials if trial.state is TrialState.PRUNED][-TRUSTED // 4 :]
        signs = [1.0 if d is StudyDirection.MINIMIZE else -1.0 for d in study.directions]
        weights = _weights(len(signs), self._rng)
        wanted = self._promise(open_points, seen, failed, np.array(signs), weights, size)
        return open_points[int(np.argmax(wanted))]

    def _promise(
        self,
        points: Sequence[Point],
        seen: Sequence[tuple[Point, Sequence[float]]],
        failed: Sequence[Point],
        signs: Array,
        weights: Array,
        size: int | None,
    ) -> Array:
        """Expected improvement of each candidate; several objectives are weighed anew each time (Knowles 2006, ParEGO).

        A plan that failed counts as twice as bad as the worst one, so that plans like it are left for later.
        """

        def scalar(values: Sequence[float] | None) -> float:
            if values is None:
                return math.nan
            return float(weights @ (signs * np.log(np.maximum(values, 1e-300))))

        measured = [scalar(values) for _, values in seen]
        predicted = [scalar(self._value(point)) for point, _ in seen]
        usual = float(np.mean(measured)) if measured else 0.0
        guess = [usual if math.isnan(value) else value for value in predicted]
        bad = [scalar(self._value(point)) for point in failed]
        bad = [usual if math.isnan(value) else value for value in bad]
        worst = max(measured or bad, default=0.0) + FAILED
        residual = Residual(
            [_features(point) for point in (*(point for point, _ in seen), *failed)],
            [*(m - g for m, g in zip(measured, guess, strict=True)), *(max(worst - b, 0.0) for b in bad)],
        )
        mean, deviation = residual.at([_features(point) for point in points])
        expected = np.array([scalar(self._value(point)) for point in points])
        mean = mean + np.where(np.isnan(expected), usual, expected)
        same = [m for (point, _), m in zip(seen, measured, strict=True) if size in (None, point.global_batch_size)]
        best = min(same) if same else float(np.min(mean))
        return expected_improvement(mean, deviation, best)

    def _value(self, point: Point) -> tuple[float, ...] | None:
        if point not in self._predicted:
            self._predicted[point] = self._guide.values(point)
        return self._predicted[point]

    def _near(self, points: Sequence[Point]) -> list[Point]:
        """Points that differ from finished ones in a few choices."""
        if not points:
            return []
        choose = at_random(self._rng)
        found = []
        for _ in range(NEIGHBOURS):
            parent = {name: value for name, (_, value) in self._spaces.trace(self._rng.choice(points)).items()}

            def answer(name: str, domain: Domain, parent: Mapping[str, Setting] = parent) -> Setting:
                kept = parent.get(name)
                return choose(name, domain) if kept is None or self._rng.random() < 0.2 else kept

            found.append(self._spaces.draw(answer))
        return found


def _features(point: Point) -> Mapping[str, Setting]:
    return {**point.plan, GLOBAL_BATCH_SIZE: point.global_batch_size}


def _weights(count: int, rng: random.Random) -> Array:
    """Weights of objectives, which sum to one: all the weight if there is but one."""
    drawn = [rng.expovariate(1.0) for _ in range(count)]
    return np.array(drawn) / sum(drawn)
