"""Imported first by the fork server: what becomes of processes that ranks leave behind."""

from __future__ import annotations

import atexit
import os
import warnings

from harness.launchers.processes import adopt_orphans, kill_below


def keep_house() -> None:
    """Inherit what ranks leave behind, and leave nothing behind when the parent was killed and so the server ends."""
    adopt_orphans()
    server = os.getpid()
    atexit.register(lambda: kill_below(server) if os.getpid() == server else None)  # not in what is forked from it
    warnings.filterwarnings("ignore", "forkserver: waitpid returned unexpected pid")  # these are the orphans


keep_house()
