"""What is done to processes and files that are not the command's own."""

from __future__ import annotations

import fcntl
import inspect
import os
import subprocess
import sys
import time
import uuid
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.launchers.script import ScriptJob, ScriptRanks
from harness.observe import injection
from harness.observe.batches import tensors
from harness.observe.replacing import instead

MAPS = """
import mmap, pathlib, sys, time
with open(sys.argv[1], "r+b") as file:
    kept = mmap.mmap(file.fileno(), 0)
pathlib.Path(sys.argv[2]).touch()
time.sleep(600)
"""


@pytest.fixture
def shared() -> Iterator[Path]:
    """A file that somebody keeps where memory is shared, with a name as torch's have."""
    path = Path("/dev/shm") / f"torch_{uuid.uuid4().hex}"
    path.write_bytes(b"data")
    yield path
    path.unlink(missing_ok=True)


@pytest.mark.launching
@pytest.mark.skipif(sys.platform != "linux", reason="/dev/shm is Linux's")
def test_files_and_processes_of_others_are_left_alone(shared: Path, tmp_path: Path) -> None:
    folder, ready = tmp_path / "trial", tmp_path / "ready"
    folder.mkdir()
    os.mkfifo(folder / "output")
    reader = os.open(folder / "output", os.O_RDONLY | os.O_NONBLOCK)
    ranks = ScriptRanks(
        ScriptJob(folder=folder, command=(sys.executable, "-c", MAPS, str(shared), str(ready)), workdir=tmp_path)
    )
    try:
        end = time.monotonic() + 60
        while not ready.exists() and time.monotonic() < end:
            ranks.wait(0.05)
        ranks.meet(0, os.getpid())  # a number of another namespace
        assert ranks.running == frozenset()
    finally:
        ranks.kill()
        os.close(reader)
    assert shared.read_bytes() == b"data"


def test_what_is_replaced_has_the_arguments_that_it_had() -> None:
    class Optimizer:
        def zero_grad(self, set_to_none: bool = True) -> None: ...

    instead(Optimizer, "zero_grad", lambda old: lambda *args, **kwargs: old(*args, **kwargs))
    assert "set_to_none" in inspect.signature(Optimizer().zero_grad).parameters


def test_a_batch_may_have_a_field_called_items() -> None:
    batch = namedtuple("batch", ("users", "items"))([1], [2])
    assert tensors(batch, int) == {"0.0": 1, "1.0": 2}


@pytest.mark.launching
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere ranks are not tied to who watches")
def test_a_rank_that_begins_when_nobody_watches_any_more_ends_at_once(tmp_path: Path) -> None:
    environment = injection.prepare(tmp_path, injection.Settings(), os.environ)
    (tmp_path / "watched").touch()
    trains = "import torch; x = torch.ones(1, requires_grad=True); x.sum().backward(); print('trained')"
    command = [sys.executable, "-c", trains]
    ended = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (-9, "")
    with (tmp_path / "watched").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        (tmp_path / "rank0.events").unlink()
        ended = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "trained\n")
