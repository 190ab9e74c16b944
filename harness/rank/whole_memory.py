"""A program that needs nearly all of each device: what a trial before it left behind would end it."""

from __future__ import annotations

import json

import torch

from harness.launchers.job import Job
from harness.rank.main import device_of

SHARE = 0.85
"""Of a device's memory; the context of this process, and a desktop, take of the rest."""
FILE = "whole_memory.json"


def main(job: Job, rank: int) -> None:
    """Fill each device and write the bytes of the one that held least into the job's folder."""
    held = []
    for index in range(torch.accelerator.device_count()):
        device = device_of(index, job.facts.device_type)
        total = torch.get_device_module(device).get_device_properties(device).total_memory
        filled = torch.zeros(int(total * SHARE), dtype=torch.uint8, device=device)
        torch.accelerator.synchronize(device)
        held.append(filled.numel())
        del filled
    hidden = job.folder / f".{FILE}"
    hidden.write_text(json.dumps({"bytes": min(held)}))
    hidden.rename(job.folder / FILE)
