"""What models of the user's own have that ours have not, under every strategy: each follows one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import MeasurementError
from harness.workloads import create
from harness.workloads.cnn import Cnn, load_digits
from harness.workloads.gpt import Gpt
from harness.workloads.workload import Workload
from tests.contracts.test_strategies import Settings, alone, arranged, model
from tests.strategies.test_odd_shapes import DATA_PARALLEL
from tests.tiny import Biased, Buffered, Frozen, Laboratory, Uneven, gpt, why_not

EXACT = 2e-6
"""Relative difference in loss that the order of additions may make in fp32."""
MORE: dict[str, Settings] = {
    "zero1-tp": {"data_parallel": "zero1", "tp": 2},
    "zero3-tp-sequence": {"data_parallel": "zero3", "tp": 2, "sequence_parallel": True},
    "ddp-pp": {"data_parallel": "ddp", "pp": 2, "pp_schedule": "gpipe", "micro_batch_size": 1},
    "zero1-torch-pp": {"data_parallel": "zero1", "zero1_impl": "torch", "pp": 2, "micro_batch_size": 1},
    "zero3-pp": {"data_parallel": "zero3", "pp": 2, "pp_schedule": "interleaved", "micro_batch_size": 1},
    "zero2-pp": {"data_parallel": "zero2", "pp": 2, "pp_schedule": "1f1b", "micro_batch_size": 1},
}


def settings() -> dict[str, Settings]:
    """In fp32: each strategy alone, and what composes on four ranks."""
    known: dict[str, Settings] = {case.id: case.values[0] for case in alone() if not case.marks}
    exact = {name: way for name, way in known.items() if not way.keys() & {"precision", "quantization"}}
    return {**exact, **MORE}


def sized(kind: type[Gpt], way: Settings) -> Gpt:
    """With something to train in each stage."""
    return gpt(kind, blocks=model(way).blocks * (2 if kind is Frozen and "pp" in way else 1))


@pytest.mark.parametrize("name", settings())
@pytest.mark.parametrize("kind", [Uneven, Frozen, Buffered])
def test_it_follows_one_process(kind: type[Gpt], name: str, laboratory: Laboratory) -> None:
    way = arranged(settings()[name])
    workload = sized(kind, way)
    assert why_not(way, workload) is None
    row = laboratory.follows(way, workload)
    assert row["numerics_max_rel_error"] <= EXACT


@pytest.mark.parametrize(
    "way", [{"tp": 2}, {"tp": 2, "sequence_parallel": True}, *[MORE[n] for n in MORE if "tp" in n]]
)
def test_biases_are_added_once(way: Settings, laboratory: Laboratory) -> None:
    row = laboratory.follows(arranged(way), gpt(Biased, blocks=2))
    assert row["numerics_max_rel_error"] <= EXACT


EXAMPLE = Path(__file__).parents[1] / "example_model" / "mixer.py"
OF_A_FILE: dict[str, Settings] = {
    **DATA_PARALLEL,
    "zero3-checkpoint": {"data_parallel": "zero3", "activation_checkpoint": "full"},
    "selective": {"activation_checkpoint": "selective"},
    "tp": {"tp": 2},
    "zero3-tp": {"data_parallel": "zero3", "tp": 2},
    "zero1-tp-checkpoint": {"data_parallel": "zero1", "tp": 2, "activation_checkpoint": "full"},
    "pp": {"pp": 2},
    "interleaved-checkpoint": {"pp": 2, "pp_schedule": "interleaved", "activation_checkpoint": "full"},
    "zero3-pp": {"data_parallel": "zero3", "pp": 2, "pp_schedule": "gpipe"},
    "zero1-pp": {"data_parallel": "zero1", "pp": 2},
    "tp-pp": {"tp": 2, "pp": 2},
}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    """From a file: labels that count nowhere, a parameter without use, dropout, a buffer."""
    workload = create(f"{EXAMPLE}:workload", cache=tmp_path_factory.mktemp("cache"))
    workload.prepare()
    return workload


@pytest.mark.parametrize("name", OF_A_FILE)
def test_a_file_of_the_users_own_follows_one_process(name: str, own: Workload, laboratory: Laboratory) -> None:
    way = arranged({"micro_batch_size": 4, **OF_A_FILE[name]})
    row = laboratory.follows(way, own)
    assert row["numerics_max_rel_error"] <= EXACT


def test_a_file_of_the_users_own_is_refused_where_it_says_too_little(own: Workload) -> None:
    refusal = why_not({"tp": 2, "sequence_parallel": True}, own)
    assert refusal == "layers of mixer may need every token, so sequence_parallel cannot divide its stream"
    quantised = why_not({"quantization": "int8"}, own)
    assert quantised == "mixer has no blocks of linear layers whose products could be in int8"


@pytest.mark.parametrize("kind", ["ddp", "zero1", "zero2", "zero3"])
def test_what_is_not_trained_costs_no_gradient_and_no_optimizer_state(kind: str, laboratory: Laboratory) -> None:
    way: Settings = arranged({"data_parallel": kind})
    rows: list[dict[str, Any]] = [laboratory.run(way, sized(of, way)) for of in (Frozen, Gpt)]
    frozen, whole = rows
    trained = sum(p.numel() for p in Frozen.build(sized(Frozen, way)).parameters() if p.requires_grad)
    share = trained / sized(Gpt, way).parameters
    for column in ("memory_grads_bytes", "memory_optimizer_bytes"):
        assert frozen[column] == pytest.approx(share * whole[column], rel=0.05), column
    assert frozen["memory_params_bytes"] == pytest.approx(whole["memory_params_bytes"], rel=0.02)


@pytest.mark.parametrize("precision", ["bf16", "bf16_params", "bf16_autocast"])
def test_images_are_given_in_the_format_of_the_weights(precision: str, laboratory: Laboratory) -> None:
    pytest.importorskip("sklearn")
    workload = Cnn(name="cnn", global_batch_size=16, digits=load_digits(), channels=8)
    row = laboratory.run({"dp": 2, "micro_batch_size": 4, "precision": precision}, workload)
    assert (row["outcome"], row["numerics"]) == ("ok", "pass"), row["outcome_reason"]


def test_a_stage_in_which_nothing_is_trained_is_refused(laboratory: Laboratory) -> None:
    row = laboratory.run({"pp": 2, "micro_batch_size": 4}, gpt(Frozen, blocks=2))
    assert row["outcome"] == "infeasible"
    assert "nothing in stage 1 of 2 is trained; use fewer stages, or freeze less" in row["outcome_reason"]


def test_a_step_without_any_label_is_said_to_be_no_number(laboratory: Laboratory) -> None:
    with pytest.raises(MeasurementError, match="ended with nan: loss of step 0 is nan"):
        laboratory.run({"micro_batch_size": 1}, gpt(Uneven, blocks=2, global_batch_size=1))  # the one that has none


SAID = {
    "gpipe": {"pp": 2, "pp_schedule": "gpipe"},
    "interleaved": {"pp": 2, "pp_schedule": "interleaved"},
    "zero3": {"pp": 2, "data_parallel": "zero3"},
    "checkpointed": {"pp": 2, "activation_checkpoint": "full"},
    "whole": {"data_parallel": "zero3"},
}


@pytest.mark.parametrize("name", SAID)
def test_stages_that_an_author_says_follow_one_process(name: str, laboratory: Laboratory, tmp_path: Path) -> None:
    file = EXAMPLE.with_name("twofold.py")
    unsaid = create(f"{file}:unsaid", cache=tmp_path)
    way = arranged({"micro_batch_size": 2, **SAID[name]})
    if "pp" in way:
        assert "cannot be cut into stages: " in str(why_not(way, unsaid))
    workload = create(f"{file}:workload", cache=tmp_path)
    workload.prepare()
    assert why_not(way, workload) is None
    assert laboratory.follows(way, workload)["numerics_max_rel_error"] <= EXACT
