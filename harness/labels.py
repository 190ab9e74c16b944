"""Names of trials for people, such as "zero2 dp2 · mb 4 · bf16_autocast · bucket 8 MB"."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
"""One trial: column name -> value, None where the store has none."""


@dataclass(frozen=True, kw_only=True)
class Named:
    """How a trial appears in charts and tables."""

    at: int | None
    """Number of its line in the ranked table, by which it can be selected; None if it has none."""
    label: str
    """Its name, unique on the page."""
    short: str
    """The same where space is short."""
    colour: str
    """That of its kind."""


_ALWAYS_COMPARED = {
    "micro_batch_size": "mb {}",
    "precision": "{}",
    "activation_checkpoint": "checkpoint {}",
    "quantization": "{}",
    "compile": "compile {}",
}
"""Knobs of every plan: shown as soon as they differ anywhere in the sweep."""
_IN_HEAD = ("data_parallel", "dp", "tp", "pp")
_NEUTRAL = (None, False, "none", "off")


def is_script(row: Row) -> bool:
    """Whether a trial ran somebody's script."""
    return bool(row.get("source") == "script")


def rate_of(row: Row) -> str:
    """What a trial's speed counts: tokens, or samples where they are not sequences."""
    return str(row.get("rate_of") or ("samples" if row["seq_len"] == 1 else "tokens"))


def kind(row: Row) -> str:
    """The technique that gives a trial its colour: how its data, or else its model, is divided over ranks."""
    if row["data_parallel"] not in (None, "none"):
        return str(row["data_parallel"])
    if is_script(row):
        return "script"
    if (row["tp"] or 1) > 1:
        return "tensor_parallel"
    return "pipeline_parallel" if (row["pp"] or 1) > 1 else "one process"


def layout(row: Row) -> str:
    """How a trial divides the training over its ranks, such as "zero2 dp2 tp2"."""
    degrees = [f"{axis}{row[axis]}" for axis in ("dp", "tp", "pp") if (row[axis] or 1) > 1]
    name = [str(row["data_parallel"])] if row["data_parallel"] not in (None, "none") else []
    return " ".join(name + degrees) or ("" if is_script(row) else "one process")


def settings(row: Row) -> dict[str, Any]:
    """The plan's settings; those of the columns if the recorded JSON cannot be read."""
    try:
        read = json.loads(row["knobs"] or "")
    except ValueError:
        read = None
    return read if isinstance(read, dict) else {name: row.get(name) for name in (*_IN_HEAD, *_ALWAYS_COMPARED)}


def labels(rows: Sequence[Row]) -> dict[str, str]:
    """trial_id -> the shortest name that tells a trial from the others of `rows`.

    It starts with strategy and degrees; then come the knobs that differ in the sweep, and those in which the trial
    differs from more than half of this strategy's. A second plan of the same name ends with "(2)"; launches of one plan
    share its name.
    """
    first: dict[tuple[str, str], str] = {}
    for row in rows:
        first.setdefault((row["workload_id"], row["plan_id"]), row["trial_id"])
    stand_for = {row["trial_id"]: first[row["workload_id"], row["plan_id"]] for row in rows}
    names = _names([row for row in rows if stand_for[row["trial_id"]] == row["trial_id"]])
    return {trial: names[plan] for trial, plan in stand_for.items()}


def _names(rows: Sequence[Row]) -> dict[str, str]:
    plans = {row["trial_id"]: settings(row) for row in rows}
    heads = {row["trial_id"]: _head(row, rows) for row in rows}
    families: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for trial, head in heads.items():
        families[head].append(plans[trial])
    differ = {name for name in _varying(list(plans.values())) if name in _ALWAYS_COMPARED}
    within = {head: [n for n in _varying(members) if n not in _ALWAYS_COMPARED] for head, members in families.items()}
    usual = {head: _usual(members, within[head]) for head, members in families.items()}
    names = {}
    for trial, plan in plans.items():
        head = heads[trial]
        if head == "":  # of a script nothing else is said
            varying = _varying(list(plans.values()))
            names[trial] = _label(head, plan, varying or list(plan))
            continue
        unusual = [name for name in within[head] if repr(plan.get(name)) != usual[head].get(name)]
        names[trial] = _label(head, plan, [name for name in _ALWAYS_COMPARED if name in differ] + unusual)
    return _numbered(names)


def _usual(plans: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, str]:
    """Knob -> the value that more than half of the plans have; knobs without one are absent."""
    counts = {name: Counter(repr(plan.get(name)) for plan in plans).most_common(1)[0] for name in names}
    return {name: value for name, (value, count) in counts.items() if 2 * count > len(plans)}


def _head(row: Row, rows: Sequence[Row]) -> str:
    head = layout(row)
    if is_script(row):
        return head
    first = rows[0]["global_batch_size"]
    several = any(other["global_batch_size"] != first for other in rows)
    return f"{head} · batch {row['global_batch_size']}" if several else head


def _varying(plans: Sequence[Mapping[str, Any]]) -> list[str]:
    """Knobs that do not have one value in all `plans`; a knob that some plans lack is one of them."""
    seen: dict[str, set[str]] = defaultdict(set)
    for plan in plans:
        for name, value in plan.items():
            seen[name].add(repr(value))
    number = Counter(name for plan in plans for name in plan)
    return [n for n in seen if n not in _IN_HEAD and (len(seen[n]) > 1 or number[n] < len(plans))]


def _label(head: str, plan: Mapping[str, Any], names: Sequence[str]) -> str:
    said = filter(None, (head, *(_setting(name, plan.get(name)) for name in names)))
    return " · ".join(said) or "as it stood"


def _setting(name: str, value: Any) -> str:
    if name in _ALWAYS_COMPARED:
        return "" if value in _NEUTRAL else _ALWAYS_COMPARED[name].format(plain(value)).removesuffix(" True")
    words = name.replace("_", " ")
    if value is None:
        return ""
    if isinstance(value, bool):
        return words if value else f"no {words}"
    if name.endswith("_mb"):
        return f"{words.removesuffix(' mb')} {plain(value)} MB"
    return f"{words} {plain(value)}"


def plain(value: Any) -> str:
    """A setting in a name."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _numbered(names: Mapping[str, str]) -> dict[str, str]:
    seen: Counter[str] = Counter()
    unique = {}
    for trial, name in names.items():
        seen[name] += 1
        unique[trial] = name if seen[name] == 1 else f"{name} ({seen[name]})"
    return unique
