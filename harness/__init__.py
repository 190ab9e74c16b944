"""Benchmarking and autotuning of distributed training: which strategy trains a model fastest on this hardware.

>>> import harness
>>> result = harness.sweep(model=MyNet, batch=batch, loss=loss, time_budget="3m")  # doctest: +SKIP

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from harness.version import __version__

if TYPE_CHECKING:
    from harness.api.call import sweep
    from harness.api.result import SweepResult, Winner
    from harness.errors import HarnessError, InputError, MeasurementError, StoreError
    from harness.workloads.own import TorchWorkload
    from strategies.facts import Split
    from strategies.optimizer import OptimizerConfig

__all__ = [
    "HarnessError",
    "InputError",
    "MeasurementError",
    "OptimizerConfig",
    "Split",
    "StoreError",
    "SweepResult",
    "TorchWorkload",
    "Winner",
    "__version__",
    "sweep",
]

_HOMES = {
    "sweep": "harness.api.call",
    **dict.fromkeys(("SweepResult", "Winner"), "harness.api.result"),
    **dict.fromkeys(("HarnessError", "InputError", "MeasurementError", "StoreError"), "harness.errors"),
    "TorchWorkload": "harness.workloads.own",
    "Split": "strategies.facts",
    "OptimizerConfig": "strategies.optimizer",
}
"""Where each public name is defined."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
