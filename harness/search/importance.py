"""Which knobs matter: how much of what sets the best trials apart lies in each of them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import optuna
from optuna.distributions import CategoricalDistribution

from strategies.knob import Setting

FEWEST = 10
"""Trials below which nothing is said."""
MOST_VALUES, QUARTERS = 6, 4
"""Different numbers of a knob that count each for itself; parts into which more are divided."""
TOP = 0.25
"""Share of the trials that count as the best."""


def importance(settings: Sequence[Mapping[str, Setting]], values: Sequence[float]) -> dict[str, float]:
    """Share of each knob, the largest first; they add up to 1. {} if there are too few trials, or all are alike.

    PED-ANOVA (Watanabe, Bansal and Hutter 2023, arXiv:2304.10255): how far the distribution of a knob's values among
    the best trials is from that among all of them. A knob that a plan does not have counts as a value of its own.

    Args:
        settings: knob -> value, one mapping for each trial.
        values: of the trials in the same order; more is better.
    """
    names = sorted({name for plan in settings for name in plan})
    by_name = {name: classes([plan.get(name) for plan in settings]) for name in names}
    texts = [{name: by_name[name][at] for name in names} for at in range(len(settings))]
    choices = {name: sorted({plan[name] for plan in texts}) for name in names}
    varied = {name: CategoricalDistribution(found) for name, found in choices.items() if len(found) > 1}
    if len(values) < FEWEST or not varied or max(values) == min(values):
        return {}
    trials = [
        optuna.trial.create_trial(params={name: plan[name] for name in varied}, distributions=dict(varied), value=value)
        for plan, value in zip(texts, values, strict=True)
    ]
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(direction="maximize")
        study.add_trials(trials)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=TOP)
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
    finally:
        optuna.logging.set_verbosity(level)


def classes(values: Sequence[Setting | None]) -> list[str]:
    """Values of a knob as text; numbers that hardly ever repeat as quarters of them, such as "3.1 to 12".

    Args:
        values: None where a plan does not have the knob.
    """
    numbers = sorted(v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool))
    if len(set(numbers)) <= MOST_VALUES:
        return [_text(value) for value in values]
    ends = [numbers[(len(numbers) - 1) * part // QUARTERS] for part in range(QUARTERS + 1)]
    return [_range(value, ends) if isinstance(value, (int, float)) else _text(value) for value in values]


def _range(value: float, ends: Sequence[float]) -> str:
    at = next(at for at in range(1, len(ends)) if value <= ends[at])
    return f"{ends[at - 1]:.3g} to {ends[at]:.3g}"


def _text(value: Setting | None) -> str:
    return "without" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
