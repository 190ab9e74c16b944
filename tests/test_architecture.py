"""The house: which room of the code may know which other, and what a file may be. CONTRIBUTING.md has it in words."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [path for folder in ("harness", "strategies") for path in sorted((ROOT / folder).rglob("*.py"))]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("examples/*/README.md")])
HEAVY = {"torch", "optuna", "pandas", "plotly"}

FLOORS: tuple[tuple[str, ...], ...] = (
    ("harness.cli", "harness.api"),
    ("harness.nightly",),
    ("harness.sweeps",),
    ("harness.trial",),
    ("harness.predict",),
    ("harness.rank", "harness.report"),
    ("harness.search", "harness.launchers"),
    ("harness.scripts", "harness.workloads", "harness.store"),
    ("harness.plan", "harness.machine"),
    ("harness.errors", "harness.labels", "harness.observe", "harness.statistics", "harness.version", "strategies"),
)
"""From the top floor down. A room may import the rooms of the floors below it, none above it and none beside it."""
DOORS = {"harness", "harness.__main__"}
"""What stands in no room: the version, and the way in."""

GROUPS = {"harness.strategies", "harness.workloads", "harness.launchers", "harness.exporters"}
"""Entry-point groups, which read like modules."""

Graph = Mapping[str, set[str]]
"""Module -> the modules of this project that it imports."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imports(path: Path) -> set[str]:
    """Modules that a file imports when it runs, in functions too; those for type checkers alone are left out."""
    tree = absolute(ast.parse(path.read_text()), module_name(path), path.name == "__init__.py")
    return {name for s in statements(tree, types=False) for name in names(s, MODULES)}


def absolute(tree: ast.AST, module: str, is_package: bool) -> ast.AST:
    """With relative imports as what they mean."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            package = module.split(".")[: len(module.split(".")) - node.level + is_package]
            node.module, node.level = ".".join([*package, *([node.module] if node.module else [])]), 0
    return tree


def statements(tree: ast.AST, *, types: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.iter_child_nodes(tree):
        if not types and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        yield from statements(node, types=types)


def names(statement: ast.Import | ast.ImportFrom, modules: Mapping[str, object]) -> set[str]:
    """`from a import b` imports a.b where that is a module of this project, and a otherwise."""
    if isinstance(statement, ast.Import):
        return {alias.name for alias in statement.names}
    module = str(statement.module)
    return {f"{module}.{a.name}" if f"{module}.{a.name}" in modules else module for a in statement.names}


def graph(sources: Mapping[str, str]) -> Graph:
    """Every arrow between these modules: imports anywhere, for type checkers too, and modules named in strings."""
    found = {}
    for module, source in sources.items():
        is_package = any(other.startswith(f"{module}.") for other in sources)
        tree = absolute(ast.parse(source), module, is_package)
        known = {name for s in statements(tree, types=True) for name in names(s, sources)}
        strings = {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        known |= {text.partition(":")[0] for text in strings if "." in text}  # "harness" alone is a word
        found[module] = (known & sources.keys()) - {module}
    return found


def place(module: str) -> tuple[int, str]:
    """(floor, room) of a module; the top floor is 0."""
    for floor, rooms in enumerate(FLOORS):
        for room in rooms:
            if module == room or module.startswith(f"{room}."):
                return floor, room
    raise AssertionError(f"{module} stands in no room")


def upward(arrows: Graph) -> set[str]:
    """Arrows that do not lead to a lower floor, but for those within a room."""
    wrong = set()
    for module, known in arrows.items():
        for other in known - DOORS if module not in DOORS else ():
            (floor, room), (its_floor, its_room) = place(module), place(other)
            if room != its_room and its_floor <= floor:
                wrong.add(f"{module} -> {other}")
    return wrong


def circles(arrows: Graph) -> list[set[str]]:
    """Files that import each other, directly or not."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        waiting = [start]
        while waiting:
            new = arrows[waiting.pop()] - found
            found |= new
            waiting += new
        return found

    all_reached = {module: reached(module) for module in arrows}
    found: list[set[str]] = []
    for module, known in all_reached.items():
        members = {other for other in known if module in all_reached[other]}
        if module in members and members not in found:
            found.append(members)
    return found


