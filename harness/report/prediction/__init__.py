"""The page of a prediction: what is expected of plans that nobody ran here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import plotly.graph_objects as go

from harness.report import format as fmt
from harness.report.document import Section, document
from harness.report.figures import figure, limit_line, row_figure, text
from harness.report.panels.panel import Chart, Table

_PARTS = ("compute", "communication", "bubble", "optimizer", "fixed")
_PART_COLOURS = ("var(--ddp)", "var(--zero3)", "var(--muted)", "var(--zero1)", "var(--other1)")
_MEMORY = {
    "parameters": "var(--params)",
    "gradients": "var(--grads)",
    "optimizer": "var(--optimizer)",
    "activations": "var(--activations)",
    "logits": "var(--other1)",
    "buffers": "var(--buffers)",
    "allocator": "var(--other2)",
    "context": "var(--muted)",
}


class Point(Protocol):
    """A best plan at one world size or micro-batch."""

    @property
    def at(self) -> float: ...

    @property
    def tokens_per_s(self) -> float | None: ...

    @property
    def needed_bytes(self) -> float: ...

    @property
    def memory_bytes(self) -> float: ...

    @property
    def said(self) -> str: ...


class WhatIf(Protocol):
    """What the page shows beside the ranking."""

    @property
    def worlds(self) -> Sequence[Point]: ...

    @property
    def micro_batches(self) -> Sequence[Point]: ...

    @property
    def degrees(self) -> Sequence[tuple[int, int, float | None]]: ...


def render(answer: Mapping[str, Any], what_if: WhatIf) -> str:
    """The whole page.

    Args:
        answer: what `predict --json` prints, and `said`, how far it can be believed.
        what_if: other worlds, micro-batches and degrees.
    """
    plans = answer["plans"]
    best = plans[0]
    sections = [
        Section(key="plans", title="Predicted step time", drawn=_times(plans)),
        Section(key="memory", title="Predicted memory", drawn=_memory(plans, answer["memory_bytes"])),
        Section(key="worlds", title="More or fewer devices", drawn=_points(what_if.worlds, "number of devices")),
        Section(key="micro-batches", title="The micro-batch", drawn=_points(what_if.micro_batches, "micro-batch size")),
        Section(key="degrees", title="Degrees", drawn=_degrees(what_if.degrees)),
    ]
    return document(
        title=f"Prediction: {answer['workload']} on {answer['hardware']}",
        heading=f"{answer['workload']} on {answer['hardware']}, predicted",
        summary=(
            f"best {best['label']}",
            f"{fmt.rate(best['tokens_per_s'])} tokens/s, MFU {fmt.percent(best['mfu'])}",
            f"global batch {answer['global_batch_size']:,} x {answer['seq_len']:,} tokens",
            "nothing was measured here",
            str(answer["said"]),
        ),
        sections=sections,
    )


def _times(plans: Sequence[Mapping[str, Any]]) -> Chart:
    labels = [plan["label"] for plan in plans]
    drawn = row_figure("step time (ms)", labels, [f"#{n}" for n in range(1, len(plans) + 1)], extra=30)
    for name, colour in zip(_PARTS, _PART_COLOURS, strict=True):
        drawn.add_bar(
            orientation="h",
            x=[1e3 * plan["step_time_s"] * plan["shares"][name] for plan in plans],
            y=list(range(len(plans))),
            name=name,
            marker={"color": colour},
        )
    drawn.update_layout(barmode="stack", legend={"traceorder": "normal"})
    first = plans[0]
    largest = max(_PARTS[1:], key=lambda name: first["shares"][name])
    share = fmt.percent(first["shares"][largest])
    reading = (
        f"{first['label']} is predicted to be the fastest plan that fits; beside compute, {largest} takes {share}."
    )
    columns = ("plan", "tokens/s", "MFU", "step time s", *(f"{name} share" for name in _PARTS), "settings")
    rows = tuple(
        (
            plan["label"],
            plan["tokens_per_s"],
            plan["mfu"],
            plan["step_time_s"],
            *(plan["shares"][name] for name in _PARTS),
            " ".join(f"--set {name}={value}" for name, value in plan["set"].items()),
        )
        for plan in plans
    )
    return Chart(figure=drawn, reading=reading, table=Table(columns=columns, rows=rows))


def _memory(plans: Sequence[Mapping[str, Any]], limit: float) -> Chart:
    labels = [plan["label"] for plan in plans]
    drawn = row_figure("memory (GiB)", labels, [f"#{n}" for n in range(1, len(plans) + 1)], extra=30)
    for name, colour in _MEMORY.items():
        drawn.add_bar(
            orientation="h",
            x=[plan["memory_bytes"][name] / 2**30 for plan in plans],
            y=list(range(len(plans))),
            name=name,
            marker={"color": colour},
        )
    limit_line(drawn, limit / 2**30, f"device {fmt.size(limit)}")
    drawn.update_layout(barmode="stack", legend={"traceorder": "normal"})
    first = plans[0]
    reading = (
        f"{first['label']} needs {fmt.size(first['needed_bytes'])} of the {fmt.size(limit)} of a device on the rank "
        f"that holds most."
    )
    columns = ("plan", "needed B", *(f"{name} B" for name in _MEMORY))
    rows = tuple((p["label"], p["needed_bytes"], *(p["memory_bytes"][name] for name in _MEMORY)) for p in plans)
    return Chart(figure=drawn, reading=reading, table=Table(columns=columns, rows=rows))


def _points(points: Sequence[Point], what: str) -> Chart:
    rates = figure(what, "tokens/s", height=380)
    rates.add_scatter(
        x=[p.at for p in points],
        y=[p.tokens_per_s for p in points],
        mode="lines+markers",
        name="tokens/s",
        hovertext=[text(p.said) for p in points],
    )
    memory = figure(what, "memory (GiB)", height=380)
    memory.add_scatter(
        x=[p.at for p in points],
        y=[p.needed_bytes / 2**30 for p in points],
        mode="lines+markers",
        name="needed",
        hovertext=[text(p.said) for p in points],
    )
    memory.add_scatter(
        x=[p.at for p in points],
        y=[p.memory_bytes / 2**30 for p in points],
        mode="lines",
        name="device",
        line={"dash": "dot", "color": "var(--bad)"},
    )
    for drawn in (rates, memory):
        drawn.update_xaxes(type="log", tickvals=[p.at for p in points], ticktext=[f"{p.at:,.0f}" for p in points])
        drawn.update_yaxes(rangemode="tozero")
    fits = [p for p in points if p.tokens_per_s is not None]
    if len(fits) < 2:
        reading = f"Only one {what} has a plan that fits." if fits else "No plan fits."
    else:
        first, last = fits[0], fits[-1]
        ratio, more = (last.tokens_per_s or 0.0) / (first.tokens_per_s or 1.0), last.at / first.at
        reading = (
            f"With {last.at:,.0f} instead of {first.at:,.0f} as {what} ({fmt.times(more)}), throughput is "
            f"{fmt.times(ratio)} as high."
        )
    columns = (what, "tokens/s", "needed B", "plan")
    rows = tuple((p.at, p.tokens_per_s, p.needed_bytes, p.said) for p in points)
    return Chart(
        figure=rates,
        name="throughput",
        others={"memory": memory},
        reading=reading,
        table=Table(columns=columns, rows=rows),
    )


def _degrees(degrees: Sequence[tuple[int, int, float | None]]) -> Chart:
    tensor, stages = sorted({tp for tp, _, _ in degrees}), sorted({pp for _, pp, _ in degrees})
    known = {(tp, pp): rate for tp, pp, rate in degrees}
    cells = [[known.get((tp, pp)) for tp in tensor] for pp in stages]
    drawn = figure("tensor-parallel degree", "pipeline stages", height=110 + 44 * len(stages))
    drawn.add_trace(
        go.Heatmap(
            x=[str(tp) for tp in tensor],
            y=[str(pp) for pp in stages],
            z=cells,
            text=[[fmt.MISSING if rate is None else fmt.rate(rate) for rate in row] for row in cells],
            texttemplate="%{text}",
            colorscale=[[0, "var(--card)"], [1, "var(--ran)"]],
            showscale=False,
            hoverinfo="text",
        )
    )
    drawn.update_xaxes(type="category")
    drawn.update_yaxes(type="category")
    fits = [(rate, tp, pp) for tp, pp, rate in degrees if rate is not None]
    best = max(fits) if fits else None
    reading = "No degrees fit." if best is None else f"tp {best[1]} with pp {best[2]} is predicted to be the fastest."
    rows = tuple((tp, pp, rate) for tp, pp, rate in degrees)
    return Chart(
        figure=drawn,
        reading=reading,
        note="A dash: no plan with these degrees fits.",
        table=Table(columns=("tp", "pp", "tokens/s of the best plan that fits"), rows=rows),
    )
