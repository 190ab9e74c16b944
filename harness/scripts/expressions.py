"""Arithmetic of knobs: numbers, names, comparisons. Nothing else can be written, so nothing else can happen."""

from __future__ import annotations

import ast
import itertools
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import InputError

LONGEST, DEEPEST = 1000, 50
"""Characters of an expression, and levels of it."""
LARGEST_POWER = 1024
"""Exponent, and bits of the base, beyond which a power is refused: it could take all memory."""

_OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "min": min,
    "max": max,
    "round": round,
    "int": int,
    "ceil": math.ceil,
    "log2": math.log2,
}

Value = bool | int | float | str


@dataclass(frozen=True)
class Expression:
    """One expression, checked as it is made: only evaluating it with unsuitable values can fail afterwards.

    Args:
        text: such as "64 // (micro_batch_size * nproc)" or "tp * pp <= nproc".

    Raises:
        InputError: it is no arithmetic.
    """

    text: str

    def __post_init__(self) -> None:
        if len(self.text) > LONGEST:
            raise InputError(f"an expression has at most {LONGEST} characters, but this one has {len(self.text)}")
        try:
            tree = ast.parse(self.text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise InputError(f"{self.text!r} is no arithmetic of knobs") from None
        _check(tree, self.text)
        object.__setattr__(self, "_tree", tree)

    @property
    def names(self) -> frozenset[str]:
        """Every name in it that is no function."""
        tree: ast.AST = self._tree  # type: ignore[attr-defined]
        called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        return frozenset(n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and id(n) not in called)

    def value(self, names: Mapping[str, Value]) -> Value:
        """What it comes to.

        Args:
            names: values of the names in it.

        Raises:
            InputError: a name has no value, or the values cannot be calculated with.
        """
        try:
            found: Value = _value(self._tree, names)  # type: ignore[attr-defined]
        except KeyError as missing:
            raise InputError(f"{self.text!r} needs {missing.args[0]}, which this plan does not have") from None
        except (ArithmeticError, TypeError, ValueError) as error:
            values = ", ".join(f"{name}={names[name]!r}" for name in sorted(self.names) if name in names)
            raise InputError(f"{self.text!r} cannot be calculated with {values}: {error}") from None
        return found


def _check(node: ast.AST, text: str, depth: int = 0) -> None:
    constant = isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float, str))
    inner: list[ast.AST]
    if constant or isinstance(node, ast.Name):
        inner = []
    elif isinstance(node, ast.BinOp) and (type(node.op) in _OPERATORS or isinstance(node.op, ast.Pow)):
        inner = [node.left, node.right]
    elif isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        inner = [node.operand]
    elif isinstance(node, ast.BoolOp):
        inner = [*node.values]
    elif isinstance(node, ast.Compare) and all(type(each) in _OPERATORS for each in node.ops):
        inner = [node.left, *node.comparators]
    elif isinstance(node, ast.IfExp):
        inner = [node.test, node.body, node.orelse]
    elif _is_call(node):
        inner = [*node.args]  # type: ignore[attr-defined]
    else:
        known = ", ".join(sorted(_FUNCTIONS))
        raise InputError(
            f"{text!r} is no arithmetic of knobs: {ast.unparse(node)!r} is neither a number, a name, a comparison nor "
            f"one of {known}"
        )
    if depth > DEEPEST:
        raise InputError(f"{text!r} is nested more than {DEEPEST} levels deep")
    for each in inner:
        _check(each, text, depth + 1)


def _is_call(node: ast.AST) -> bool:
    known = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS
    return known and not node.keywords  # type: ignore[attr-defined]


def _value(node: Any, names: Mapping[str, Value]) -> Any:
    def of(inner: Any) -> Any:
        return _value(inner, names)

    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return names[node.id]
    if isinstance(node, ast.BinOp):
        return _binary(node.op, of(node.left), of(node.right))
    if isinstance(node, ast.UnaryOp):
        return _OPERATORS[type(node.op)](of(node.operand))
    if isinstance(node, ast.BoolOp):
        conditions = (bool(of(each)) for each in node.values)
        return all(conditions) if isinstance(node.op, ast.And) else any(conditions)
    if isinstance(node, ast.Compare):
        terms = [of(each) for each in (node.left, *node.comparators)]
        pairs = itertools.pairwise(terms)
        return all(_OPERATORS[type(op)](a, b) for op, (a, b) in zip(node.ops, pairs, strict=True))
    if isinstance(node, ast.IfExp):
        return of(node.body) if of(node.test) else of(node.orelse)
    return _FUNCTIONS[node.func.id](*map(of, node.args))


def _binary(op: ast.AST, left: Any, right: Any) -> Any:
    if isinstance(left, str) or isinstance(right, str):
        raise TypeError("words can be compared, not calculated with")
    if not isinstance(op, ast.Pow):
        return _OPERATORS[type(op)](left, right)
    if abs(right) > LARGEST_POWER or (isinstance(left, int) and left.bit_length() * abs(right) > LARGEST_POWER):
        raise ValueError("the power is too large")
    found = left**right
    if isinstance(found, complex):
        raise ValueError("a root of a negative number")
    return found
