"""A sweep where something is missing: it is survived, or named in one sentence, and what was recorded is whole."""

from __future__ import annotations

import os
import resource
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.e2e.test_main_job import SWEEP, TINY, breaches, searched, table

COMMAND = [*SWEEP, *TINY, "--name", "night"]
SMALLER_THAN_A_TRIAL = "4m"

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def permitted() -> None:
    if subprocess.run(["unshare", "-mn", "true"], capture_output=True, check=False).returncode:
        pytest.skip("file systems and networks of one's own need root")


def swept(folder: Path, *before: str, trials: int = 2, results: str = "results", **variables: str) -> tuple[int, str]:
    """Exit status and output of a sweep, after shell commands in mounts and a network of its own if there are any."""
    command = [*COMMAND, "--trials", str(trials), "--results", results]
    script = "; ".join([*before, shlex.join(command)])
    apart = ["unshare", "-mn" if any("ip " in line for line in before) else "-m"] if before else []
    ended = subprocess.run(
        [*apart, "sh", "-c", script],
        cwd=folder,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return ended.returncode, ended.stdout


def sentence(output: str) -> str:
    """The one sentence of an error; there is no traceback."""
    assert "Traceback" not in output
    last = output.strip().splitlines()[-1]
    assert last.startswith("error: "), output
    return last


@pytest.mark.usefixtures("permitted")
def test_a_full_disk_is_named_with_how_to_go_on_and_what_was_recorded_is_whole(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    # The mount is seen by the sweep alone, so what it holds is copied before it goes.
    mount = "mount -t tmpfs -o size=8700k none full; trap 'cp -r full/r kept' EXIT"
    status, output = swept(tmp_path, mount, trials=60, results="full/r")
    assert status == 2
    assert "cannot be written" in sentence(output)
    assert "No space left on device" in sentence(output)
    assert "python -m harness sweep --name night" in output
    assert breaches(tmp_path / "kept") == []


@pytest.mark.usefixtures("permitted")
def test_results_that_cannot_be_written_are_named_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "ro").mkdir()
    status, output = swept(tmp_path, "mount -t tmpfs -o ro none ro", results="ro/r")
    assert status == 2
    assert "ro/r cannot be written" in sentence(output)


@pytest.mark.usefixtures("permitted")
def test_a_full_folder_for_temporary_files_is_named_and_no_plan_is_blamed(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    mount = f"mount -t tmpfs -o size={SMALLER_THAN_A_TRIAL} none tmp"
    status, output = swept(tmp_path, mount, TMPDIR=str(tmp_path / "tmp"))
    assert status == 2
    assert "set TMPDIR to a folder with more room" in sentence(output)
    assert not (tmp_path / "results" / "trials").exists()


@pytest.mark.usefixtures("permitted")
@pytest.mark.parametrize(
    "missing",
    [
        "mount -t tmpfs -o ro none /dev/shm",
        "ip link set lo up; ip addr del 127.0.0.1/8 dev lo",  # IPv6 alone is left
        pytest.param("mount -t tmpfs -o ro none tmp", marks=pytest.mark.slow),
    ],
)
def test_a_sweep_does_without(missing: str, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    status, output = swept(tmp_path, missing, TMPDIR=str(tmp_path / "tmp"))
    assert status == 0, output
    assert breaches(tmp_path / "results") == []


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no second file system here for sure")
def test_results_may_lie_on_another_file_system_than_temporary_files(tmp_path: Path) -> None:
    other = Path("/dev/shm") / f"harness-test-{os.getpid()}"
    try:
        status, output = swept(tmp_path, results=str(other))
        assert status == 0, output
        assert len(searched(table(other / "trials"))) == 2
    finally:
        subprocess.run(["rm", "-r", str(other)], check=True)


@pytest.mark.parametrize("files", [14, *(pytest.param(files, marks=pytest.mark.slow) for files in (10, 18))])
def test_too_few_open_files_are_named(files: int, tmp_path: Path) -> None:
    ended = subprocess.run(
        [*COMMAND, "--trials", "2"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)),
    )
    assert ended.returncode == 3
    assert "Too many open files" in sentence(ended.stdout)
