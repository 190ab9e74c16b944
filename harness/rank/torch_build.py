"""What torch was built for, told without a question to a driver, after which no rank could be forked."""

from __future__ import annotations

import torch


def built_for_an_accelerator() -> bool:
    """Whether it was: attributes alone."""
    return any((torch.version.cuda, torch.version.hip, getattr(torch.version, "xpu", None)))