ARROWS = graph({name: path.read_text(encoding="utf-8") for name, path in MODULES.items()})


def test_the_project_is_found() -> None:
    assert {"harness.cli.app", "harness.rank.main", "strategies.recipe"} <= MODULES.keys()
    assert "torch" in imports(MODULES["harness.rank.main"])
    assert "harness.rank.main" in ARROWS["harness.rank.preload"]  # named in a string
    assert "harness.launchers.job" in ARROWS["harness.rank"]  # for type checkers alone


def test_no_room_knows_one_above_or_beside_it() -> None:
    assert upward(ARROWS) == set()


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles(ARROWS) == []


@pytest.mark.parametrize(
    "source",
    [
        "from harness.sweeps import config",
        "def late():\n    import harness.sweeps.config",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from harness.sweeps.config import SweepConfig",
        "LATE = 'harness.sweeps.config:SweepConfig'",
    ],
)
def test_an_arrow_upwards_is_seen_wherever_it_is_hidden(source: str) -> None:
    sources = {"harness.sweeps.config": "", "harness.store.store": source}
    assert upward(graph(sources)) == {"harness.store.store -> harness.sweeps.config"}


def test_an_arrow_to_the_room_beside_it_is_seen() -> None:
    sources = {"harness.rank.main": "from harness.report import page", "harness.report.page": ""}
    assert upward(graph(sources)) == {"harness.rank.main -> harness.report.page"}


def test_a_relative_import_is_an_arrow_like_others() -> None:
    sources = {"harness.observe": "", "harness.observe.entry": "from . import watcher", "harness.observe.watcher": ""}
    assert graph(sources)["harness.observe.entry"] == {"harness.observe.watcher"}


def test_a_circle_of_files_is_seen_within_a_room_too() -> None:
    sources = {"strategies.a": "import strategies.b", "strategies.b": "from strategies import c"}
    assert circles(graph(sources | {"strategies.c": "import strategies.a", "strategies.d": "import strategies.a"})) == [
        {"strategies.a", "strategies.b", "strategies.c"}
    ]
    assert circles(graph(sources | {"strategies.c": ""})) == []


def test_every_room_is_there_and_described_where_contributors_look() -> None:
    rooms = {room for floor in FLOORS for room in floor}
    assert {place(module)[1] for module in MODULES.keys() - DOORS} == rooms
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = set(re.findall(r"`((?:harness|strategies)[\w/.]*?)(?:\.py|/)`", text))
    assert {room.replace(".", "/") for room in rooms} - table == set()


@pytest.mark.parametrize("document", [path.relative_to(ROOT).as_posix() for path in DOCUMENTS])
def test_documents_name_files_and_modules_that_are_there(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    paths = set(re.findall(r"(?<![\w/.-])((?:harness|strategies|tests|benchmarks|examples)/[\w/.-]*\w)", text))
    assert {path for path in paths if not (ROOT / path).exists()} == set()
    modules = set(re.findall(r"(?<![\w./])((?:harness|strategies)(?:\.[a-z_]+)+)", text)) - GROUPS
    assert {module for module in modules if module not in MODULES and module.rpartition(".")[0] not in MODULES} == set()


# -- files and functions


def test_a_file_is_found_by_its_name() -> None:
    twice = {name: count for name, count in Counter(path.name for path in FILES).items() if count > 1}
    assert set(twice) == {"__init__.py"}


def test_a_file_of_tests_is_found_by_its_name() -> None:
    """Most folders of tests are no packages: pytest takes a second file of the same name for the first."""
    twice = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in twice.items() if count > 1] == []


