"""Whole steps on a device that is no CPU, for machines without one: run as a program, one line of JSON for each plan.

Torch's backend for devices written in Python gives the type "npy", fake tensors give it shapes without content, and
nothing but fake tensors is let in: an operator that meets a tensor of the CPU fails. The fake devices are taken for
CUDA's where strategies ask what a device can do.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

from harness.predict import trace
from harness.rank.main import build
from tests.tiny import facts, gpt, plan

STEPS = 2
MODEL = {"blocks": 4}


class Event:
    """Happens at once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def record(self, *args: Any) -> None: ...

    def wait(self, *args: Any) -> None: ...


class Stream:
    """Is never behind."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def wait_event(self, event: Event) -> None: ...

    def wait_stream(self, stream: Stream) -> None: ...

    def record_event(self, event: Event | None = None) -> Event:
        return Event()


class Module(backend_registration._DummyBackendModule):  # type: ignore[misc]
    """What torch asks of `torch.npy`."""

    Stream, Event = Stream, Event

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def current_stream(self, *args: Any) -> Stream:
        return Stream()

    def get_rng_state(self, *args: Any) -> torch.Tensor:
        return torch.empty(16, dtype=torch.uint8)

    def set_rng_state(self, *args: Any) -> None: ...

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        yield


class Reads(TorchDispatchMode):
    """Notes where a number is read from a device: the host would wait there."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            if args[0].device.type != "cpu":
                self.places.append("".join(traceback.format_stack(limit=8)))
            return {True: 0.5}.get(args[0].is_floating_point(), args[0].dtype is torch.bool or 1)
        return func(*args, **(kwargs or {}))


def register() -> torch.device:
    """Make the device."""
    backend_registration._setup_privateuseone_for_python_backend("npy", backend_module=Module())
    kept.append(torch.library.Library("_", "IMPL", "AutocastPrivateUse1"))
    kept[0].fallback(torch.library.fallthrough_kernel)
    return torch.device("npy", 0)


kept: list[torch.library.Library] = []


@contextlib.contextmanager
def shapes_alone(device: torch.device) -> Iterator[None]:
    """While it is entered, `torch.tensor` makes tensors of the device too: it has no kernel to copy values there."""
    real: Callable[..., torch.Tensor] = torch.tensor

    def tensor(data: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        if torch.device(kwargs.get("device") or "cpu").type != device.type:
            return real(data, *args, **kwargs)
        plain = real(data, *args, **{**kwargs, "device": None})
        return torch.empty(plain.shape, dtype=plain.dtype, device=device)

    torch.tensor = tensor  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.tensor = real  # type: ignore[assignment]


def steps(settings: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Build a plan and train."""
    wanted, workload = plan(settings), gpt(**MODEL)
    at_hand = replace(facts(workload, wanted.world_size), device_type="cuda", capability=(9, 0), compiler=True)
    reads = Reads()
    with contextlib.ExitStack() as stack:
        if wanted.world_size > 1:
            dist.init_process_group("cpu:fake,npy:fake", store=FakeStore(), rank=0, world_size=wanted.world_size)
            stack.callback(dist.destroy_process_group)
        stack.enter_context(trace._stand_ins("cuda"))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=False))
        stack.enter_context(shapes_alone(device))
        stack.enter_context(reads)
        training = build(workload, wanted, at_hand, device, trace._valueless)
        samples = torch.empty((len(training.sample_indices), workload.seq_len), dtype=torch.long, device=device)
        for step in range(STEPS):
            reads.places.clear()  # the first step may look
            training.step(step, {"tokens": samples, "next": samples})
        state = training.engine.state()
    return {
        "devices": sorted({tensor.device.type for tensor in (*state.params, *state.optimizer) if tensor.dim()}),
        "reads": reads.places,
    }


def main() -> None:
    """Run the plans that standard input names, a JSON object a line."""
    warnings.simplefilter("ignore")
    device = register()
    for line in sys.stdin:
        try:
            found = steps(json.loads(line), device)
        except Exception as error:
            found = {"error": "".join(traceback.format_exception(error)[-8:])}
        print("SEEN", json.dumps(found), flush=True)
    os._exit(0)  # threads of C++ that belong to the device would abort an orderly end


if __name__ == "__main__":
    main()
