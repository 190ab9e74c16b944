"""The machine around a trial: its state before, during and after, and whether others disturbed what was measured."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from harness.machine import hardware, nvml
from harness.machine.hardware import MachineState

INTERVAL_S = 1.0
"""Between two looks at the devices while ranks run."""
FOREIGN_SHARE = 0.10
"""Share of the usable cores' time that others may take in a CPU trial's window."""
FOREIGN_SHARE_BESIDE_DEVICES = 0.5
"""The same where devices do the work and the cores only feed them."""
STOLEN_SHARE = 0.05
"""Share that the hypervisor may take."""
POWER_CAP = "power cap"
"""The one clock limit that is a busy device's usual state, and so no disturbance."""


@dataclass
class Seen:
    """States of the machine around one trial."""

    before: MachineState
    after: MachineState | None = None
    during: list[MachineState] = field(default_factory=list)

    def columns(self) -> dict[str, Any]:
        """The columns of the trial's row; None for what cannot be read."""
        after = self.after or self.before
        devices = [device for state in self.during for device in state.devices]
        clocks = [d.sm_clock_mhz for d in devices if d.sm_clock_mhz is not None]
        temperatures = [d.temperature_c for d in devices if d.temperature_c is not None]
        powers = [sum(d.power_w or 0.0 for d in state.devices) for state in self.during if state.devices]
        reasons = {reason for d in devices for reason in d.throttled_by or ()}
        frequencies = [s.cpu_frequency_mhz for s in (self.before, after) if s.cpu_frequency_mhz is not None]
        return {
            "load_before": self.before.load_1min,
            "load_after": after.load_1min,
            "cpu_mhz": statistics.mean(frequencies) if frequencies else None,
            "device_clock_mhz": min(clocks, default=None),
            "device_temperature_c": max(temperatures, default=None),
            "device_power_w": statistics.mean(powers) if any(powers) else None,
            "throttled_by": ", ".join(sorted(reasons)) or None,
        }


@contextmanager
def watching(devices: bool, library: Any = None) -> Iterator[Seen]:
    """Look at the machine before, while and after the block runs.

    Args:
        devices: whether there are accelerators to look at while it runs; without them nothing is done meanwhile.
        library: a module with pynvml's functions; None takes the installed one.
    """
    with nvml.session(library):
        seen = Seen(hardware.state(library))
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(INTERVAL_S):
                seen.during.append(hardware.state(library))

        watcher = threading.Thread(target=look, daemon=True) if devices else None
        if watcher:
            watcher.start()
        try:
            yield seen
        finally:
            ended.set()
            if watcher:
                watcher.join()
            seen.after = hardware.state(library)
            if devices and not seen.during:
                seen.during.append(seen.after)


def disturbance(row: Mapping[str, Any], device_type: str) -> str | None:
    """Why a row's numbers may be off, in one sentence; None if nothing was seen."""
    found = []
    limit = FOREIGN_SHARE if device_type == "cpu" else FOREIGN_SHARE_BESIDE_DEVICES
    foreign, stolen = row.get("foreign_cpu_share"), row.get("stolen_cpu_share")
    if foreign is not None and foreign > limit:
        found.append(f"other processes took {foreign:.0%} of the usable cores' time")
    if stolen is not None and stolen > STOLEN_SHARE:
        found.append(f"the hypervisor took {stolen:.0%} of the usable cores' time")
    slowed = [reason for reason in str(row.get("throttled_by") or "").split(", ") if reason not in ("", POWER_CAP)]
    if slowed:
        found.append(f"the devices' clocks were held down by {', '.join(slowed)}")
    return " and ".join(found) or None
