"""What a rank holds after it kept a share of each of many tensors."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from harness.launchers.local import ENVIRONMENT

TENSORS = 64
WHOLE, SHARE = 2**21, 2**18
"""Values of a tensor and of what is kept of it, 8 MiB and 1 MiB."""
SCRIPT = f"""
import os, sys, torch
from harness.rank.heap import sparing

def initial(name, shape, device):
    return torch.ones(shape)

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

initial = sparing(initial) if sys.argv[1] == "sparing" else initial
before = resident()
kept = [initial("w", ({WHOLE},), None)[:{SHARE} + i].clone() for i in range({TENSORS})]
print(resident() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="it is glibc's heap that keeps holes")
def test_it_holds_its_shares_and_not_the_whole() -> None:
    def held(how: str) -> int:
        command = [sys.executable, "-c", SCRIPT, how]
        done = subprocess.run(command, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert held("wasting") > 4 * TENSORS * WHOLE / 2  # or there is nothing to spare here
    assert held("sparing") < 2 * 4 * TENSORS * SHARE
