from __future__ import annotations

import itertools
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.rank.profile import communicates, computes, highest_sum, length, merged, overlap, profiled

CPU = torch.device("cpu")
intervals = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 10)).map(lambda pair: (pair[0], sum(pair))))


def covered(spans: Sequence[tuple[int, int]]) -> set[int]:
    return {moment for begin, end in spans for moment in range(begin, end)}


@given(intervals)
def test_merging_keeps_the_time_and_leaves_gaps(spans: list[tuple[int, int]]) -> None:
    found = merged(spans)
    assert covered(found) == covered(spans)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(found))


@given(intervals, intervals)
def test_the_overlap_is_the_time_in_both(ours: list[tuple[int, int]], theirs: list[tuple[int, int]]) -> None:
    found = list(overlap(merged(ours), merged(theirs)))
    assert covered(found) == covered(ours) & covered(theirs)
    assert length(found) == len(covered(found))


def test_the_highest_sum_begins_at_zero() -> None:
    assert [highest_sum([]), highest_sum([-5, 3]), highest_sum([4, 3, -7, 5])] == [0, 0, 7]


def event(name: str, device: str = "CPU", duration: int = 10, annotation: bool = False) -> SimpleNamespace:
    return SimpleNamespace(
        name=lambda: name,
        device_type=lambda: SimpleNamespace(name=device),
        duration_ns=lambda: duration,
        is_user_annotation=lambda: annotation,
    )


@pytest.mark.parametrize(
    ("name", "device", "communication", "computation"),
    [
        ("ncclDevKernel_AllReduce_Sum_f32_RING_LL", "CUDA", True, False),
        ("ampere_sgemm_128x64", "CUDA", False, True),
        ("c10d::allreduce_", "CPU", False, False),
    ],
)
def test_on_a_device_kernels_count(name: str, device: str, communication: bool, computation: bool) -> None:
    assert communicates(event(name, device), on_cpu=False) is communication
    assert computes(event(name, device), on_cpu=False) is computation


def test_a_span_that_was_laid_over_kernels_is_no_kernel() -> None:
    span = event("FSDP::all_gather (blocks.0)", "CUDA", annotation=True)
    assert not computes(span, on_cpu=False)
    assert not communicates(span, on_cpu=False)


def test_on_a_cpu_operators_count_and_what_wraps_them_does_not() -> None:
    names = ("gloo:all_reduce", "aten::mm", "DistributedDataParallel.forward")
    assert [communicates(event(name), on_cpu=True) for name in names] == [True, False, False]
    assert [computes(event(name), on_cpu=True) for name in names] == [False, True, False]


def test_the_allocators_peak_of_a_step_is_seen() -> None:
    def step() -> None:
        kept = torch.ones(250_000)
        torch.ones(500_000)
        kept.add_(1)

    found = profiled(step, CPU)
    assert found == {"comm_s": 0.0, "comm_exposed_s": 0.0, "allocated_peak_bytes": 3_000_000}
