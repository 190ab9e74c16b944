"""Examples made of the Python standard library's own functions, for workloads on text that need no data."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterator

from harness.workloads.corpus import standard_library_files
from harness.workloads.rows import Row

DOCSTRING = range(10, 401)
"""Characters of a first paragraph that says what a function does."""
CODE = range(30, 2001)
"""Characters of a function without its docstring."""
PACKAGES = 8
"""Classes of `labelled`."""
_RULE = "1"
"""Of what is taken from the sources: part of their fingerprint."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions() -> Iterator[Row]:
    """Functions with a docstring, sorted by path, then as they come in their file.

    Values are "code" (its source without decorators and docstring), "docstring" (its first paragraph, on one line) and
    "package" (the module or package at the top in which it is, such as "json").

    Raises:
        InputError: this Python came without its sources.
    """
    yield from _read()[0]


def packages(n: int) -> tuple[str, ...]:
    """The n packages with most functions, that with most first."""
    counts = Counter(str(row.values["package"]) for row in _read()[0])
    return tuple(sorted(counts, key=lambda package: (-counts[package], package))[:n])


def labelled() -> Iterator[Row]:
    """For classification: {"text": code, "label": package}, of the `PACKAGES` packages with most functions."""
    largest = set(packages(PACKAGES))
    for row in _read()[0]:
        if row.values["package"] in largest:
            values = {"text": row.values["code"], "label": row.values["package"]}
            yield Row(values=values, where=row.where)


def described() -> Iterator[Row]:
    """For translation: {"source": code, "target": docstring}."""
    for row in _read()[0]:
        yield Row(values={"source": row.values["code"], "target": row.values["docstring"]}, where=row.where)


def notes() -> tuple[str, ...]:
    """That files were left out, if some were."""
    names = _read()[1]
    if not names:
        return ()
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (f"this Python cannot read {len(names)} of its own files, which are left out: {', '.join(names[:3])}{more}",)


def fingerprint() -> str:
    """16 hexadecimal digits, a hash of the sources that all of these are made of."""
    digest = hashlib.sha256(_RULE.encode())
    for name, content in standard_library_files():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


@functools.cache
def _read() -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """(rows, names of files that do not parse)."""
    found: list[Row] = []
    left: list[str] = []
    for name, content in standard_library_files():
        parsed = _parsed(content)
        if parsed is None:
            left.append(name)
        else:
            found += _of_file(name, *parsed)
    return tuple(found), tuple(left)


def _of_file(name: str, tree: ast.Module, text: str) -> Iterator[Row]:
    # As the parser counts lines, and str.splitlines does not: a form feed ends none.
    lines = text.replace("\r\n", "\n").split("\n")
    package = name.partition("/")[0].removesuffix(".py")
    for function in _defined(tree):
        docstring = " ".join(inspect.cleandoc(ast.get_docstring(function) or "").split("\n\n")[0].split())
        code = _code(function, lines)
        if len(docstring) in DOCSTRING and len(code) in CODE:
            values = {"code": code, "docstring": docstring, "package": package}
            yield Row(values=values, where=f"line {function.lineno} of {name}")


def _parsed(content: bytes) -> tuple[ast.Module, str] | None:
    """None of a file for another version, or in another encoding."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in strings that a later version will refuse
            return ast.parse(content), content.decode("utf-8-sig")
    except (SyntaxError, ValueError):
        return None


def _defined(node: ast.AST) -> Iterator[Function]:
    """All functions below, in order. Only statements are entered: most of a tree are expressions, and hold none."""
    for field in ("body", "orelse", "handlers", "finalbody"):
        for statement in getattr(node, field, ()) if not isinstance(node, ast.expr) else ():
            if isinstance(statement, Function):
                yield statement
            yield from _defined(statement)


def _code(function: Function, lines: list[str]) -> str:
    """The source without its docstring; "" if nothing else is in it, or the docstring has no lines to itself."""
    docstring, *rest = function.body
    begin, end = docstring.lineno - 1, docstring.end_lineno or 0
    if not rest or rest[0].lineno <= end or begin < function.lineno:
        return ""
    kept = lines[function.lineno - 1 : begin] + lines[end : function.end_lineno]
    return textwrap.dedent("\n".join(kept)).strip()
