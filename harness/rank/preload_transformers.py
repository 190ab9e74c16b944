"""Imported once by the fork server where models of transformers are trained: two seconds that no rank spends again.

Not where torch is built for an accelerator: the package asks for its devices as it is imported, and what has asked
cannot be forked any more. There each rank imports it.
"""

from __future__ import annotations

import importlib
import importlib.util

from harness.rank.torch_build import built_for_an_accelerator

MODULES = (
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",  # which imports what most families share
    "peft",
    "harness.workloads.hf",
)


def load() -> None:
    """Import what ranks need beside what all need."""
    there = [name for name in MODULES if importlib.util.find_spec(name.partition(".")[0])]
    if not built_for_an_accelerator():
        for name in there:
            importlib.import_module(name)


load()
