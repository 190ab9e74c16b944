"""The branches for accelerators, against a fake that returns recorded values."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.rank.clock import DeviceClock, HostClock, clock_for
from harness.rank.main import device_of
from harness.rank.peak_memory import DeviceMemory, HostMemory, memory_of

GPU = torch.device("cuda", 0)


class FakeEvent:
    """An event of a device whose steps end at recorded times."""

    ends_ms: list[float]
    waited: list[float]

    def __init__(self, device: torch.device, *, enable_timing: bool) -> None:
        assert device == GPU
        assert enable_timing

    def record(self) -> None:
        self.at = self.ends_ms.pop(0)

    def synchronize(self) -> None:
        self.waited.append(self.at)

    def elapsed_time(self, other: FakeEvent) -> float:
        return other.at - self.at


@pytest.fixture
def fake_events(monkeypatch: pytest.MonkeyPatch) -> type[FakeEvent]:
    FakeEvent.ends_ms, FakeEvent.waited = [100.0, 112.0, 126.0, 139.0, 151.0], []
    monkeypatch.setattr(torch, "Event", FakeEvent)
    return FakeEvent


def test_device_steps_are_timed_between_events_of_the_stream(fake_events: type[FakeEvent]) -> None:
    clock = DeviceClock(GPU)
    clock.restart()
    for _ in range(4):
        clock.mark()
    assert clock.finished() == pytest.approx([0.012, 0.014])
    assert fake_events.waited[-1] == 126.0
    assert clock.all() == pytest.approx([0.012, 0.014, 0.013, 0.012])
    assert fake_events.waited[-1] == 151.0


def test_the_host_never_runs_more_than_two_steps_ahead_of_a_device(fake_events: type[FakeEvent]) -> None:
    clock = DeviceClock(GPU)
    clock.restart()
    for _ in range(3):
        clock.mark()
    assert fake_events.waited == [100.0, 112.0]


def test_a_host_step_is_over_when_it_is_marked() -> None:
    clock = HostClock()
    for _ in range(3):
        clock.mark()
    assert len(clock.finished()) == len(clock.all()) == 3
    clock.restart()
    assert clock.all() == []


def test_a_device_reports_what_its_allocator_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: dict[str, Any] = {"memory_allocated": 1, "max_memory_allocated": 22_000, "max_memory_reserved": 24_576}
    for name, value in recorded.items():
        monkeypatch.setattr(torch.accelerator, name, lambda device, value=value: value)
    memory = DeviceMemory(GPU)
    assert (memory.now(), memory.peak(), memory.reserved()) == (1, 22_000, 24_576)


def test_clock_and_memory_follow_the_device() -> None:
    assert isinstance(clock_for(torch.device("cpu")), HostClock)
    assert isinstance(clock_for(GPU), DeviceClock)
    assert isinstance(memory_of(torch.device("cpu")), HostMemory)
    assert isinstance(memory_of(GPU), DeviceMemory)


def test_each_rank_gets_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[int] = []
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: SimpleNamespace(type="cuda"))
    monkeypatch.setattr(torch.accelerator, "set_device_index", current.append)
    assert device_of(3, "cuda") == torch.device("cuda", 3)
    assert current == [3]


def test_a_cpu_plan_stays_on_the_cpu_beside_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: SimpleNamespace(type="mps"))
    assert device_of(0, "cpu") == torch.device("cpu")


def test_a_missing_accelerator_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    with pytest.raises(RuntimeError, match="no accelerator here, but the plan is for cuda"):
        device_of(0, "cuda")


def test_the_peak_of_a_host_window_sees_memory_that_was_given_back() -> None:
    memory = HostMemory()
    memory.reset_peak()
    before = memory.peak()
    block = torch.ones(64 << 20, dtype=torch.uint8)
    del block
    assert memory.peak() - before > 48 << 20
