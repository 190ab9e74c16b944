"""Ranks on this machine, forked from a server that has everything imported already (multiprocessing's forkserver)."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import multiprocessing.util
import os
import secrets
import signal
import sys
import tempfile
import termios
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection, forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.errors import MeasurementError, no_temporary_folder
from harness.launchers.job import Job
from harness.launchers.launcher import Launcher, RankExit, Ranks
from harness.launchers.processes import PATIENCE, alive, die_first, die_with_parent, kill_below, kill_group, kill_marked
from harness.machine.accelerators import PCI_ORDER
from harness.machine.surroundings import UNWANTED, nobody

ENVIRONMENT = {
    "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    # Ranks share this machine's memory; glibc's thresholds adapt to what a process did before, which differs between
    # plans. Fixed, every trial pays the same for memory: blocks up to 64 MiB are reused, larger ones given back.
    "MALLOC_MMAP_THRESHOLD_": str(64 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    "MALLOC_ARENA_MAX": "2",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    PCI_ORDER[0]: PCI_ORDER[1],  # as devices were looked up
    # The parent watches for ranks that hang, with deadlines the user chose; a second watchdog would end ranks after ten
    # minutes, and those that wait for one that failed before they have said why.
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
    "TRITON_CACHE_AUTOTUNING": "1",  # what one launch has tried out, the next need not
}
"""What the server and its ranks find in their environment, unless the user set it."""

SOCKET_PATH = 103
"""Longest path of a socket that every system takes, in bytes (108 on Linux and 104 on macOS, the end included)."""
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")

HOUSE = str(Path(__file__).parents[2])
"""The folder that this package is imported from."""

MARK = ("HARNESS_SERVER", secrets.token_hex(8))
"""Environment variable and its value that tell this process's server and everything below it from all others."""


class LocalLauncher(Launcher):
    """Keeps one fork server for all trials, which run one after the other; one that died is replaced."""

    def __init__(self, preload: Sequence[str] = ()) -> None:
        super().__init__(preload)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["harness.launchers.server", *self.preload])

    def warm_up(self) -> None:
        if os.pathsep in HOUSE:
            raise MeasurementError(
                f"ranks cannot import what lies in {HOUSE}: a {os.pathsep!r} in a folder's name ends it in PYTHONPATH; "
                "rename the folder"
            )
        with _environment(), _no_interrupt():
            try:
                _choose_socket_folder()
                forkserver.ensure_running()
            except FileNotFoundError as error:  # its socket is a file in the folder for temporary files
                raise no_temporary_folder(error) from error
            except OSError as error:
                raise _cannot_start(error) from error

    def start(self, job: Job, target: Callable[[Any, int], None]) -> Ranks:
        try:
            return self._start(job, target)
        except (EOFError, ConnectionError, FileNotFoundError):  # the server died, or its socket was removed
            self.close()
        except OSError as error:
            raise _cannot_start(error) from error
        try:
            return self._start(job, target)
        except (EOFError, OSError) as error:
            raise _cannot_start(error) from error

    def _start(self, job: Job, target: Callable[[Any, int], None]) -> Ranks:
        self.warm_up()
        _check_descriptors(6 + 2 * job.world_size)
        processes = [
            self._context.Process(target=_run, args=(target, job, rank), daemon=True) for rank in range(job.world_size)
        ]
        started: list[BaseProcess] = []
        try:
            with _without_program():
                for process in processes:
                    process.start()
                    started.append(process)
        except BaseException:
            LocalRanks(started).kill()
            raise
        return LocalRanks(started)

    def close(self) -> None:
        server: Any = forkserver._forkserver  # it offers no public way to end it early
        if server._forkserver_pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(server._forkserver_pid, signal.SIGKILL)  # it may be importing still, or be stopped
        with contextlib.suppress(FileNotFoundError):  # somebody emptied the folder for temporary files
            server._stop()