def test_files_and_functions_can_be_read_in_one_sitting() -> None:
    sources = [path.read_text(encoding="utf-8") for path in FILES]
    assert max(source.count("\n") for source in sources) <= 400
    functions = [
        (node.end_lineno or 0) - node.lineno + 1
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef)
    ]
    assert statistics.median(functions) <= 8
    assert statistics.quantiles(functions, n=10)[-1] <= 22
    assert max(functions) <= 60


# -- what a room must not know


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


def test_what_is_injected_knows_torch_the_standard_library_and_itself() -> None:
    watching = within("harness.observe") - {"harness.observe.injection"}  # which stays with whoever watches
    assert packages(watching) - set(sys.stdlib_module_names) <= {"torch", "harness"}
    assert all(name.startswith("harness.observe") for module in watching for name in ARROWS[module])


def test_search_alone_knows_optuna() -> None:
    knowing = {name for name, path in MODULES.items() if any(i.partition(".")[0] == "optuna" for i in imports(path))}
    assert knowing
    assert {name for name in knowing if not name.startswith("harness.search.")} == set()


def test_strategies_know_torch_and_never_the_harness() -> None:
    known = packages(within("strategies"))
    assert "torch" in known
    assert known - set(sys.stdlib_module_names) <= {"torch", "torchao", "strategies"}


def test_what_strategies_say_of_themselves_needs_no_torch() -> None:
    said = reachable({"strategies", "strategies.base"})
    assert {"strategies.knob", "strategies.facts"} <= said
    assert packages(said) - set(sys.stdlib_module_names) == {"strategies"}


def test_a_rank_loads_nothing_that_searches_reports_or_displays() -> None:
    entered = {"harness.rank.main", "harness.rank.preload", "harness.launchers.local"}
    rank_side = reachable(entered | within("harness.rank", "strategies", "harness.workloads"))  # loaded by name
    assert {"strategies.zero1", "harness.launchers.events", "harness.launchers.job"} <= rank_side
    assert packages(rank_side) & {"optuna", "pandas", "plotly", "pyarrow", "rich", "typer"} <= {"pyarrow"}
    assert {
        name for name in rank_side if name.startswith(("harness.search", "harness.report", "harness.store"))
    } == set()


def test_reports_know_only_what_the_store_can_read_and_how_plans_are_judged() -> None:
    known = {name for module in within("harness.report") for name in imports(MODULES[module])}
    ours = {name for name in known if name.partition(".")[0] in ("harness", "strategies")}
    allowed = ("harness.report", "harness.store", "harness.errors", "harness.labels")
    allowed += ("harness.search.importance",)  # what a study says of knobs
    assert {name for name in ours if not name.startswith(allowed)} == set()
    others = {name.partition(".")[0] for name in known - ours} - set(sys.stdlib_module_names)
    assert others <= {"pandas", "plotly", "jinja2", "markupsafe", "tensorboard"}


def test_launchers_ranks_and_trials_know_neither_search_nor_reports() -> None:
    rooms = within("harness.trial", "harness.rank", "harness.launchers")
    known = {name for module in rooms for name in imports(MODULES[module])}
    assert {name for name in known if name.startswith(("harness.search", "harness.report"))} == set()


def test_closed_forms_need_neither_torch_nor_tables() -> None:
    known = packages(within("harness.predict") - {"harness.predict.trace"})
    assert known - set(sys.stdlib_module_names) == {"harness", "numpy", "scipy", "strategies"}


@pytest.mark.parametrize(
    "module",
    [
        "harness",
        "harness.api.call",
        "harness.cli.app",
        "harness.sweeps.config",
        "harness.workloads",
        "harness.launchers.local",
        "harness.observe.entry",
        "harness.rank",
    ],
)
def test_importing_it_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(sorted({HEAVY!r} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert printed.stdout == "[]\n"
