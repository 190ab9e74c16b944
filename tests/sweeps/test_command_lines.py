"""The command that repeats a plan leads to the same plan."""

from __future__ import annotations

import itertools
import shlex

from hypothesis import given, settings
from hypothesis import strategies as st

import strategies
from harness.plan import parse_settings
from harness.search.choosers import at_random
from harness.search.space import Space
from harness.sweeps.command_lines import run_command
from harness.sweeps.config import SweepConfig
from harness.sweeps.experiment import prepare

KNOBS = strategies.knobs(strategies.registry().values())
DEFAULTS = {knob.name: knob.default for knob in KNOBS}


@given(st.randoms(use_true_random=False), st.sampled_from([1, 2, 4, 8]))
@settings(max_examples=60, deadline=None)
def test_a_printed_plan_is_read_back_as_the_same_plan(rng, world_size: int) -> None:
    config = SweepConfig(workload="gpt:blocks=8,width=64,heads=8", seq_len=32, world_size=world_size)
    experiment = prepare(config)
    (workload,) = experiment.workloads.values()
    plan = Space(experiment.strategies, KNOBS, experiment.facts(workload)).draw(at_random(rng))
    words = shlex.split(run_command(config, plan, DEFAULTS, str(config.workload), None))
    pairs = [word for before, word in itertools.pairwise(words) if before == "--set"]
    assert experiment.plan(parse_settings(pairs, KNOBS)) == plan
    assert words[:4] == ["python", "-m", "harness", "run"]
    assert words[words.index("--workload") + 1] == config.workload


def test_an_option_without_a_value_is_repeated_as_one() -> None:
    config = SweepConfig(workload="my_model.py:workload", keep_dropout=True, world_size=2)
    plan = prepare(SweepConfig(world_size=2)).plan({})
    words = shlex.split(run_command(config, plan, DEFAULTS, str(config.workload), None))
    assert words[words.index("--keep-dropout") + 1].startswith("--")
