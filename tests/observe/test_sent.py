"""What one call of a collective sends, and what else is told of a step."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from torch.testing._internal.distributed.fake_pg import FakeStore

from harness.observe import readings, telling
from harness.observe.sent import Sent, can_be_watched


@pytest.fixture
def eight() -> Iterator[None]:
    """The first of eight ranks."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)
    yield
    dist.destroy_process_group()


def test_a_collective_of_a_part_of_the_ranks_counts_that_part_alone(eight: None) -> None:
    two, tensor = dist.new_group([0, 1]), torch.ones(1000)
    watched = Sent()
    watched.__enter__()
    dist.all_reduce(tensor, group=two)
    functional.wait_tensor(functional.all_reduce(tensor, "sum", two))
    assert watched.leave()
    assert json.loads(watched.columns()["comm_by_collective"]) == {"all_reduce": [8000, 2]}


def test_a_mode_of_the_scripts_own_is_left_alone(eight: None) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    assert can_be_watched()
    with FlopCounterMode(display=False):
        assert not can_be_watched()


def test_a_loss_may_be_a_number_of_another_package() -> None:
    assert readings.soon(np.float32(2.5)) == 2.5


def test_what_a_rank_starts_is_no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv(telling.OWNER, raising=False)
    telling.own_rank()
    assert os.environ[telling.OWNER] == f"1:{os.getpid()}"
    assert telling.launched_as_rank()
    monkeypatch.setenv(telling.OWNER, "1:1")  # as its helpers find it
    assert not telling.launched_as_rank()
    telling.own_rank()
    assert not telling.launched_as_rank()
    monkeypatch.setenv(telling.OWNER, "0:1")  # a launcher that was a rank of something itself
    assert telling.launched_as_rank()


def test_what_a_scheduler_says_of_a_shell_makes_no_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert telling.who() == (0, 1)
