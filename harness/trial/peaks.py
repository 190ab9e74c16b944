"""What a machine can do at most: published peaks of known devices, and this machine's own, measured once.

MFU is model FLOPs over the dense peak of everything a trial ran on (Chowdhery et al. 2022, arXiv:2204.02311,
appendix B). A device in the table counts with its published figure; anything else with the measured one; where
neither is known MFU is null.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.predict import devices
from harness.predict.setup import PRECISIONS
from strategies.knob import Setting

TERA = 1e12


@dataclass(frozen=True)
class Published:
    """Dense peaks of a device."""

    tflops: Mapping[str, float]
    """Number format -> 10^12 FLOP/s of matrix products, without sparsity."""
    source: str
    """Where the figures are from."""


PUBLISHED: dict[str, Published | str] = {
    "B200": "B200",
    "GH200": "GH200",
    "H200 NVL": Published({"fp32": 60, "bf16": 835, "fp16": 835}, "NVIDIA H200 NVL datasheet"),
    "H200": "H200",
    "H100 PCIe": Published({"fp32": 51, "bf16": 756, "fp16": 756}, "NVIDIA H100 datasheet"),
    "H100 NVL": Published({"fp32": 60, "bf16": 835, "fp16": 835}, "NVIDIA H100 NVL datasheet"),
    "H100": "H100",
    "A100-SXM4-40GB": "A100-40",
    "A100-PCIE-40GB": "A100-40",
    "A100": "A100-80",
    "MI300X": "MI300X",
    "A40": Published({"fp32": 37.4, "bf16": 149.7, "fp16": 149.7}, "NVIDIA A40 datasheet"),
    "A10G": Published({"fp32": 31.5, "bf16": 70, "fp16": 70}, "NVIDIA A10G, AWS G5 instance page"),
    "A10": Published({"fp32": 31.2, "bf16": 125, "fp16": 125}, "NVIDIA A10 datasheet"),
    "L40S": "L40S",
    "L40": Published({"fp32": 90.5, "bf16": 181, "fp16": 181}, "NVIDIA L40 datasheet"),
    "L4": Published({"fp32": 30.3, "bf16": 121, "fp16": 121}, "NVIDIA L4 datasheet"),
    "V100": Published({"fp32": 15.7, "fp16": 125}, "NVIDIA V100 datasheet"),
    "T4": Published({"fp32": 8.1, "fp16": 65}, "NVIDIA T4 datasheet"),
    "RTX 4090": "RTX 4090",
    "RTX 3090": Published({"fp32": 35.6, "bf16": 71, "fp16": 71}, "NVIDIA GA102 architecture whitepaper"),
}
"""Words of a device's name -> its peaks, or the name of its description in harness/predict/devices; the first that fits
counts. Products in bf16 and fp16 accumulate in fp32."""


OTHERWISE = re.compile(r"\b(Laptop|Max-Q|Mobile|MIG|D)\b|-\d+[QCAB]\b", re.IGNORECASE)
"""In names of devices that have the name of another one and less of everything: laptops', slices, virtual ones."""


def published(device: str) -> Published | None:
    """The entry of a device by the name its driver gives, None if it is not in the table, or only a share of it."""
    if OTHERWISE.search(device):
        return None
    entry = next((entry for part, entry in PUBLISHED.items() if _named(part, device)), None)
    if not isinstance(entry, str):
        return entry
    described = devices.device(entry)
    return Published({kind: rate / TERA for kind, rate in described.peak_flops.items()}, described.source)


def _named(part: str, device: str) -> bool:
    """Whether a name holds these words, and not only letters of them: an RTX A4000 is no A40."""
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(part)}(?![A-Za-z0-9])", device, re.IGNORECASE) is not None


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """The peaks that trials on one machine are judged by."""

    devices: tuple[str, ...] = ()
    """Names of the accelerators, () for a CPU."""
    measured: Mapping[str, Any] | None = None
    """What `harness.rank.peak` measured: "flops_per_s" by number format, of one device or of all CPU cores."""

    def of(self, plan: Mapping[str, Setting], world_size: int) -> tuple[float, str] | None:
        """(dense peak in FLOP/s of everything `world_size` ranks run on, where it is from); None if it is unknown.

        Products in int8 or float8 have another peak, which is not known here.
        """
        formats = PRECISIONS.get(str(plan["precision"]))
        if formats is None or plan.get("quantization") in ("int8", "float8"):
            return None
        kind = formats.compute
        if not self.devices:
            rate = self._measured(kind)
            return None if rate is None else (rate, "measured on all usable cores")
        entry = published(self.devices[0])
        rates = {} if entry is None else dict(entry.tflops)
        if "bf16" in rates:
            rates.setdefault("tf32", rates["bf16"] * devices.TF32_OF_BF16)
        if entry is not None and kind in rates:
            return rates[kind] * TERA * world_size, f"published: {entry.source}"
        rate = self._measured(kind)
        return None if rate is None else (rate * world_size, "measured on one device")

    def columns(self, plan: Mapping[str, Setting], world_size: int, row: Mapping[str, Any]) -> dict[str, Any]:
        """MFU and the peak it is a share of, for a row with a step time.

        A trial that is faster than the peak shows that it is none: a machine that was busy while it was measured. Then
        MFU is unknown.
        """
        found = self.of(plan, world_size)
        if found is None or not row.get("step_time_s"):
            return {}
        peak, source = found
        mfu = row["flops_per_step"] / row["step_time_s"] / peak
        if mfu > 1:
            return {}
        return {
            "mfu": mfu,
            "peak_flops_per_s": peak,
            "peak_source": source,
        }

    def _measured(self, kind: str) -> float | None:
        rates = (self.measured or {}).get("flops_per_s", {})
        return None if rates.get(kind) is None else float(rates[kind])
