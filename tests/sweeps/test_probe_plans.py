from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness.search import feasible
from harness.sweeps.config import load_config
from harness.sweeps.experiment import Experiment, prepare
from harness.sweeps.probe_plans import probes
from strategies import registry


def experiment(folder: Path, **options: object) -> Experiment:
    given = {"workload": "gpt-nano", "world_size": 2, "results": folder, "reports": folder, **options}
    return prepare(load_config(None, given))


def test_every_precision_and_every_way_to_divide_is_probed_and_each_plan_can_run(tmp_path: Path) -> None:
    made = experiment(tmp_path)
    workload = next(iter(made.workloads.values()))
    found = probes(made)
    assert {plan["precision"] for plan in found} == {"fp32", "bf16_autocast", "bf16_params", "bf16"}
    assert {plan["data_parallel"] for plan in found} == {"none", "ddp", "zero1", "zero2", "zero3"}
    assert {plan.get("zero2_impl") for plan in found} >= {"flat", "fsdp2"}
    assert {plan.get("sequence_parallel") for plan in found if plan["tp"] == 2} == {True, False}
    for plan in found:
        samples = int(plan["dp"]) * int(plan["micro_batch_size"])
        facts = replace(made.facts(workload, plan.world_size), global_batch_size=samples)
        assert feasible.why_not(plan, facts, registry().values()) is None


def test_what_matters_most_is_probed_first_and_nothing_twice(tmp_path: Path) -> None:
    found = probes(experiment(tmp_path))
    assert len(set(found)) == len(found)
    assert (found[0]["precision"], found[0]["quantization"], found[0].world_size) == ("fp32", "none", 1)
    last_divided = max(number for number, plan in enumerate(found) if plan.world_size > 1)
    changed = [sum(plan[name] != found[0][name] for name in ("precision", "activation_checkpoint")) for plan in found]
    assert changed.index(2) > last_divided


def test_only_what_is_searched_is_probed(tmp_path: Path) -> None:
    found = probes(experiment(tmp_path, strategies=("ddp",), precision=("bf16_params",)))
    assert {plan["precision"] for plan in found} == {"bf16_params"}
    assert {plan["data_parallel"] for plan in found} == {"none", "ddp"}
    assert {plan["tp"] for plan in found} == {1}


def test_one_rank_divides_nothing(tmp_path: Path) -> None:
    found = probes(experiment(tmp_path, world_size=1))
    assert {plan.world_size for plan in found} == {1}
