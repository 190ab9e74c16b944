"""What every registered workload promises: one initialisation, one stream of data, whatever the plan."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness import workloads
from harness.errors import InputError
from harness.workloads.workload import Workload
from tests.tiny import facts

CPU = torch.device("cpu")
BATCH = 8
LARGE = 2_000_000
"""Parameters of more elements than this are left out, so that the largest models need no memory."""


@pytest.fixture(scope="module", params=workloads.names())
def workload(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Workload:
    """Each workload, on a short text where it takes one."""
    folder: Path = tmp_path_factory.mktemp("data")
    (folder / "text.txt").write_text("a text that is long enough to be cut into windows " * 100)
    options: dict[str, Any] = {"cache": folder / "cache", "global_batch_size": BATCH}
    try:
        made = workloads.create(request.param, data=folder / "text.txt", **options)
    except InputError:
        pytest.importorskip("sklearn")
        made = workloads.create(request.param, **options)
    made.prepare()
    return made


def parameters(workload: Workload) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter."""
    with torch.device("meta"):
        model = workload.build()
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def test_a_parameter_starts_with_the_same_bits_whatever_was_made_before(workload: Workload) -> None:
    shapes = {name: shape for name, shape in parameters(workload).items() if np.prod(shape) <= LARGE}
    first = {name: workload.initial(name, shape, CPU) for name, shape in shapes.items()}
    torch.manual_seed(len(shapes))
    for name, shape in reversed(shapes.items()):
        again = workload.initial(name, shape, CPU)
        assert again.shape == torch.Size(shape)
        assert again.dtype is torch.float32
        assert torch.equal(again, first[name]), name


def test_the_facts_are_those_of_the_model(workload: Workload) -> None:
    with torch.device("meta"):
        model = workload.build()
    known = workload.facts()
    assert known.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert all(model.get_submodule(name) is not None for name in known.blocks)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_the_global_batch_does_not_depend_on_the_number_of_ranks(workload: Workload, ranks: int) -> None:
    for step in (0, 5):
        whole = workload.samples(step, np.arange(BATCH))
        shares = [
            workload.samples(step, np.arange(BATCH)[rank * BATCH // ranks :][: BATCH // ranks]) for rank in range(ranks)
        ]
        for name, samples in whole.items():
            assert torch.equal(torch.cat([share[name] for share in shares]), samples)


def test_steps_have_different_batches(workload: Workload) -> None:
    one, other = (workload.samples(step, np.arange(BATCH)) for step in (0, 1))
    assert not any(torch.equal(one[name], other[name]) for name in workload.inputs)


def test_a_pickled_workload_is_the_same_workload(workload: Workload) -> None:
    again = pickle.loads(pickle.dumps(workload))
    assert again.workload_id == workload.workload_id
    ours, theirs = (each.samples(3, np.arange(2)) for each in (again, workload))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_loss_says_how_many_predictions_it_sums(workload: Workload) -> None:
    batch = workload.samples(0, np.arange(BATCH))
    shape = next(tensor.shape for name, tensor in batch.items() if name not in workload.inputs)
    outputs = torch.randn(*shape, workload.facts().vocab_size or 10, generator=torch.Generator().manual_seed(0))
    total, weight = workload.loss(outputs, batch)
    halves = [
        workload.loss(outputs[part], {name: tensor[part] for name, tensor in batch.items()})
        for part in (slice(0, 3), slice(3, BATCH))
    ]
    assert float(sum(half for half, _ in halves)) == pytest.approx(float(total))
    assert sum(float(number) for _, number in halves) == float(weight)
    assert workload.predictions is None or float(weight) == BATCH * workload.predictions


def test_a_step_has_a_cost_and_a_size(workload: Workload) -> None:
    assert workload.flops_per_step() > 6 * workload.facts().parameters / 10
    sequences = 2 if "decoder_input_ids" in workload.samples(0, np.arange(1)) else 1
    assert workload.tokens_per_step == sequences * BATCH * workload.seq_len
    assert workload.global_batch_size == facts(workload, 1).global_batch_size == BATCH


def test_the_id_names_the_workload_and_fits_a_file_name(workload: Workload) -> None:
    assert workload.workload_id.startswith(f"{workload.name}-")
    assert not set(workload.workload_id) & set("/\\:=% ")
