"""The machine around a trial: its state before, during and after, and whether others disturbed what was measured."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from harness.machine import hardware, nvml
from harness.machine.hardware import Device, MachineState

INTERVAL_S = 1.0
"""Between two looks at the devices while ranks run."""
FOREIGN_SHARE = 0.10
"""Share of the usable cores' time that others may take in a CPU trial's window."""
FOREIGN_SHARE_BESIDE_DEVICES = 0.5
"""The same where devices do the work and the cores only feed them."""
STOLEN_SHARE = 0.05
"""Share that the hypervisor may take."""
BUSY_SHARE, USED_BYTES = 0.05, 1 << 30
"""Share of the time, and memory, that others may use of a device before a trial; what a display takes is less."""
ANSWER_S = 5.0
"""How long a look at the devices may take, in s."""
FREED_S, LEFT_BYTES = 10.0, 256 << 20
"""How long a driver may take to free what a killed process held, in s, and what may be missing still."""
POWER_CAP = "power cap"
"""The one clock limit that is a busy device's usual state, and so no disturbance."""


@dataclass
class Seen:
    """States of the machine around one trial."""

    before: MachineState
    after: MachineState | None = None
    during: list[MachineState] = field(default_factory=list)

    def columns(self, used: int, window: tuple[float, float] | None = None) -> dict[str, Any]:
        """The columns of the trial's row; None for what cannot be read.

        Args:
            used: the first so many devices are the trial's.
            window: monotonic times between which it was measured; None if it was not, or nothing was seen meanwhile.
        """
        after = self.after or self.before
        begin, end = window or (-math.inf, math.inf)
        within = [state for state in self.during if begin <= state.at_s <= end] or self.during
        states = [state.devices[:used] for state in within if state.devices]
        devices = [device for state in states for device in state]
        clocks = [d.sm_clock_mhz for d in devices if d.sm_clock_mhz is not None]
        temperatures = [d.temperature_c for d in devices if d.temperature_c is not None]
        powers = [sum(d.power_w or 0.0 for d in state) for state in states]
        reasons = {reason for d in devices for reason in d.throttled_by or ()}
        frequencies = [s.cpu_frequency_mhz for s in (self.before, after) if s.cpu_frequency_mhz is not None]
        idle = self.before.devices[:used]
        return {
            "load_before": self.before.load_1min,
            "load_after": after.load_1min,
            "cpu_mhz": statistics.mean(frequencies) if frequencies else None,
            "device_clock_mhz": min(clocks, default=None),
            "device_temperature_c": max(temperatures, default=None),
            "device_power_w": statistics.mean(powers) if any(powers) else None,
            "throttled_by": ", ".join(sorted(reasons)) or None,
            "device_busy_before": max((d.busy_share for d in idle if d.busy_share is not None), default=None),
            "device_used_before_bytes": max((d.used_bytes for d in idle if d.used_bytes is not None), default=None),
        }


@contextmanager
def watching(devices: Sequence[Device], library: Any = None) -> Iterator[Seen]:
    """Look at the machine before, while and after the block runs.

    Args:
        devices: the accelerators to look at while it runs; without any nothing is done meanwhile.
        library: a module with pynvml's functions; None takes the installed one.
    """
    with nvml.session(library):
        seen = Seen(hardware.state(library, devices))
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(INTERVAL_S):
                seen.during.append(hardware.state(library, devices))

        watcher = threading.Thread(target=look, daemon=True) if devices else None
        if watcher:
            watcher.start()
        try:
            yield seen
        finally:
            ended.set()
            if watcher:
                watcher.join(ANSWER_S)
            if watcher is None or not watcher.is_alive():  # a lost device may never answer, and must not be asked again
                seen.after = hardware.state(library, devices)
            if devices and not seen.during and seen.after:
                seen.during.append(seen.after)


def wait_until_free(devices: Sequence[Device], before: MachineState, library: Any = None) -> bool:
    """Wait until what a killed trial held of the devices has been given back, which a driver may do late.

    Args:
        devices: those of `Hardware`.
        before: the machine before that trial.
        library: a module with pynvml's functions; None takes the installed one.

    Returns:
        Whether it was, within `FREED_S`; True as well if nobody can say.
    """
    end = time.monotonic() + FREED_S
    while True:
        now = hardware.state(library, devices)
        pairs = zip(before.devices, now.devices, strict=False)
        held = [d.used_bytes - b.used_bytes for b, d in pairs if None not in (b.used_bytes, d.used_bytes)]  # type: ignore[operator]
        if max(held, default=0) <= LEFT_BYTES:
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.1)


def disturbance(row: Mapping[str, Any], device_type: str) -> str | None:
    """Why a row's numbers may be off, in one sentence; None if nothing was seen."""
    found = []
    limit = FOREIGN_SHARE if device_type == "cpu" else FOREIGN_SHARE_BESIDE_DEVICES
    foreign, stolen = row.get("foreign_cpu_share"), row.get("stolen_cpu_share")
    if foreign is not None and foreign > limit:
        found.append(f"other processes took {foreign:.0%} of the usable cores' time")
    if stolen is not None and stolen > STOLEN_SHARE:
        found.append(f"the hypervisor took {stolen:.0%} of the usable cores' time")
    if (row.get("device_busy_before") or 0.0) > BUSY_SHARE:
        found.append(f"a device was busy before it began, {row['device_busy_before']:.0%} of the time")
    if (row.get("device_used_before_bytes") or 0) > USED_BYTES:
        found.append(f"others held {row['device_used_before_bytes'] / 2**30:.1f} GiB of a device's memory")
    slowed = [reason for reason in str(row.get("throttled_by") or "").split(", ") if reason not in ("", POWER_CAP)]
    if slowed:
        found.append(f"the devices' clocks were held down by {', '.join(slowed)}")
    return " and ".join(found) or None
