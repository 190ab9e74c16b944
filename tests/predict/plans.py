"""Shapes and setups that tests of formulas draw."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from harness.predict.setup import PRECISIONS, Setup, format_fields
from harness.predict.shape import Shape

MODEL = Shape(width=2048, layers=16, heads=16, kv_heads=16, hidden=8192, seq_len=1024, vocab=32000)

LLAMA = Shape(
    width=4096,
    layers=32,
    heads=32,
    kv_heads=8,
    hidden=14336,
    gated=True,
    seq_len=8192,
    vocab=128256,
    tied=False,
    positions=False,
)
"""Llama-3.1-8B."""


def setup(precision: str = "bf16_params", **given: Any) -> Setup:
    """A setup in a precision; two samples in a micro-batch unless given otherwise."""
    return Setup(**{"micro_batch": 2, "global_batch": 64, **format_fields(PRECISIONS[precision]), **given})


@st.composite
def setups(draw: st.DrawFn) -> Setup:
    """Any setup that MODEL can be trained with."""
    schedule = draw(st.sampled_from(["gpipe", "1f1b", "interleaved"]))
    pp = draw(st.sampled_from([1, 2, 4, 8]))
    return setup(
        draw(st.sampled_from(sorted(PRECISIONS))),
        dp=draw(st.sampled_from([1, 2, 8, 64])),
        tp=draw(st.sampled_from([1, 2, 4, 8, 16])),
        pp=pp,
        data_parallel=draw(st.sampled_from(["none", "ddp", "zero1", "zero2", "zero3"])),
        schedule=schedule,
        stages_per_rank=2 if schedule == "interleaved" and pp > 1 else 1,
        micro_batch=draw(st.integers(1, 8)),
        global_batch=draw(st.sampled_from([64, 512, 4096])),
        activation_checkpoint=draw(st.sampled_from(["none", "full", "nth", "selective", "attention", "half"])),
        checkpoint_every=draw(st.integers(2, 4)),
        sequence_parallel=draw(st.booleans()),
        overlap=draw(st.booleans()),
        compile=draw(st.booleans()),
        fused_attention=draw(st.booleans()),
        balanced=draw(st.booleans()),
    )
