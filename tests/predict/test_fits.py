"""The smallest number of each device, and what closed forms know of models of transformers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.cli.predict_commands import question_of
from harness.errors import InputError
from harness.predict import devices
from harness.predict.cluster_plans import Question, default_batch, possible, rank
from harness.predict.devices import Cluster
from harness.predict.fits import fits
from harness.predict.shape import Shape
from harness.workloads import create
from tests.families import written


def question(workload: str) -> Question:
    return question_of(workload, Cluster(device=devices.device("A100-40"), nodes=1), [], {"results": Path("results")})


def test_half_as_many_devices_do_not_train_it() -> None:
    asked = question("gpt:blocks=32,width=4096,heads=32")
    (found,) = fits(asked, None, ["A100-40"])
    assert found.number is not None
    assert found.number > 1
    assert found.best is not None
    assert found.best.needed_bytes <= found.device.memory_bytes
    half = found.number // 2
    fewer = Cluster(device=replace(devices.device("A100-40"), devices_per_node=half), nodes=1)
    its = replace(asked, cluster=fewer, global_batch=default_batch(asked.global_batch, half))
    assert not rank(its, possible(its), 1)[0].fits


def test_what_no_number_trains_says_why() -> None:
    (found,) = fits(question("gpt:blocks=2,width=1048576,heads=8"), None, ["RTX 4090"])
    assert found.number is None
    assert found.reason.startswith("none up to 1,024: the leanest plan needs ")


@pytest.mark.parametrize(("family", "fields"), [("mixtral", ""), ("llama", ",lora=4"), ("t5", ""), ("bert", "")])
def test_what_was_counted_of_a_model_is_in_its_shape(family: str, fields: str, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    changes = {"intermediate_size": 96} if family == "mixtral" else {}  # experts that work at once
    workload = create(
        f"hf:{written(family, tmp_path, **changes)}{fields}", cache=tmp_path, seq_len=32, global_batch_size=8
    )
    facts = workload.facts()
    shape = Shape.of_facts(facts, workload.seq_len)
    assert float(shape.parameters) == pytest.approx(facts.parameters)
    trained = shape.trained * shape.layers * shape.layer_parameters
    trained += shape.trained_ends * (shape.embedding_parameters + shape.head_parameters)
    assert float(trained) == pytest.approx(facts.parameters - facts.frozen)
    assert float(shape.flops_per_token * shape.seq_len * 8) == pytest.approx(workload.flops_per_step())
    assert (shape.experts, shape.active) == ((4, 2) if family == "mixtral" else (1, 1))


def test_experts_that_run_one_after_the_other_are_measured_and_not_predicted(tmp_path: Path) -> None:
    workload = create(f"hf:{written('mixtral', tmp_path)}", cache=tmp_path, seq_len=32, global_batch_size=8)
    with pytest.raises(InputError, match="it is measured, not predicted"):
        Shape.of_facts(workload.facts(), workload.seq_len)
