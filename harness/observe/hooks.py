"""Where torch is listened to. What is replaced does what it did; what is told of it comes before or after.

Where Dynamo watches, as inside a compiled training step, it would compile what is called there with "is compiling" as a
fact for ever: the functions that stand in for others are breaks in its graph, as those others are. The optimizers'
hooks must be none, or the graph of a compiled optimizer would break; they return at once there.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import Any

from .replacing import instead, remembering
from .watcher import Watcher


def install(watcher: Watcher) -> None:
    """Put every hook in, once in a process; torch has just been imported."""
    import torch

    _optimizers(watcher, torch)
    _backward(watcher, torch)
    _scalers(watcher, torch)
    _clipping(watcher, torch)
    if torch.distributed.is_available():
        _process_groups(watcher, torch)
    _batches(watcher)
    _endings(watcher)


def _optimizers(watcher: Watcher, torch: Any) -> None:
    from torch.optim.optimizer import (
        Optimizer,
        register_optimizer_step_post_hook,
        register_optimizer_step_pre_hook,
    )

    def begins(optimizer: Any, args: Any, kwargs: Any) -> None:
        if not torch.compiler.is_compiling():
            watcher.optimizer_begins(optimizer)

    def ended(optimizer: Any, args: Any, kwargs: Any) -> None:
        if not torch.compiler.is_compiling():
            watcher.optimizer_stepped(optimizer)

    register_optimizer_step_pre_hook(begins)
    register_optimizer_step_post_hook(ended)

    def clears(old: Any) -> Any:
        def zero_grad(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            watcher.gradients_cleared(optimizer)
            return old(optimizer, *args, **kwargs)

        return torch._disable_dynamo(zero_grad)

    instead(Optimizer, "zero_grad", clears)


def _backward(watcher: Watcher, torch: Any) -> None:
    """`Tensor.backward` looks this function up at every call. One within another belongs to it (checkpointing)."""

    def make(old: Any) -> Any:
        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if watcher.inside:
                return old(tensors, *args, **kwargs)
            watcher.backward_begins(tensors)
            watcher.inside = True
            try:
                return old(tensors, *args, **kwargs)
            finally:
                watcher.inside = False

        return torch._disable_dynamo(backward)

    instead(torch.autograd, "backward", make)


def _scalers(watcher: Watcher, torch: Any) -> None:
    instead(torch.amp.GradScaler, "scale", remembering)

    def makes_step(old: Any) -> Any:
        def step(scaler: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            before = watcher.step.calls
            out = old(scaler, optimizer, *args, **kwargs)
            watcher.scaler_stepped(scaler, optimizer, before)
            return out

        return step

    instead(torch.amp.GradScaler, "step", makes_step)


def _clipping(watcher: Watcher, torch: Any) -> None:
    def make(old: Any) -> Any:
        def clip_grad_norm_(*args: Any, **kwargs: Any) -> Any:
            norm = old(*args, **kwargs)
            if not torch.compiler.is_compiling():
                watcher.clipped(norm)
            return norm

        return clip_grad_norm_

    instead(torch.nn.utils.clip_grad, "clip_grad_norm_", make)
    torch.nn.utils.clip_grad_norm_ = torch.nn.utils.clip_grad.clip_grad_norm_


def _process_groups(watcher: Watcher, torch: Any) -> None:
    def make(old: Any) -> Any:
        def init_process_group(*args: Any, **kwargs: Any) -> Any:
            out = old(*args, **kwargs)
            watcher.joined()
            return out

        return init_process_group

    instead(torch.distributed.distributed_c10d, "init_process_group", make)
    torch.distributed.init_process_group = torch.distributed.distributed_c10d.init_process_group


def _batches(watcher: Watcher) -> None:
    from torch.utils.data import dataloader

    def make(old: Any) -> Any:
        def next_batch(iterator: Any) -> Any:
            batch = old(iterator)
            watcher.batch_came(batch)
            return batch

        return next_batch

    instead(dataloader._BaseDataLoaderIter, "__next__", make)


def _endings(watcher: Watcher) -> None:
    shown = sys.excepthook

    def excepthook(kind: Any, error: BaseException, trace: Any) -> None:
        watcher.failed(error)
        shown(kind, error, trace)

    sys.excepthook = excepthook

    def make(old: Any) -> Any:
        def _wrap(function: Any, *args: Any) -> Any:
            def telling(*given: Any) -> Any:
                try:
                    return function(*given)
                except Exception as error:
                    watcher.failed(error)
                    raise
                finally:
                    watcher.leaves()  # such a child does not come to what is registered for the end

            return old(telling, *args)

        return _wrap

    # torch.multiprocessing.spawn is a function that hides the module of its name; its children come to no such hook.
    instead(sys.modules["torch.multiprocessing.spawn"], "_wrap", make)
    atexit.register(watcher.leaves)
    os.register_at_fork(after_in_child=watcher.forked)
