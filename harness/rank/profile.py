"""One step under torch.profiler: communication that computing hides, and the allocator's own view of memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

ROUNDS = 16
"""Operations that pass through the threads of a group before the profiler ends."""

COMMUNICATORS = ("nccl", "rccl", "oneccl")
"""In the names of kernels that communicate."""

Interval = tuple[int, int]
"""Begin and end, in ns."""


def profiled(step: Callable[[], None], device: torch.device) -> dict[str, float | int]:
    """Run a step under the profiler.

    Returns:
        comm_s              time in which this rank communicates, in s
        comm_exposed_s      the part of it in which it computes nothing, in s
        allocated_peak_bytes    highest sum of what the CPU allocator gave since the step began; absent on a device,
                            whose allocator keeps its own peak

        {} on a device that the profiler saw nothing of, as without the right to read its counters.
    """
    on_cpu = device.type == "cpu"
    beside = [] if on_cpu else [getattr(ProfilerActivity, device.type.upper())]
    activities = [ProfilerActivity.CPU, *beside]
    with profile(activities=activities, profile_memory=on_cpu) as seen:
        step()
        if not on_cpu:
            torch.accelerator.synchronize(device)
    assert seen.profiler is not None
    events = seen.profiler.kineto_results.events()
    if not on_cpu and not any(map(_on_device, events)):
        return {}
    communicating = merged(interval(e) for e in events if communicates(e, on_cpu=on_cpu))
    computing = merged(interval(e) for e in events if computes(e, on_cpu=on_cpu))
    total, hidden = length(communicating), length(overlap(communicating, computing))
    found: dict[str, float | int] = {"comm_s": total / 1e9, "comm_exposed_s": (total - hidden) / 1e9}
    if on_cpu:
        found["allocated_peak_bytes"] = highest_sum(e.nbytes() for e in events if e.name() == "[memory]")
    return found


def settle(group: dist.ProcessGroup) -> None:
    """Let the threads of a gloo group come to an end with what they still note down of earlier operations.

    An operation is over for who waits for it a moment before its thread has told the profiler so, and a profiler that
    ends in between takes the process with it. These operations come after it on the same threads; they are not
    profiled themselves, since the profiler follows the thread that started it.
    """
    tokens = [torch.zeros(1) for _ in range(ROUNDS)]

    def pass_by() -> None:
        for token in tokens:
            dist.all_reduce(token, group=group)

    passing = threading.Thread(target=pass_by)
    passing.start()
    passing.join()


def communicates(event: Any, *, on_cpu: bool) -> bool:
    """Whether an event is a collective under way: gloo names its own, NCCL's are kernels."""
    if on_cpu:
        return bool(event.name().startswith("gloo:"))
    return _on_device(event) and any(library in event.name().lower() for library in COMMUNICATORS)


def computes(event: Any, *, on_cpu: bool) -> bool:
    """Whether an event is an operator that computes (the wrappers around operators also cover waiting), or a kernel."""
    if on_cpu:
        return bool(event.name().startswith(("aten::", "torchao::")))
    return _on_device(event) and not communicates(event, on_cpu=False)


def _on_device(event: Any) -> bool:
    """Whether an event is work of a device, not the span of a `record_function` laid over it."""
    return bool(event.device_type().name != "CPU" and event.duration_ns() > 0 and not event.is_user_annotation())


def interval(event: Any) -> Interval:
    """When an event began and ended."""
    return event.start_ns(), event.start_ns() + event.duration_ns()


def merged(intervals: Iterable[Interval]) -> list[Interval]:
    """The same time as intervals that do not touch, in order."""
    whole: list[Interval] = []
    for begin, end in sorted(intervals):
        if whole and begin <= whole[-1][1]:
            whole[-1] = whole[-1][0], max(whole[-1][1], end)
        else:
            whole.append((begin, end))
    return whole


def overlap(ours: list[Interval], theirs: list[Interval]) -> Iterator[Interval]:
    """The time that lies in both; each list as `merged` returns it."""
    i = j = 0
    while i < len(ours) and j < len(theirs):
        begin, end = max(ours[i][0], theirs[j][0]), min(ours[i][1], theirs[j][1])
        if begin < end:
            yield begin, end
        if ours[i][1] < theirs[j][1]:
            i += 1
        else:
            j += 1


def length(intervals: Iterable[Interval]) -> int:
    """Sum of the lengths."""
    return sum(end - begin for begin, end in intervals)


def highest_sum(changes: Iterable[int]) -> int:
    """Highest value of a sum that begins at 0."""
    total = highest = 0
    for change in changes:
        total += change
        highest = max(highest, total)
    return highest
