"""Where torch comes in: it calls `autoload` at the end of `import torch`, in every process that finds the entry point.

https://docs.pytorch.org/docs/stable/backend-extensions: every entry point of the group "torch.backends" is called, and
one that raises ends the import. So nothing may leave this file as an exception.
"""

from __future__ import annotations

import json
import os
from typing import Any

from .telling import SETTINGS, complain, own_rank

_watchers: list[Any] = []
"""The one of this process, if it is watched."""


def autoload() -> None:
    """Begin to watch this process, which stays silent until it shows that it trains."""
    path = os.environ.get(SETTINGS)
    if not path or _watchers:
        return
    try:
        own_rank()
        with open(path) as file:
            settings = json.load(file)
        from .hooks import install
        from .watcher import Watcher

        _watchers.append(Watcher(settings))
        install(_watchers[0])
    except Exception:
        complain()


def told(loss: Any, tokens: int | None, samples: int | None) -> None:
    """The script itself says that a step is over."""
    for watcher in _watchers:
        watcher.told(loss, tokens, samples)
