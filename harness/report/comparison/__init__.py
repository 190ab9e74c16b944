"""Comparing strategies across hardware, world sizes, versions and workloads."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

from harness.errors import InputError, UnknownNameError

FORMATS = ("html", "markdown", "json")


def compare(
    folders: Sequence[Path],
    format: str,
    reports: Path,
    *,
    workload: str | None = None,
    sweeps: Sequence[str] | None = None,
    price: Path | None = None,
) -> tuple[str, tuple[str, ...]]:
    """Compare what results folders hold.

    Args:
        folders: results folders, of any number of machines.
        format: one of FORMATS.
        reports: where the HTML page goes.
        workload: name or id; None for every workload.
        sweeps: names of sweeps to compare with each other.
        price: TOML file with `hardware_id = price of an hour`.

    Returns:
        What is to be printed: the page's path, or the text itself; and one sentence for each unreadable file.

    Raises:
        InputError: nothing to compare, sweeps of different workloads, or an unreadable price list.
        UnknownNameError: no such format, workload or sweep.
        StoreError: the page cannot be written.
    """
    if format not in FORMATS:
        raise UnknownNameError("format", format, FORMATS)
    prices = {} if price is None else _prices(price)
    from harness.report.comparison.comparison_view import Comparison

    found = Comparison.read(folders, workload=workload, sweeps=sweeps, prices=prices)
    if format == "html":
        from harness.report.comparison.comparison_page import render
        from harness.report.document import write

        return str(write(render(found), Path(reports) / "comparison.html")), found.problems
    from harness.report.comparison.text import as_json, markdown

    return (as_json(found) if format == "json" else markdown(found).rstrip("\n")), found.problems


def _prices(path: Path) -> dict[str, float]:
    try:
        listed = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"the price list {path} cannot be read: {error}") from None
    for name, value in listed.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            raise InputError(f"the price of an hour of {name} must be a number above 0, but got {value!r}")
    return {name: float(value) for name, value in listed.items()}
