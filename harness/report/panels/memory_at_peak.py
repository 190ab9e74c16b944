"""What the memory of the worst rank holds when it holds most: together the categories are its tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.labels import Named
from harness.report import format as fmt
from harness.report.figures import INK, limit_line, row_figure, text
from harness.report.panels.panel import TOP, Chart, Table, top_note
from harness.report.sweep_view import SweepView

CATEGORIES = {
    "parameters": "memory_params_bytes",
    "gradients": "memory_grads_bytes",
    "optimizer": "memory_optimizer_bytes",
    "buffers": "memory_buffers_bytes",
    "activations": "memory_activations_bytes",
}
_COLOURS = ("var(--params)", "var(--grads)", "var(--optimizer)", "var(--buffers)", "var(--activations)")


@dataclass(frozen=True, kw_only=True)
class Stack(Named):
    """One trial."""

    parts: tuple[float, ...]
    """Bytes, in the order of CATEGORIES; 0 if not recorded."""
    peak_memory_bytes: float | None


@dataclass(frozen=True)
class Memory:
    """The best trials, in the order of the ranking."""

    stacks: tuple[Stack, ...]
    memory_limit_bytes: float | None
    reading: str
    note: str


def data(view: SweepView) -> Memory | None:
    """Memory of the best ok trials; None if no category was recorded."""
    stacks = [
        Stack(
            **vars(view.named(row)),
            parts=tuple(float(row[column] or 0) for column in CATEGORIES.values()),
            peak_memory_bytes=row["peak_memory_bytes"],
        )
        for row in view.ranked[:TOP]
        if any(row[column] is not None for column in CATEGORIES.values())
    ]
    if not stacks:
        return None
    return Memory(tuple(stacks), view.memory_limit, _reading(stacks), top_note(len(view.ranked)))


def draw(memory: Memory) -> Chart:
    """Stacked bars, the measured peak as a tick, the limit as a line."""
    stacks = memory.stacks
    scale, unit = fmt.byte_scale(max(max(sum(s.parts), s.peak_memory_bytes or 0) for s in stacks))
    labels, short = [s.label for s in stacks], [s.short for s in stacks]
    figure = row_figure(f"memory ({unit})", labels, short, extra=30)
    rows = list(range(len(stacks)))
    for at, (name, colour) in enumerate(zip(CATEGORIES, _COLOURS, strict=True)):
        figure.add_bar(
            orientation="h",
            x=[s.parts[at] / scale for s in stacks],
            y=rows,
            name=name,
            customdata=[s.at for s in stacks],
            marker={"color": colour},
            hovertext=[f"<b>{text(s.label)}</b><br>{name}: {fmt.size(s.parts[at])}" for s in stacks],
            hoverinfo="text",
        )
    figure.add_scatter(
        x=[None if s.peak_memory_bytes is None else s.peak_memory_bytes / scale for s in stacks],
        y=rows,
        mode="markers",
        name="measured peak",
        customdata=[s.at for s in stacks],
        marker={"symbol": "line-ns", "size": 16, "line": {"width": 2.5, "color": INK}},
        hovertext=[f"<b>{text(s.label)}</b><br>measured peak: {fmt.size(s.peak_memory_bytes)}" for s in stacks],
        hoverinfo="text",
    )
    if memory.memory_limit_bytes:
        limit_line(figure, memory.memory_limit_bytes / scale, f"limit {fmt.size(memory.memory_limit_bytes)}")
    figure.update_layout(barmode="stack", legend={"traceorder": "normal"})
    return Chart(figure=figure, reading=memory.reading, note=memory.note, table=_table(stacks))


def _table(stacks: Sequence[Stack]) -> Table:
    columns = ("plan", *(f"{name} B" for name in CATEGORIES), "measured peak B")
    return Table(columns=columns, rows=tuple((s.label, *s.parts, s.peak_memory_bytes) for s in stacks))


def _reading(stacks: Sequence[Stack]) -> str:
    first = stacks[0]
    names = list(CATEGORIES)
    largest = max(range(len(names)), key=lambda at: first.parts[at])
    share = fmt.percent(first.parts[largest] / (sum(first.parts) or 1))
    size = fmt.size(first.parts[largest])
    said = f"Most of what the worst rank of {first.short} holds is {names[largest]}: {size}, {share}."
    lean = min(stacks, key=lambda stack: sum(stack.parts))
    if lean is first or not sum(first.parts):
        return said
    less = fmt.percent(1 - sum(lean.parts) / sum(first.parts))
    saved = max(range(len(names)), key=lambda at: first.parts[at] - lean.parts[at])
    return f"{said} {lean.short} holds {less} less, mostly in {names[saved]}."
