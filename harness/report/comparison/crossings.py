"""Where one strategy overtakes another as the hardware changes: over interconnect, cores, ranks or peak."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from harness.report import format as fmt
from harness.report.comparison.comparison_view import Contest, Entry
from harness.report.figures import figure, palette, text
from harness.report.panels.panel import Chart, Table

MEASURED, PREDICTED = "measured", "predicted"


@dataclass(frozen=True)
class Axis:
    """A property of places along which strategies may change their order."""

    name: str
    unit: str
    value: Callable[[Contest, Entry], float | None]
    alike: Callable[[Contest, Entry], tuple[object, ...]]
    """What places must have in common to stand on one line."""


AXES: tuple[Axis, ...] = (
    Axis(
        "interconnect bandwidth",
        "GB/s",
        lambda c, e: _giga(c.fact(e.place, "interconnect", str(e.place.world_size), "all_reduce_bytes_per_s")),
        lambda c, e: (e.place.devices, e.place.world_size, c.fact(e.place, "usable_cores"), *_versions(e)),
    ),
    Axis(
        "cores",
        "cores",
        lambda c, e: c.fact(e.place, "usable_cores"),
        lambda c, e: (e.place.devices, e.place.world_size, *_versions(e)),
    ),
    Axis("ranks", "ranks", lambda c, e: float(e.place.world_size), lambda c, e: (e.place.hardware_id, *_versions(e))),
)


@dataclass(frozen=True)
class Point:
    """The best plan of a strategy in one place."""

    at: float
    """Along the axis."""
    place: str
    tokens_per_s: float
    low: float
    high: float


@dataclass(frozen=True)
class Crossing:
    """Two strategies that change their order between two places."""

    below: str
    """The faster one below the crossing."""
    above: str
    at: float
    """Interpolated: linear in the logarithms of speed ratio and axis."""
    between: tuple[float, float] | None
    """The places on both sides; None if it is predicted."""
    sure: bool
    """Whether the intervals of the two lie apart on both sides."""
    source: str = MEASURED


@dataclass(frozen=True)
class Line:
    """Strategies along one axis, in places that are alike in what else is known of them."""

    axis: Axis
    points: Mapping[str, tuple[Point, ...]]
    """Strategy -> places in the order of the axis."""
    crossings: tuple[Crossing, ...]


@dataclass(frozen=True)
class Crossings:
    """One line for each axis on which the places differ."""

    lines: tuple[Line, ...]
    unit: str
    reading: str


def data(contest: Contest) -> Crossings | None:
    """Speeds along the axes; None where the places do not differ on any."""
    lines = tuple(line for axis in AXES if (line := _line(contest, axis)) is not None)
    return Crossings(lines, contest.unit, _reading(lines)) if lines else None


def draw(crossings: Crossings) -> Chart:
    """Lines of the best plan of each strategy, with the crossings as dotted lines."""
    figures = {f"over {line.axis.name}": _figure(line, crossings.unit) for line in crossings.lines}
    (name, first), *others = figures.items()
    rows = [
        (line.axis.name, c.below, c.above, c.at, line.axis.unit, *(c.between or (None, None)), _sure(c), c.source)
        for line in crossings.lines
        for c in line.crossings
    ]
    columns = ("axis", "faster below", "faster above", "crossing", "unit", "from", "to", "beyond doubt", "source")
    return Chart(
        figure=first,
        name=name,
        others=dict(others),
        choice="Draw",
        reading=crossings.reading,
        table=Table(columns=columns, rows=tuple(rows)),
    )


def _line(contest: Contest, axis: Axis) -> Line | None:
    """The largest group of places that are alike but for the axis."""
    groups: dict[tuple[object, ...], list[tuple[float, Entry]]] = defaultdict(list)
    for entry in contest.entries:
        value = axis.value(contest, entry)
        if value is not None:
            groups[axis.alike(contest, entry)].append((value, entry))
    placed = max(groups.values(), key=lambda group: len({value for value, _ in group}), default=[])
    expected = _predicted(contest, [entry for _, entry in placed]) if axis is AXES[0] else []
    if len({value for value, _ in placed}) < 2 and not (placed and expected):
        return None
    points: dict[str, list[Point]] = defaultdict(list)
    for value, entry in sorted(placed, key=lambda pair: pair[0]):
        for name, plan in entry.best().items():
            row = plan.row
            rate = row["tokens_per_s"]
            ends = (row["tokens_per_s_low"] or rate, row["tokens_per_s_high"] or rate)
            points[name].append(Point(value, contest.place_names[entry.place], rate, *ends))
    found = {name: tuple(members) for name, members in sorted(points.items())}
    return Line(axis, found, (*_crossings(found), *expected))


def _predicted(contest: Contest, entries: Sequence[Entry]) -> list[Crossing]:
    """What sweeps in these places predicted by the closed form; of several places the first that did."""
    for entry in entries:
        rows = contest.known_of(entry.place, "predicted", contest.workload_id, str(entry.place.world_size))
        if isinstance(rows, list) and rows:
            return [Crossing(r["below"], r["above"], r["bytes_per_s"] / 1e9, None, False, PREDICTED) for r in rows]
    return []


def _sure(crossing: Crossing) -> str:
    return "yes" if crossing.sure else "no"


def _versions(entry: Entry) -> tuple[object, ...]:
    return entry.place.torch_version, entry.place.harness_version


def _crossings(points: Mapping[str, Sequence[Point]]) -> list[Crossing]:
    """Those that change which strategy is best; the order of the others is of no use to anybody."""
    found = []
    leader = _leaders(points)
    for one, other in itertools.combinations(points, 2):
        best_one, best_other = _best_at(points[one]), _best_at(points[other])
        common = sorted(best_one.keys() & best_other.keys())
        for left, right in itertools.pairwise(common):
            before = math.log(best_one[left].tokens_per_s / best_other[left].tokens_per_s)
            after = math.log(best_one[right].tokens_per_s / best_other[right].tokens_per_s)
            if before * after >= 0:
                continue
            share = before / (before - after)
            at = math.exp(math.log(left) + share * (math.log(right) - math.log(left)))
            sure = all(_apart(best_one[x], best_other[x]) for x in (left, right))
            below, above = (one, other) if before > 0 else (other, one)
            if leader[left] != below and leader[right] != above:
                continue
            found.append(Crossing(below, above, at, (left, right), sure))
    return found


def _leaders(points: Mapping[str, Sequence[Point]]) -> dict[float, str]:
    best: dict[float, tuple[float, str]] = {}
    for name, members in points.items():
        for point in members:
            best[point.at] = max(best.get(point.at, (0.0, "")), (point.tokens_per_s, name))
    return {at: name for at, (_, name) in best.items()}


def _best_at(points: Sequence[Point]) -> dict[float, Point]:
    best: dict[float, Point] = {}
    for point in points:
        if point.at not in best or point.tokens_per_s > best[point.at].tokens_per_s:
            best[point.at] = point
    return best


def _apart(one: Point, other: Point) -> bool:
    return one.low > other.high or other.low > one.high


def _figure(line: Line, unit: str) -> go.Figure:
    drawn = figure(f"{line.axis.name} ({line.axis.unit})", unit, height=420)
    colours = palette(line.points)
    for name, points in line.points.items():
        drawn.add_scatter(
            x=[p.at for p in points],
            y=[p.tokens_per_s for p in points],
            error_y={
                "array": [p.high - p.tokens_per_s for p in points],
                "arrayminus": [p.tokens_per_s - p.low for p in points],
                "thickness": 1,
            },
            mode="lines+markers",
            name=text(name),
            line={"color": colours[name], "width": 2},
            hovertext=[f"<b>{text(name)}</b><br>{text(p.place)}<br>{fmt.rate(p.tokens_per_s)} {unit}" for p in points],
            hoverinfo="text",
        )
    for crossing in line.crossings:
        if crossing.sure or crossing.source == PREDICTED:
            dash = "dot" if crossing.sure else "longdash"
            drawn.add_vline(x=crossing.at, line={"dash": dash, "width": 1, "color": "var(--muted)"})
    drawn.update_xaxes(type="log")
    drawn.update_yaxes(type="log")
    return drawn


def _giga(value: float | None) -> float | None:
    return None if value is None else value / 1e9


def _reading(lines: Sequence[Line]) -> str:
    return " ".join(filter(None, (_measured(lines), *map(_expected, lines))))


def _expected(line: Line) -> str:
    found = [crossing for crossing in line.crossings if crossing.source == PREDICTED]
    said = [f"{c.above} overtakes {c.below} at {fmt.significant(c.at)} {line.axis.unit}" for c in found]
    return f"Predicted over {line.axis.name}, not measured: {fmt.listed(said)}." if said else ""


def _measured(lines: Sequence[Line]) -> str:
    several = [line for line in lines if any(len({p.at for p in points}) > 1 for points in line.points.values())]
    sure = [(line.axis, crossing) for line in several for crossing in line.crossings if crossing.sure]
    if not sure:
        names = fmt.listed([line.axis.name for line in several])
        return f"Over {names} no two strategies change their order beyond doubt." if several else ""
    axis, first = sure[0]
    more = f"; {fmt.count(len(sure) - 1, 'other crossing')} beyond doubt" if len(sure) > 1 else ""
    return (
        f"Below about {fmt.significant(first.at)} {axis.unit} of {axis.name} {first.below} is faster than "
        f"{first.above}, above it {first.above} (measured on both sides){more}."
    )
