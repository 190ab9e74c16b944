from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness import launchers
from harness.launchers.base import Launcher
from tests.tiny import Laboratory


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests that are marked slow")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: one of many like it, or more than 20 s; skipped without --slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in set(slow)]


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    """One fork server for every trial of the tests."""
    with launchers.create("local") as started:
        yield started


@pytest.fixture(scope="session")
def laboratory(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    """Runs plans for real."""
    return Laboratory(launcher, tmp_path_factory.mktemp("results"))
