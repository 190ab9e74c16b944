"""Optuna's samplers by name. Each is imported only when it is built."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from harness.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from harness.search.guide import Guide
    from harness.search.spaces import Spaces

GUIDED = "guided"
"""Follows a prediction and learns what it was wrong by."""

GRID = "grid"
"""Walks the grid in order; the loop enqueues each plan, so the sampler itself is never relied on."""

_SINGLE_OBJECTIVE = frozenset({"cmaes"})


def names() -> tuple[str, ...]:
    """The samplers there are."""
    return tuple(_REGISTRY)


def check(name: str, objectives: int) -> None:
    """Whether a sampler of this name can search this many objectives, without importing it.

    Raises:
        UnknownNameError: there is no such sampler.
        InputError: it searches one objective only.
    """
    if name not in _REGISTRY:
        raise UnknownNameError("sampler", name, _REGISTRY)
    if objectives > 1 and name in _SINGLE_OBJECTIVE:
        several = ", ".join(sorted(set(_REGISTRY) - _SINGLE_OBJECTIVE))
        raise InputError(f"sampler {name!r} searches one objective, but {objectives} were asked for; {several} can")


def build(name: str, *, seed: int, objectives: int, spaces: Spaces, guide: Guide) -> BaseSampler:
    """A new sampler.

    Args:
        name: one of `names()`.
        seed: of everything it draws.
        objectives: number of values a trial has.
        spaces: what is searched.
        guide: what is predicted; only the guided sampler asks it.

    Raises:
        UnknownNameError: there is no such sampler.
        InputError: it searches one objective only.
    """
    check(name, objectives)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # grouped TPE is marked experimental
        return _REGISTRY[name](seed, spaces, guide)


def _guided(seed: int, spaces: Spaces, guide: Guide) -> BaseSampler:
    from harness.search.guided import GuidedSampler

    return GuidedSampler(spaces, guide, seed)


def _tpe(seed: int, spaces: Spaces, guide: Guide) -> BaseSampler:
    """Tree-structured Parzen estimator, jointly over knobs that exist together (Falkner 2018, arXiv:1807.01774)."""
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, multivariate=True, group=True, warn_independent_sampling=False)


def _gp(seed: int, spaces: Spaces, guide: Guide) -> BaseSampler:
    """Gaussian process over the knobs that every plan has; the others at random."""
    from optuna.samplers import GPSampler

    return GPSampler(seed=seed, warn_independent_sampling=False)


def _random(seed: int, spaces: Spaces, guide: Guide) -> BaseSampler:
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


def _nsga2(seed: int, spaces: Spaces, guide: Guide) -> BaseSampler:
    """Genetic algorithm. Its usual population of 50 is more than most sweeps launch, so it would never evolve."""
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(seed=seed, population_size=12)


def _cmaes(seed: int, spaces: Spaces, guide: Guide) -> BaseSampler:
    """Covariance matrix adaptation over the numbers that every plan has; the rest at random."""
    from optuna.samplers import CmaEsSampler

    return CmaEsSampler(seed=seed, warn_independent_sampling=False)


_REGISTRY: dict[str, Callable[[int, Spaces, Guide], BaseSampler]] = {
    GUIDED: _guided,
    "tpe": _tpe,
    "gp": _gp,
    "random": _random,
    GRID: _random,
    "nsga2": _nsga2,
    "cmaes": _cmaes,
}
