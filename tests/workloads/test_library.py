from __future__ import annotations

import ast
import inspect
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.workloads import library

SOURCE = '''
def first(a):
    """Adds one to
    a number.

    At length.
    """
    # why
    return a + 1  # more than thirty characters

class Inside:
    if True:
        @property
        async def second(self):
            "What this property is for."
            def third(x):
                """An inner function, too."""
                return [x, x, x, x, x, x, x, x]
            return third(self), third(self)

def only_said(a, b, c, d, e, f, g, h):
    """This has a docstring and nothing else."""

def silent(a, b, c, d, e, f, g, h):
    return a + b + c + d + e + f + g + h

def short(a): """Ten characters."""; return a

def brief(a, b, c, d, e, f, g, h):
    """Few."""
    return a + b + c + d + e + f + g + h
'''


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "a.py").write_text(SOURCE)
    (tmp_path / "b.py").write_text("def broken(:")
    (tmp_path / "c.py").write_bytes("# é\ndef x(): pass".encode("latin-1"))
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    library._read.cache_clear()
    yield tmp_path
    library._read.cache_clear()


def test_functions_come_without_docstring_and_decorators(sources: Path) -> None:
    found = list(library.functions())
    assert [row.values["docstring"] for row in found] == [
        "Adds one to a number.",
        "What this property is for.",
        "An inner function, too.",
    ]
    assert found[0].values["code"] == ("def first(a):\n    # why\n    return a + 1  # more than thirty characters")
    assert found[1].values["code"].startswith('async def second(self):\n    def third(x):\n        """An inner')
    assert {row.values["package"] for row in found} == {"tools"}
    assert found[1].where == "line 14 of tools/a.py"


def test_the_fingerprint_is_that_of_the_sources(sources: Path) -> None:
    before = library.fingerprint()
    assert library.fingerprint() == before
    (sources / "d.py").write_text("")
    assert library.fingerprint() != before


def test_the_library_has_thousands_of_functions_that_are_python_again() -> None:
    found = [row.values for row in library.functions()]
    assert len(found) > 2000
    for values in found[::50]:
        assert isinstance(ast.parse(values["code"]).body[0], ast.FunctionDef | ast.AsyncFunctionDef)
    assert all(10 <= len(v["docstring"]) <= 400 and 30 <= len(v["code"]) <= 2000 for v in found)
    dumps = next(v for v in found if v["code"].startswith("def dumps(obj, *, skipkeys"))
    assert (dumps["docstring"], dumps["package"]) == ("Serialize ``obj`` to a JSON formatted ``str``.", "json")
    assert str(inspect.getdoc(json.dumps)).startswith(dumps["docstring"])


def test_labels_are_the_packages_with_most_functions() -> None:
    counts = Counter(row.values["package"] for row in library.functions())
    labels = Counter(row.values["label"] for row in library.labelled())
    assert len(labels) == library.PACKAGES
    assert sorted(labels.values()) == sorted(counts.values())[-library.PACKAGES :]
    assert [label for label, _ in labels.most_common(1)] == [library.packages(1)[0]]


def test_every_function_is_translated_into_its_docstring() -> None:
    pairs = [(row.values["source"], row.values["target"]) for row in library.described()]
    assert pairs == [(row.values["code"], row.values["docstring"]) for row in library.functions()]
