"""Ways to start the ranks of a trial, by name. Imported on use."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint

from harness.errors import UnknownNameError
from harness.launchers.launcher import Launcher

LAUNCHERS = {
    "local": "harness.launchers.local:LocalLauncher",
}
"""One line for each launcher."""


def create(name: str, preload: Sequence[str] = ()) -> Launcher:
    """The launcher of that name.

    Args:
        name: one of `LAUNCHERS`.
        preload: modules that ranks need; a launcher may import them once for all ranks.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in LAUNCHERS:
        raise UnknownNameError("launcher", name, LAUNCHERS)
    launcher: Launcher = EntryPoint(name=name, value=LAUNCHERS[name], group="").load()(preload)
    return launcher
