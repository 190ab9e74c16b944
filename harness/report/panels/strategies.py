"""The best trial of each strategy, and what it costs and gains against plain ddp."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from harness.labels import Named, Row
from harness.report import format as fmt
from harness.report.figures import row_figure, text
from harness.report.panels.panel import Chart, Table
from harness.report.sweep_view import SweepView

_INELIGIBLE = "over the memory limit, or another workload"


@dataclass(frozen=True, kw_only=True)
class Best(Named):
    """The fastest ok trial that uses a strategy."""

    strategy: str
    tokens_per_s: float
    low: float
    high: float
    against_ddp: str
    """Such as "+4 % speed · -23 % memory"; empty for ddp itself, or without a ddp trial."""
    peak_memory_bytes: float | None


@dataclass(frozen=True)
class Strategies:
    """A bar for each strategy, the fastest first."""

    bars: tuple[Best, ...]
    unit: str
    reading: str
    absent: str
    """The strategies without an ok trial, and why; empty if there are none."""


def uses(row: Row) -> list[str]:
    """Names of the strategies that a trial uses."""
    parts = {
        str(row["data_parallel"]): row["data_parallel"] not in (None, "none"),
        "tensor_parallel": (row["tp"] or 1) > 1,
        "pipeline_parallel": (row["pp"] or 1) > 1,
        "activation_checkpoint": row["activation_checkpoint"] not in (None, "none"),
        "quantization": row["quantization"] not in (None, "none"),
        "precision": row["precision"] not in (None, "fp32"),
        "compile": bool(row["compile"]),
    }
    return [name for name, used in parts.items() if used] or ["one process"]


def data(view: SweepView) -> Strategies | None:
    """The best trial of each strategy; None if no trial is ok."""
    if view.winner is None or view.winner["data_parallel"] is None:  # of a script whose knobs mean no such thing
        return None
    best = _best(view, view.winner)
    if not best:
        return None
    base = view.best("ddp", view.winner["workload_id"])
    bars = [_bar(view, name, row, base) for name, row in best.items()]
    bars.sort(key=lambda bar: -bar.tokens_per_s)
    return Strategies(tuple(bars), view.unit, _reading(view, bars, base), _absent(view, set(best)))


def draw(strategies: Strategies) -> Chart:
    """Horizontal bars with the 95 % interval as whiskers."""
    bars = strategies.bars
    names = [bar.strategy for bar in bars]
    figure = row_figure(strategies.unit, names, [f"{bar.strategy}\n{bar.against_ddp}".strip() for bar in bars])
    figure.add_bar(
        orientation="h",
        x=[bar.tokens_per_s for bar in bars],
        y=list(range(len(bars))),
        customdata=[bar.at for bar in bars],
        marker={"color": [bar.colour for bar in bars]},
        error_x={
            "array": [bar.high - bar.tokens_per_s for bar in bars],
            "arrayminus": [bar.tokens_per_s - bar.low for bar in bars],
            "color": "var(--ink)",
            "thickness": 1.5,
        },
        hovertext=[_hover(bar, strategies.unit) for bar in bars],
        hoverinfo="text",
        showlegend=False,
        text=[text(bar.against_ddp) for bar in bars],
        textposition="auto",
        insidetextanchor="start",
        textangle=0,
        insidetextfont={"color": "var(--on-bar)"},
        outsidetextfont={"color": "var(--ink)"},
        cliponaxis=False,
    )
    return Chart(figure=figure, reading=strategies.reading, note=strategies.absent, table=_table(strategies))


def _table(strategies: Strategies) -> Table:
    columns = ("strategy", "plan", strategies.unit, "low", "high", "peak memory B", "against ddp")
    return Table(
        columns=columns,
        rows=tuple(
            (b.strategy, b.label, b.tokens_per_s, b.low, b.high, b.peak_memory_bytes, b.against_ddp)
            for b in strategies.bars
        ),
    )


def _best(view: SweepView, winner: Row) -> dict[str, Row]:
    """Strategy -> its fastest ok trial, among those that do the winner's work and respect the limit if it does."""
    rows = [
        row
        for row in view.ranked
        if row["workload_id"] == winner["workload_id"]
        and row["tokens_per_s"] is not None
        and view.over_limit(row) <= view.over_limit(winner)
    ]
    best: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: -row["tokens_per_s"]):
        for name in uses(row):
            best.setdefault(name, row)
    return best


def _bar(view: SweepView, name: str, row: Row, base: Row | None) -> Best:
    middle, low, high = view.interval(row)
    against = "" if base is None or base["trial_id"] == row["trial_id"] else _against(row, base)
    return Best(
        **vars(view.named(row)),
        strategy=name,
        tokens_per_s=middle or 0.0,
        low=low or 0.0,
        high=high or 0.0,
        against_ddp=against,
        peak_memory_bytes=row["peak_memory_bytes"],
    )


def _against(row: Row, base: Row) -> str:
    faster = _difference(row["tokens_per_s"], base["tokens_per_s"])
    memory = _difference(row["peak_memory_bytes"], base["peak_memory_bytes"])
    return " · ".join(filter(None, (faster and f"{faster} speed", memory and f"{memory} memory")))


def _difference(value: float | None, base: float | None) -> str:
    if value is None or not base:
        return ""
    return "same" if abs(value / base - 1) < 0.005 else fmt.signed_percent(value / base - 1)


def _hover(bar: Best, unit: str) -> str:
    lines = (
        f"<b>{text(bar.strategy)}</b>: {text(bar.label)}",
        f"{fmt.rate(bar.tokens_per_s)} {unit} ({fmt.span(bar.low, bar.high)})",
        f"peak memory {fmt.size(bar.peak_memory_bytes)}",
    )
    return "<br>".join(lines)


def _reading(view: SweepView, bars: list[Best], base: Row | None) -> str:
    top = bars[0]
    if base is None:
        return f"The fastest trial uses {top.strategy}; there is no ok ddp trial to compare it with."
    if not top.against_ddp:
        return "The best ddp trial is the fastest; no other strategy beats it."
    middle, _, base_high = view.interval(base)
    speed = fmt.compared(top.tokens_per_s / (middle or 1), "faster than", "slower than", "as fast as")
    memory = ""
    if top.peak_memory_bytes and base["peak_memory_bytes"]:
        ratio = top.peak_memory_bytes / base["peak_memory_bytes"]
        memory = f" and needs {fmt.compared(ratio, 'more memory', 'less memory', 'the same memory')}"
    unsure = " Their intervals overlap, so the order may be chance." if top.low <= (base_high or 0) else ""
    return f"The best trial with {top.strategy} is {speed} the best ddp trial{memory}.{unsure}"


def _absent(view: SweepView, succeeded: set[str]) -> str:
    """Strategies that were asked for or tried, but have no bar, each with its most frequent reason."""
    reasons: dict[str, Counter[str]] = {str(name): Counter() for name in view.info.get("strategies") or ()}
    for row in view.failed:
        for name in uses(row):
            reasons.setdefault(name, Counter())[str(row["outcome_reason"] or row["outcome"])] += 1
    for row in view.ranked:
        reasons |= {name: Counter([_INELIGIBLE]) for name in set(uses(row)) - succeeded}
    missing = [name for name in reasons if name not in succeeded and name != "one process"]
    told = [f"{name} ({reasons[name].most_common(1)[0][0] if reasons[name] else 'not tried'})" for name in missing]
    return f"Not shown: {'; '.join(told)}." if told else ""
