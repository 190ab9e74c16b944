"""What engines do instead of calling torch's optimizers and scaling losses in its own way.

Each is looked for among the imported modules: nothing is imported for its sake. Those not named here call optimizers of
torch's and divide losses by themselves: Accelerate, transformers' Trainer, Lightning.
"""

from __future__ import annotations

import sys
import weakref
from typing import Any

from .readings import soon
from .replacing import instead, remembering

_watched: set[str] = set()
"""Modules that are listened to already."""
_used: set[str] = set()
"""Engines that were made, by the names of their classes."""


def seen() -> list[str]:
    """The known ones that this process has imported, those apart that others import without using them."""
    found = {
        "deepspeed": "DeepSpeedEngine" in _used,
        "accelerate": "accelerate.accelerator" in sys.modules,
        "transformers": "transformers.trainer" in sys.modules,
        "lightning": any(name in sys.modules for name in ("lightning.pytorch.trainer", "pytorch_lightning.trainer")),
        "megatron": "megatron.core" in sys.modules,
        "torchtitan": "torchtitan.train" in sys.modules,
    }
    return [name for name, is_there in found.items() if is_there]


def watch_those_imported(watcher: Any) -> None:
    """Listen to engines that were imported since the last look."""
    for name, watch in _WATCHED.items():
        if name not in _watched and name in sys.modules:
            _watched.add(name)
            watch(watcher, sys.modules[name])


def divisor(engine: Any) -> float:
    """What an engine that is stepped without its own `backward` divides gradients by, after backward."""
    return float(engine.gradient_accumulation_steps()) if engine is not None else 1.0


def _deepspeed(watcher: Any, module: Any) -> None:
    """Its engine divides and scales losses itself, and has optimizers of its own around torch's."""
    engine_class = module.DeepSpeedEngine

    def initialises(old: Any) -> Any:
        def initialise(engine: Any, *args: Any, **kwargs: Any) -> None:
            _used.add("DeepSpeedEngine")
            watcher.engine = weakref.ref(engine)
            old(engine, *args, **kwargs)

        return initialise

    def goes_back(old: Any) -> Any:
        def backward(engine: Any, loss: Any, *args: Any, **kwargs: Any) -> Any:
            scaled = kwargs.get("scale_wrt_gas", args[1] if len(args) > 1 else True)
            watcher.given = [(soon(loss), float(engine.gradient_accumulation_steps()) if scaled else 1.0)]
            try:
                return old(engine, loss, *args, **kwargs)
            finally:
                watcher.given = None

        return backward

    def steps(old: Any) -> Any:
        def _take_model_step(engine: Any, *args: Any, **kwargs: Any) -> Any:
            before = watcher.step.calls
            out = old(engine, *args, **kwargs)
            overflow = bool(getattr(engine.optimizer, "overflow", False))
            watcher.engine_stepped(engine, before, overflow, getattr(engine, "_global_grad_norm", None))
            return out

        return _take_model_step

    instead(engine_class, "__init__", initialises)
    instead(engine_class, "backward", goes_back)
    instead(engine_class, "_take_model_step", steps)


def _sharded_scaler(watcher: Any, module: Any) -> None:
    instead(module.ShardedGradScaler, "scale", remembering)


_WATCHED = {
    "deepspeed.runtime.engine": _deepspeed,
    "torch.distributed.fsdp.sharded_grad_scaler": _sharded_scaler,
}
