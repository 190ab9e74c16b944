from __future__ import annotations

import os
from collections.abc import Iterator

if "PYTEST_XDIST_WORKER" in os.environ:  # two workers on two cores: threads of one would only wait for the other's
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

from harness import launchers
from harness.launchers.launcher import Launcher
from harness.rank import preload_for
from tests.tiny import Laboratory

LAUNCHES = ("e2e", "faults")
"""Folders whose tests start ranks or whole commands."""
LAUNCHING = {"launcher", "laboratory", "started"}
"""Fixtures of tests that start ranks."""


# A busy machine takes as long as it takes for an example.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests that are marked slow")
    parser.addoption(
        "--launching",
        choices=("only", "not"),
        help="tests that start ranks alone, or the others, which may run at once",
    )


def pytest_itemcollected(item: pytest.Item) -> None:
    if "browser" in getattr(item, "fixturenames", ()):
        item.add_marker("browser")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "browser: opens pages in a real browser, if there is one")
    config.addinivalue_line("markers", "launching: starts ranks by itself; has the machine for itself")
    config.addinivalue_line("markers", "slow: one of many like it, or more than 20 s; skipped without --slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [] if config.getoption("--slow") else [item for item in items if item.get_closest_marker("slow")]
    asked = config.getoption("--launching")
    if asked is not None:
        left_out += [item for item in items if _launches(item) != (asked == "only")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if session.config.getoption("--launching") and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK  # tox asks for both kinds, a developer for one test


def _launches(item: pytest.Item) -> bool:
    """Whether a test needs the machine for itself, because ranks share its cores."""
    fixtures = set(getattr(item, "fixturenames", ()))
    return bool(fixtures & LAUNCHING) or item.path.parent.name in LAUNCHES or "launching" in item.keywords


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    """One fork server for every trial of the tests."""
    # What jobs of the tests are made of too: each rank would import it to read its job.
    with launchers.create("local", (*preload_for("hf:"), "tests.tiny")) as started:
        yield started


@pytest.fixture(scope="session")
def laboratory(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    """Runs plans for real."""
    return Laboratory(launcher, tmp_path_factory.mktemp("results"))
