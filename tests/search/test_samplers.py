from __future__ import annotations

import subprocess
import sys
import warnings

import optuna
import pytest

from harness.errors import InputError, UnknownNameError
from harness.search import samplers
from harness.search.evaluation import Budget
from harness.search.guide import Blind
from harness.search.ledger import Ledger
from harness.search.loop import run
from harness.search.spaces import Spaces
from tests.search.fake_machine import Machine, space, throughput


def memory_study(*directions: str) -> optuna.Study:
    return optuna.create_study(directions=list(directions) or ["maximize"])


@pytest.mark.parametrize("name", samplers.names())
def test_a_sampler_asks_for_plans_of_a_conditional_space_without_a_warning(name: str) -> None:
    study = memory_study()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spaces = Spaces(space())
        study.sampler = samplers.build(name, seed=1, objectives=1, spaces=spaces, guide=Blind())
        ledger = Ledger(study, spaces)
        plans = []
        for turn in range(15):
            trial, (_, plan) = ledger.ask()
            plans.append(plan)
            study.tell(trial, throughput(plan)) if turn % 3 else study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    assert len(set(plans)) > 5
    assert all(plan.world_size == 2 for plan in plans)


@pytest.mark.parametrize("name", sorted({*samplers.names()} - {"cmaes"}))
def test_a_sampler_searches_two_objectives_of_which_some_trials_have_none(name: str) -> None:
    def values(plan):
        return None if plan["precision"] == "bf16" else (throughput(plan), float(plan["micro_batch_size"]))

    machine, study = Machine(values), memory_study("maximize", "minimize")
    summary = run(study, space(), machine.evaluate, machine.refuse, Budget(trials=25), sampler=name)
    assert len(machine.launched) == 25
    assert summary.best
    assert {plan["precision"] for plan in summary.best} == {"fp32"}


@pytest.mark.parametrize("name", samplers.names())
def test_a_sampler_survives_a_sweep_in_which_nothing_has_worked(name: str) -> None:
    machine = Machine(lambda plan: None)
    summary = run(memory_study(), space(), machine.evaluate, machine.refuse, Budget(trials=20), sampler=name)
    assert (summary.launched, summary.best) == (20, ())


def test_one_seed_gives_one_order_of_plans_and_another_seed_another() -> None:
    def plans(seed: int) -> list:
        machine = Machine()
        run(memory_study(), space(), machine.evaluate, machine.refuse, Budget(trials=15), sampler="tpe", seed=seed)
        return machine.launched

    assert plans(1) == plans(1) != plans(2)


def test_an_unknown_sampler_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean 'tpe'.*cmaes, gp, grid, guided, nsga2, random, tpe"):
        samplers.check("tpee", 1)


def test_a_sampler_of_one_objective_refuses_two_and_names_the_others() -> None:
    with pytest.raises(
        InputError, match="searches one objective, but 2 were asked for; gp, grid, guided, nsga2, random, tpe can"
    ):
        samplers.check("cmaes", 2)


def test_the_names_can_be_listed_without_importing_optuna() -> None:
    code = "import sys; from harness.search import samplers; samplers.names(); sys.exit('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
