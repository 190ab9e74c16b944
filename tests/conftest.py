from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness import launchers
from harness.launchers.base import Launcher
from tests.tiny import Laboratory


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    """One fork server for every trial of the tests."""
    with launchers.create("local") as started:
        yield started


@pytest.fixture(scope="session")
def laboratory(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    """Runs plans for real."""
    return Laboratory(launcher, tmp_path_factory.mktemp("results"))
