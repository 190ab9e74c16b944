from __future__ import annotations

import pytest

from harness.errors import InputError
from harness.scripts.expressions import Expression

NAMES = {"micro": 4, "dp": 2, "fused": True, "lr": 1e-3, "stage": "zero2"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("64 // (micro * dp)", 8),
        ("micro * dp == 8 and not fused", False),
        ("1 < dp <= micro", True),
        ("max(1, micro // 3) if stage == 'zero2' else 0", 1),
        ("2 ** micro - 7 % 4", 13),
        ("ceil(lr * 1500) + round(2.5) + int(3.9)", 7),
        ("log2(8)", 3.0),
    ],
)
def test_arithmetic_of_knobs(text: str, value: object) -> None:
    assert Expression(text).value(NAMES) == value


def test_names_of_an_expression() -> None:
    assert Expression("min(micro, dp) + 1").names == {"micro", "dp"}


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "micro.__class__",
        "[1, 2]",
        "(lambda: 1)()",
        "open('x')",
        "f'{micro}'",
        "micro := 3",
        "b'x'",
        "1j",
        "dp if",
        "",
        "max(*micro)",
        "-" * 60 + "1",
        "(" * 300 + "1" + ")" * 300,
        "1 +" * 2000 + "1",
    ],
)
def test_nothing_else_can_be_written(text: str) -> None:
    with pytest.raises(InputError):
        Expression(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("micro // (dp - 2)", "cannot be calculated with dp=2, micro=4"),
        ("pp + 1", "needs pp, which this plan does not have"),
        ("stage * 1000000000", "words can be compared"),
        ("9 ** 9 ** 9", "the power is too large"),
        ("(0 - 8) ** 0.5", "a root of a negative number"),
        ("10.0 ** 1000", "cannot be calculated"),
    ],
)
def test_values_that_cannot_be_calculated_with_are_a_sentence(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        Expression(text).value(NAMES)
