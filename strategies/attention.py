"""Which implementation of attention a model runs, where it has several that compute the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from strategies.base import Slot, Strategy, UnsuitableError
from strategies.facts import Facts
from strategies.knob import Choice, Knob, Setting, Settings

if TYPE_CHECKING:
    from strategies.training import Training

FLASH = "flash_attention_2"
HALF = ("bf16_autocast", "bf16_params", "bf16", "fp16")
"""Precisions in which queries, keys and values have 16 bits, the only ones that flash attention's kernels know."""


class Attention(Strategy):
    """Transformers' implementations: eager (three products and a softmax), sdpa (torch's scaled_dot_product_attention),
    flex_attention (a compiled kernel), flash_attention_2 (Dao 2023, arXiv:2307.08691)."""

    name = "attention"
    slot = Slot.ATTENTION
    summary = "another implementation of attention than the one a model takes by itself"
    knobs: ClassVar[tuple[Knob, ...]] = (
        Choice(
            name="attention",
            default="auto",
            values=("auto", "eager", "sdpa", "flex_attention", FLASH),
            opt_in=("flex_attention",),  # its compilation takes many seconds
            implied=True,
            doc="implementation of attention; auto: what the model takes by itself",
        ),
    )

    def active(self, plan: Settings) -> bool:
        return plan.get("attention", "auto") != "auto"

    def showcases(self, facts: Facts) -> list[dict[str, Setting]]:
        return [{"attention": kind} for kind in self.searched(self.knobs[0], facts) if kind != "auto"]  # type: ignore[arg-type]

    def searched(self, knob: Choice, facts: Facts) -> tuple[Setting, ...]:
        others = (kind for kind in facts.model.attention[1:] if kind not in knob.opt_in)
        return ("auto", *(kind for kind in others if _lacks(kind, facts) is None))

    def check(self, plan: Settings, facts: Facts) -> str | None:
        kind, known = str(plan["attention"]), facts.model.attention
        if kind not in known:
            has = f"has {' and '.join(known)}" if known else "has one implementation of attention"
            return f"attention={kind} is not for {facts.workload}, which {has}"
        if kind == FLASH and plan["precision"] not in HALF:
            return f"{kind} has kernels for 16 bits alone, but precision={plan['precision']}"
        return _lacks(kind, facts)

    def apply(self, training: Training) -> None:
        kind = str(training.plan["attention"])
        for part in training.parts:
            model: Any = part
            model.set_attn_implementation(kind)
            if model.config._attn_implementation != kind:
                raise UnsuitableError(f"the model of {training.facts.workload} does not take attention={kind}")


def _lacks(kind: str, facts: Facts) -> str | None:
    """What a machine lacks for an implementation, in one sentence, or None."""
    if kind in ("flex_attention", FLASH) and facts.device_type != "cuda":
        return f"{kind} has kernels for GPUs, but the device is {facts.device_type}"
    if kind == "flex_attention" and not facts.compiler:
        return f"{kind} compiles its kernel, which needs a C compiler and Python's headers; none were found"
    if kind == FLASH and "flash_attn" not in facts.extras:
        return f"{kind} needs the package flash-attn: pip install flash-attn"
    return None
