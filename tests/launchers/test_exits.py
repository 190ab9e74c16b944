from __future__ import annotations

import subprocess
import sys
import time

import pytest

from harness.launchers.exits import Exits

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "input(); " + sys.argv[1]], stdin=subprocess.PIPE)
print(child.pid, flush=True)
input()
child.communicate(b"\\n")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="pidfds are Linux's")
@pytest.mark.parametrize(
    ("code", "status"),
    [("import os; os.kill(os.getpid(), 9)", -9), ("raise SystemExit(3)", 3), ("pass", 0)],
)
def test_how_a_process_ended_that_is_not_this_ones_child(code: str, status: int) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdin is not None
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    exits = Exits()
    exits.add(pid)
    assert exits.wait(0) == {}
    parent.stdin.write(b"\n")
    parent.stdin.flush()
    ended: dict[int, int | None] = {}
    end = time.monotonic() + 60
    while not ended and time.monotonic() < end:
        ended = exits.wait(1.0)
    parent.communicate()
    # A kernel before 6.15 forgets it as soon as the parent has asked.
    assert ended in ({pid: status}, {pid: None})
    exits.close()


def test_a_process_that_has_ended_long_ago_is_told_of_at_once() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    exits = Exits()
    exits.add(child.pid)
    assert exits.wait(0) == {child.pid: None}