def _choose_socket_folder() -> None:
    """Have the server's socket made where its path is short enough, if that of temporary files is not.

    multiprocessing makes a folder of its own for it, once in a process.
    """
    if len(os.fsencode(tempfile.gettempdir())) <= SOCKET_PATH - len("/pymp-xxxxxxxx/listener-xxxxxxxx"):
        return
    usual = tempfile.tempdir
    tempfile.tempdir = next((folder for folder in SHORT_FOLDERS if os.access(folder, os.W_OK | os.X_OK)), None)
    try:
        multiprocessing.util.get_temp_dir()
    finally:
        tempfile.tempdir = usual


def _check_descriptors(count: int) -> None:
    """Raises OSError if so many files cannot be opened: running out of them in between would end the server too."""
    opened: list[int] = []
    try:
        while len(opened) < count:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _cannot_start(error: Exception) -> MeasurementError:
    if isinstance(error, (EOFError, ConnectionError)):
        return MeasurementError("no rank can be started: the fork server, which ranks are forked from, ends at once")
    return MeasurementError(f"no rank can be started: {getattr(error, 'strerror', None) or error}")


def _run(target: Callable[[Any, int], None], job: Job, rank: int) -> None:
    os.setsid()  # a group of its own, so that whatever the rank starts can be ended with it
    die_with_parent()
    die_first()
    # The server ends when nobody holds this pipe; in the hands of ranks it would outlive a parent that was killed.
    os.close(forkserver._forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]
    target(job, rank)


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    before = dict(os.environ)
    # The server must find what this process finds, wherever it was started from, and nothing else: by itself it would
    # look into the working directory first.
    path = os.pathsep.join(path or os.getcwd() for path in sys.path if os.pathsep not in path)
    os.environ.update(
        {**ENVIRONMENT, **nobody(before), **before, MARK[0]: MARK[1], "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    )
    for name in UNWANTED:
        os.environ.pop(name, None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _without_program() -> Iterator[None]:
    """Keep multiprocessing from having ranks import the program that started them: a script without a guard around its
    main part would run there again."""
    program = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = program


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Keep Ctrl-C from what is started here, for good: it is meant for this process, and imports would print of it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


class LocalRanks(Ranks):
    """Processes of this machine, each the leader of a process group."""

    def __init__(self, processes: Sequence[BaseProcess]) -> None:
        self._processes = dict(enumerate(processes))
        self._server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
        self._server_died = False

    @property
    def running(self) -> frozenset[int]:
        return frozenset(self._processes)

    def pids(self) -> dict[int, int]:
        return {rank: process.pid for rank, process in self._processes.items() if process.pid}

    def wait(self, timeout: float) -> Sequence[RankExit]:
        ready = connection.wait([process.sentinel for process in self._processes.values()], timeout)
        exits = []
        for rank, process in list(self._processes.items()):
            if process.sentinel not in ready:
                continue
            orphaned = _orphaned(process)
            self._server_died |= orphaned
            del self._processes[rank]
            process.join()
            exits.append(RankExit(rank, None if orphaned else process.exitcode))
            kill_group(process.pid)  # what the rank itself started must not outlive it
        return exits

    def kill(self) -> None:
        for process in self._processes.values():
            kill_group(process.pid)
        for process in self._processes.values():
            self._server_died |= _ended_with_server(process)
        self._processes.clear()
        if self._server is not None and not self._server_died and alive(self._server):
            kill_below(self._server)
        else:  # nobody has inherited what the ranks left
            kill_marked(*MARK)


def _ended_with_server(process: BaseProcess) -> bool:
    """Wait for the end of a rank that was killed; whether the server died before it could tell of it."""
    process.kill()
    if not connection.wait([process.sentinel], PATIENCE):  # it waits for a broken device, and nothing can end it
        return False
    orphaned = _orphaned(process)
    process.join()
    return orphaned


def _orphaned(process: Any) -> bool:
    """Whether the pipe of a rank that ended holds no status, because its other end, the fork server, is gone."""
    # multiprocessing reads the status of whatever has ended by itself, whenever it starts another process.
    read_already = process._popen.returncode is not None
    unread = int.from_bytes(fcntl.ioctl(process.sentinel, termios.FIONREAD, bytes(4)), sys.byteorder)
    return not read_already and unread == 0
