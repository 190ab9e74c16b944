"""The arrows of the architecture: which part of the code may know which other."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [path for folder in ("harness", "strategies") for path in sorted((ROOT / folder).rglob("*.py"))]
HEAVY = {"torch", "optuna", "pandas", "plotly"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imports(path: Path) -> set[str]:
    """Modules that a file imports when it runs, in functions too; those for type checkers alone are left out."""
    return {name for statement in statements(ast.parse(path.read_text())) for name in names(statement)}


def statements(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        yield from statements(node)


def names(statement: ast.Import | ast.ImportFrom) -> set[str]:
    """`from a import b` imports a.b where that is a module of this project, and a otherwise."""
    if isinstance(statement, ast.Import):
        return {alias.name for alias in statement.names}
    module = str(statement.module)
    return {f"{module}.{a.name}" if f"{module}.{a.name}" in MODULES else module for a in statement.names}


def reachable(start: set[str]) -> set[str]:
    """Modules of this project, with the packages they lie in, that importing `start` can load."""
    found: set[str] = set()
    waiting = set(start)
    while waiting:
        name = waiting.pop()
        packages = {name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)}
        if name in MODULES and name not in found:
            found.add(name)
            waiting |= (imports(MODULES[name]) | packages) & MODULES.keys()
    return found


def packages(modules: set[str]) -> set[str]:
    """The outermost packages of what these modules of this project import."""
    return {name.partition(".")[0] for module in modules for name in imports(MODULES[module])}


def within(*prefixes: str) -> set[str]:
    return {name for name in MODULES if name.startswith(prefixes)}


def test_the_project_is_found() -> None:
    assert {"harness.cli.app", "harness.rank.main", "strategies.recipe"} <= MODULES.keys()
    assert "torch" in imports(MODULES["harness.rank.main"])


def test_search_alone_knows_optuna() -> None:
    knowing = {name for name, path in MODULES.items() if any(i.partition(".")[0] == "optuna" for i in imports(path))}
    assert knowing
    assert {name for name in knowing if not name.startswith("harness.search.")} == set()


def test_strategies_know_torch_and_never_the_harness() -> None:
    known = packages(within("strategies"))
    assert "torch" in known
    assert known - set(sys.stdlib_module_names) <= {"torch", "torchao", "strategies"}


def test_what_strategies_say_of_themselves_needs_no_torch() -> None:
    assert packages({"strategies", "strategies.base"}) - set(sys.stdlib_module_names) == {"strategies"}


def test_a_rank_loads_nothing_that_searches_reports_or_displays() -> None:
    entered = {"harness.rank.main", "harness.rank.preload"}
    rank_side = reachable(entered | within("strategies", "harness.workloads"))  # these are loaded by name
    assert {"strategies.zero1", "harness.launchers.events", "harness.launchers.job"} <= rank_side
    assert packages(rank_side) & {"optuna", "pandas", "plotly", "rich", "typer"} == set()
    assert {
        name for name in rank_side if name.startswith(("harness.search", "harness.report", "harness.cli.app"))
    } == set()


def test_reports_know_only_what_the_store_can_read_and_how_plans_are_judged() -> None:
    known = {name for module in within("harness.report") for name in imports(MODULES[module])}
    ours = {name for name in known if name.partition(".")[0] in ("harness", "strategies")}
    allowed = (
        "harness.report",
        "harness.store.store",
        "harness.store.records",
        "harness.errors",
        "harness.store.standings",
    )
    allowed += ("harness.search.importance",)  # what a study says of knobs
    assert {name for name in ours if not name.startswith(allowed)} == set()
    others = {name.partition(".")[0] for name in known - ours} - set(sys.stdlib_module_names)
    assert others <= {"pandas", "plotly", "jinja2", "markupsafe", "tensorboard"}


def test_launchers_and_trials_know_neither_search_nor_reports() -> None:
    known = {name for module in within("harness.trial", "harness.launchers") for name in imports(MODULES[module])}
    assert {
        name for name in known if name.startswith(("harness.search", "harness.report", "harness.sweep.sweep"))
    } == set()


@pytest.mark.parametrize(
    "module", ["harness.cli.app", "harness.sweep.config", "harness.workloads", "harness.launchers.local"]
)
def test_importing_it_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(sorted({HEAVY!r} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert printed.stdout == "[]\n"
