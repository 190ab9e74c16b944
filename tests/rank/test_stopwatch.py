"""What a call takes on a device does not depend on what a synchronisation takes."""

from __future__ import annotations

import pytest
import torch

from harness.rank.stopwatch import FEWEST, MOST, Stopwatch


class Device(Stopwatch):
    """A device that works off calls one after the other while the host runs ahead, on a clock of its own."""

    def __init__(self, device: str, *, kernel_s: float, launch_s: float, synchronise_s: float) -> None:
        super().__init__(torch.device(device), None)
        self.kernel_s, self.launch_s, self.synchronise_s = kernel_s, launch_s, synchronise_s
        self.host = self.busy_until = 0.0
        self.calls = 0

    def call(self) -> None:
        self.calls += 1
        self.host += self.launch_s
        self.busy_until = max(self.busy_until, self.host) + self.kernel_s

    def now(self) -> float:
        self.host = max(self.host, self.busy_until) + self.synchronise_s
        return self.host


@pytest.mark.parametrize("kernel_s", [6e-6, 50e-6, 1e-3, 0.1])
@pytest.mark.parametrize("synchronise_s", [0.0, 15e-6])
def test_a_fixed_cost_of_synchronising_does_not_count(kernel_s: float, synchronise_s: float) -> None:
    device = Device("cuda", kernel_s=kernel_s, launch_s=5e-6, synchronise_s=synchronise_s)
    assert device.seconds(device.call) == pytest.approx(kernel_s, rel=0.02)


def test_what_is_launched_slower_than_it_runs_takes_what_launching_takes() -> None:
    device = Device("cuda", kernel_s=1e-6, launch_s=5e-6, synchronise_s=15e-6)
    assert device.seconds(device.call) == pytest.approx(5e-6, rel=0.02)


def test_on_a_cpu_each_call_is_timed_by_itself() -> None:
    device = Device("cpu", kernel_s=1e-3, launch_s=0.0, synchronise_s=0.0)
    assert device.seconds(device.call) == pytest.approx(1e-3)
    assert FEWEST <= device.calls - 2 <= MOST
