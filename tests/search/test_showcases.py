from __future__ import annotations

from harness.search.space import Space
from harness.search.spaces import Spaces
from strategies import registry
from tests.search.fake_machine import space
from tests.tiny import facts, gpt, knobs


def shown(*names, **options):
    return space(*names, **options).showcases()


def test_each_way_of_using_each_strategy_is_shown_once_in_their_order() -> None:
    plans = shown()
    assert [(p["data_parallel"], p["tp"], p["pp"], p["precision"]) for p in plans] == [
        ("ddp", 1, 1, "fp32"),
        ("zero", 1, 1, "fp32"),
        ("zero", 1, 1, "fp32"),
        ("none", 2, 1, "fp32"),
        ("none", 1, 2, "fp32"),
        ("none", 1, 2, "fp32"),
        ("ddp", 1, 1, "bf16"),
    ]
    assert len(set(plans)) == len(plans)


def test_pure_data_parallelism_takes_the_share_of_a_rank_as_its_micro_batch() -> None:
    assert shown("ddp")[0]["micro_batch_size"] == 8


def test_a_pipeline_has_at_least_as_many_micro_batches_as_stages() -> None:
    assert [p["micro_batch_size"] for p in shown("pipeline", global_batch_size=16)] == [8, 8]
    assert [p["micro_batch_size"] for p in shown("pipeline", global_batch_size=3)] == [1, 1]


def test_without_ddp_the_first_data_strategy_carries_the_others() -> None:
    assert [p["data_parallel"] for p in shown("zero", "precision")] == ["zero", "zero", "zero"]


def test_a_degree_that_leaves_ranks_over_is_raised_if_nothing_else_can_use_them() -> None:
    assert [(p["dp"], p["tp"]) for p in shown("tensor", world_size=4)] == [(1, 4)]
    assert [(p["dp"], p["tp"]) for p in shown("tensor", "ddp", world_size=4)] == [(2, 2), (4, 1)]


def test_a_strategy_without_degrees_is_shown_in_whatever_layout_there_is() -> None:
    assert [(p["tp"], p["precision"]) for p in shown("tensor", "precision")] == [(2, "fp32"), (2, "bf16")]


def test_showcases_that_cannot_run_are_kept_for_their_reason() -> None:
    searched = space("ddp", "tensor", heads=3)
    assert [searched.why_not(p) for p in searched.showcases()] == [None, "tp=2 does not divide 3 heads"]
    one = space("ddp", "tensor", world_size=1)
    assert [one.why_not(p) is None for p in one.showcases()] == [False, False]


def test_what_the_user_fixed_is_in_every_showcase() -> None:
    assert {p["precision"] for p in shown(fixed={"precision": "fp16"})} == {"fp16"}
    assert {p["data_parallel"] for p in shown("ddp", "zero", allowed={"data_parallel": ("zero",)})} == {"zero"}
    assert {p["tp"] for p in shown("ddp", "tensor", world_size=4, fixed={"tp": 2})} == {2}


def test_several_global_batches_take_turns() -> None:
    points = Spaces({size: space("ddp", "zero", global_batch_size=size) for size in (8, 16)}).showcases()
    assert [point.global_batch_size for point in points] == [8, 16, 8]


def test_a_global_batch_that_cannot_show_a_strategy_passes_its_turn() -> None:
    both = Spaces({size: space("ddp", "tensor", global_batch_size=size) for size in (3, 8)})
    assert [(p.global_batch_size, p.plan["data_parallel"]) for p in both.showcases()] == [(8, "ddp"), (8, "none")]


def test_the_best_plan_of_a_strategy_shows_nothing_that_could_be_added_to_any() -> None:
    every = tuple(registry().values())
    searched = Space(every, knobs(), facts(gpt(), 2), registered=every)
    found = searched.best_showcases(
        [point.plan for point in Spaces(searched).candidates],
        lambda plan: 0.0 if plan["activation_checkpoint"] == "full" else 1.0,
    )
    added = [(plan["activation_checkpoint"], plan["quantization"], plan["compile"]) for plan in found]
    assert all(sum(value not in ("none", False) for value in values) <= 1 for values in added)
    assert {"full", "selective", "nth"} <= {checkpoint for checkpoint, _, _ in added}
