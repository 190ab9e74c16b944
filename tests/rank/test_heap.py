"""What a rank holds after it kept a share of each of many tensors."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from harness.launchers.local import ENVIRONMENT
from harness.rank import heap

TENSORS = 64
WHOLE, SHARE = 2**21, 2**18
"""Values of a tensor and of what is kept of it, 8 MiB and 1 MiB."""
SCRIPT = f"""
import os, torch
from harness.rank.heap import sparing

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

initial = sparing(lambda name, shape, device: torch.ones(shape))
before = resident()
kept = [initial("w", ({WHOLE},), None)[:{SHARE} + i].clone() for i in range({TENSORS})]
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_it_holds_its_shares_and_not_the_whole() -> None:
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2 * 4 * TENSORS * SHARE


def test_holes_are_given_back_now_and_then_and_values_are_what_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whether a heap keeps holes depends on where a process began: only that they are given back can be asked of all.
    given_back: list[int] = []
    monkeypatch.setattr(heap, "EVERY_BYTES", 4 * 10)
    monkeypatch.setattr(heap, "give_back", lambda: given_back.append(made))
    initial = heap.sparing(lambda name, shape, device: torch.full(shape, float(made), device=device))
    for made in range(8):  # of 16 bytes each
        assert initial("w", (2, 2), torch.device("cpu")).tolist() == [[made, made], [made, made]]
    assert given_back == [2, 5]
