from __future__ import annotations

from dataclasses import replace

import pytest

from harness.errors import InputError
from harness.predict.cluster_plans import Question, ask, default_batch, plans, rank
from harness.predict.devices import parse_cluster
from harness.predict.whatif import what_if
from tests.tiny import gpt


def question(cluster: str = "2x8xH100", width: int = 1024, blocks: int = 8, **fields: object) -> Question:
    workload = gpt(width=width, heads=16, blocks=blocks, seq=1024, vocab=32000)
    found = parse_cluster(cluster)
    asked = {"global_batch": default_batch(8, found.devices), "fixed": {}, **fields}
    return Question(name="made", model=workload.facts(), seq_len=1024, cluster=found, **asked)  # type: ignore[arg-type]


def test_every_plan_uses_every_device_and_keeps_tensor_groups_in_a_node() -> None:
    found = plans(question())
    assert {plan.world_size for plan in found} == {16}
    assert max(int(plan["tp"]) for plan in found) == 8
    assert {plan["data_parallel"] for plan in found} >= {"ddp", "zero1", "zero2", "zero3"}
    assert {plan["precision"] for plan in found} == {"bf16_params"}


def test_what_is_given_is_not_searched() -> None:
    found = plans(question(fixed={"tp": 2, "precision": "bf16_autocast"}))
    assert {(plan["tp"], plan["precision"]) for plan in found} == {(2, "bf16_autocast")}


def test_the_fastest_plan_that_fits_comes_first_and_parts_add_up() -> None:
    ranked = ask(question())
    fitting = [one for one in ranked if one.fits]
    assert ranked[: len(fitting)] == fitting
    order = [(one.step_time_s, one.needed_bytes) for one in fitting]
    assert order == sorted(order)
    for one in ranked[:5]:
        assert sum(one.shares.values()) == pytest.approx(1.0)
        assert sum(one.memory.values()) == pytest.approx(one.needed_bytes)
        assert 0 < one.mfu < 1


def test_the_first_of_all_are_the_first_of_some() -> None:
    asked = question()
    found = plans(asked)
    assert rank(asked, found, 3) == rank(asked, found)[:3]


def test_a_model_too_large_for_any_plan_is_told_how_many_devices_would_do() -> None:
    with pytest.raises(InputError, match=r"no plan of made fits 8 x L40S: the leanest needs .* devices would do"):
        ask(question("8xL40S", width=8192, blocks=96))


def test_a_batch_that_no_layout_can_divide_is_refused() -> None:
    with pytest.raises(InputError, match="can use 16 devices with a global batch of 3 samples"):
        plans(question(width=1024, blocks=1, global_batch=3))


def test_other_clusters_micro_batches_and_degrees_are_answered_beside() -> None:
    found = what_if(question())
    assert [point.at for point in found.worlds] == [8, 16, 32, 64]
    rates = [point.tokens_per_s for point in found.worlds]
    assert all(rate is not None for rate in rates)
    assert rates == sorted(rates)  # type: ignore[type-var]
    assert [point.at for point in found.micro_batches] == sorted(point.at for point in found.micro_batches)
    assert (1, 1) in {(tp, pp) for tp, pp, _ in found.degrees}


def test_one_node_cannot_be_halved() -> None:
    asked = replace(question(), cluster=parse_cluster("8xH100"), global_batch=64)
    assert [point.at for point in what_if(asked).worlds] == [8, 16, 32]
