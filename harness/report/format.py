"""Values for people. Stored values keep base units; only this file turns them into text. Unknown is a dash."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

MISSING = "\N{EN DASH}"
NBSP = "\N{NO-BREAK SPACE}"
"""Between a number and its unit, so that a line never ends there."""
_MINUS, _TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
_BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def known(value: Any) -> bool:
    """Whether `value` is a finite number: not None, NaN or infinite."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def significant(value: float | None, digits: int = 3) -> str:
    """`value` to so many significant digits, whole thousands grouped: 0.0123, 1.23, 12,345."""
    if value is None or not known(value):
        return MISSING
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def rate(value: float | None) -> str:
    """Tokens or samples per second, to four digits."""
    return significant(value, 4)


def percent(share: float | None, digits: int = 2) -> str:
    """A share of 1 as per cent: 0.041 becomes "4.1 %"."""
    if share is None or not known(share):
        return MISSING
    return f"{significant(100 * share, digits)}{NBSP}%"


def signed_percent(share: float | None, decimals: int = 0) -> str:
    """A difference as per cent, always with its sign: -0.123 becomes "-12 %"; what rounds to 0 has none."""
    if share is None or not known(share):
        return MISSING
    text = f"{100 * share:+.{decimals}f}"
    return f"{text.replace('-', _MINUS) if float(text) else text[1:]}{NBSP}%"


def span(low: float | None, high: float | None) -> str:
    """The interval of a rate: "980.0 to 1,020"."""
    return f"{rate(low)} to {rate(high)}"


def relative_error(value: float | None) -> str:
    """A small relative difference: "3.2e-5"."""
    if value is None or not known(value):
        return MISSING
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}" if abs(int(exponent)) > 2 else f"{value:.2g}"


def times(ratio: float | None) -> str:
    """A speed-up such as 1.04, with a multiplication sign."""
    return MISSING if ratio is None or not known(ratio) else f"{significant(ratio)}{_TIMES}"


def byte_scale(largest: float | None) -> tuple[float, str]:
    """(bytes of the unit, its name) in which `largest` has one to four digits before the point."""
    if largest is None or not known(largest) or largest <= 0:
        return 1.0, "B"
    power = min(len(_BYTE_UNITS) - 1, int(math.log2(max(largest, 1)) // 10))
    return float(1024**power), _BYTE_UNITS[power]


def size(value: float | None) -> str:
    """Bytes in binary units: "412 MiB"."""
    if value is None or not known(value):
        return MISSING
    scale, unit = byte_scale(abs(value))
    return f"{significant(value / scale)}{NBSP}{unit}"


def duration(value: float | None) -> str:
    """Seconds: "12.3 ms", "1.23 s", "2 min 05 s", "1 h 02 min"."""
    if value is None or not known(value):
        return MISSING
    if value < 1e-3:
        return f"{significant(value * 1e6)}{NBSP}µs" if value else f"0{NBSP}s"
    if value < 1:
        return f"{significant(value * 1e3)}{NBSP}ms"
    if value < 59.95:
        return f"{significant(value)}{NBSP}s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60}{NBSP}min {whole % 60:02d}{NBSP}s"
    return f"{whole // 3600}{NBSP}h {whole % 3600 // 60:02d}{NBSP}min"


def compared(ratio: float, more: str, less: str, same: str) -> str:
    """A ratio in words: 1.04 is "4.0 % faster", 0.77 is "23 % less", within half a per cent of 1 it is `same`."""
    if abs(ratio - 1) < 0.005:
        return same
    return f"{percent(abs(ratio - 1))} {more if ratio > 1 else less}"


def count(number: int, noun: str, plural: str = "") -> str:
    """ "1 trial", "2,000 trials"; the plural is the noun with an s unless it is given."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def listed(items: Sequence[str], limit: int = 4) -> str:
    """ "a, b and c"; beyond `limit` the rest is counted: "a, b and 7 more"."""
    shown = list(items)
    if len(shown) > limit:
        shown = [*shown[: limit - 1], f"{len(shown) - limit + 1:,} more"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def by_name(name: str, value: Any) -> str:
    """A value of unknown meaning, formatted by the unit that its stored name ends with (`_bytes`, `_s`)."""
    if value is None:
        return MISSING
    if known(value) and not isinstance(value, bool):
        if name.endswith("_bytes"):
            return size(value)
        if name.endswith("_s") and not name.endswith("per_s"):
            return duration(value)
        return f"{value:,}" if isinstance(value, int) else significant(value, 4)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(by_name("", item) for item in value) or MISSING
    return json.dumps(value, default=str) if isinstance(value, dict) else str(value)


def plain(text: str) -> str:
    """With ordinary spaces instead of those that keep a number and its unit together."""
    return text.replace(NBSP, " ")
