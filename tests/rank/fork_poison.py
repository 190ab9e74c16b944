"""Imports modules where torch seems to be built for CUDA, and prints who asked for a device as they were.

A CPU build has none of CUDA's functions; they are made up, and note down who calls them.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

CALLS: list[str] = []


def noting(name: str, answer: Any) -> Any:
    def call(*arguments: Any, **options: Any) -> Any:
        frames = [f for f in traceback.extract_stack()[:-1] if "importlib" not in f.filename]
        CALLS.append(f"{name} from {Path(frames[-1].filename).name}:{frames[-1].lineno}")
        return answer

    return call


def pretend() -> None:
    names: set[str] = set()
    for path in Path(torch.__file__).parent.rglob("*.py"):
        names |= set(re.findall(r"\b_cuda_\w+", path.read_text(errors="replace")))
    for name in names - set(dir(torch._C)):
        setattr(torch._C, name, noting(name, 0))
    torch._C._cuda_getDeviceCount = noting("_cuda_getDeviceCount", 1)
    torch._C._cuda_isInBadFork = lambda: False
    torch.version.cuda = "13.0"  # type: ignore[misc]
    from torch import cuda

    def lazy() -> None:
        noting("_lazy_init", None)()
        raise RuntimeError("a driver would start here")

    cuda._lazy_init = lazy
    # What torch itself does with Triton needs it; what others ask before they use it does not.
    importlib.import_module("torch._dynamo")
    importlib.import_module("torch._inductor.runtime.hints")
    importlib.import_module("torch.utils._triton").has_triton_package = lambda: True  # type: ignore[attr-defined]


if __name__ == "__main__":
    pretend()
    for module in sys.argv[1:]:
        try:
            importlib.import_module(module)
        except RuntimeError as error:
            CALLS.append(f"{module}: {error}")
    print(json.dumps(CALLS))
