"""What ranks print is kept at its ends, whatever its length."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.trial.output import KEPT, Kept, Outputs
from tests.trial.fake_ranks import job

FLOOD = "import sys; sys.stdout.write('begin' + 'x' * (64 << 20) + 'end')"


def test_a_short_output_is_kept_whole() -> None:
    kept = Kept()
    for piece in (b"a", b"b" * KEPT, b"c"):
        kept.add(piece)
    assert kept.text() == "a" + "b" * KEPT + "c"


@pytest.mark.parametrize("piece", [1000, KEPT, 5 * KEPT])
def test_of_a_long_output_the_ends_are_kept_however_it_comes(piece: int) -> None:
    kept, whole = Kept(), b"begin" + b"x" * (10 * KEPT) + b"end"
    for at in range(0, len(whole), piece):
        kept.add(whole[at : at + piece])
    assert kept.text().startswith("begin")
    assert kept.text().endswith("end")
    assert f"... {8 * KEPT + 8} bytes left out ..." in kept.text()


def test_a_flood_is_read_and_takes_no_disk(tmp_path: Path) -> None:
    made = job(tmp_path)
    with Outputs(made) as outputs:
        writers = []
        for rank in range(2):
            pipe = os.open(made.output_of(rank), os.O_WRONLY)
            writers.append(subprocess.Popen([sys.executable, "-c", FLOOD], stdout=pipe))
            os.close(pipe)
        assert [writer.wait() for writer in writers] == [0, 0]
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 0
    for kept in outputs.kept:
        assert kept.size == (64 << 20) + 8
        assert (kept.text()[:6], kept.text()[-4:]) == ("beginx", "xend")


def test_a_writer_that_is_left_over_does_not_keep_the_parent(tmp_path: Path) -> None:
    made = job(tmp_path)
    with Outputs(made) as outputs:
        pipe = os.open(made.output_of(0), os.O_WRONLY)
        os.write(pipe, b"said")
    assert outputs.kept[0].text() == "said"
    with pytest.raises(BrokenPipeError):
        os.write(pipe, b"too late")
    os.close(pipe)


def test_ranks_that_print_nothing_leave_nothing(tmp_path: Path) -> None:
    with Outputs(job(tmp_path)) as outputs:
        pass
    assert [kept.text() for kept in outputs.kept] == ["", ""]
