from __future__ import annotations

import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from harness.report import pages
from harness.report.live import FIRST_S, SHARE, Pages, Refresh
from harness.store.store import Store

from .rows import HARDWARE, SWEEP, trial


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_page_is_refreshed_so_seldom_that_it_takes_a_small_share_of_the_time() -> None:
    clock = Clock()
    built: list[float] = []

    def build() -> None:
        built.append(clock.now)
        clock.now += 3.0

    refresh = Refresh(build, clock)
    begin = clock.now
    while clock.now < begin + 2000:
        refresh.maybe()
        clock.now += 1.0
    assert built[0] == begin + FIRST_S
    assert 3.0 * len(built) / (clock.now - begin) <= SHARE + 3.0 / 1000
    assert len(built) > 4


@contextmanager
def served(server: Pages) -> Iterator[Pages]:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def get(address: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def test_the_page_is_served_to_this_machine_alone(make_store: Callable[..., Store]) -> None:
    with served(pages(make_store(), HARDWARE, SWEEP, 0)) as server:
        assert server.server_address[0] == "127.0.0.1"
        status, text = get(server.address)
        assert status == 200
        assert "connect-src 'self'" in text
        assert get(server.address, Host="evil.example:80")[0] == 403
        assert get(f"{server.address}etc/passwd")[0] == 404
        assert get(f"{server.address}../pyproject.toml")[0] == 404


def test_the_state_changes_when_a_trial_is_recorded_and_the_page_with_it(make_store: Callable[..., Store]) -> None:
    store = make_store([trial("a1")])
    with served(pages(store, HARDWARE, SWEEP, 0)) as server:
        before = get(f"{server.address}built")[1]
        assert f'data-built="{before}"' in get(server.address)[1]
        assert get(f"{server.address}built")[1] == before
        store.append(HARDWARE, SWEEP, trial("b2"))
        after = get(f"{server.address}built")[1]
        assert after != before
        assert "2 trials" in get(server.address)[1]


def test_a_sweep_that_is_gone_is_said_to_be(make_store: Callable[..., Store]) -> None:
    store = make_store([trial("a1")])
    with served(pages(store, HARDWARE, SWEEP, 0)) as server:
        shutil.rmtree(store.root)
        assert get(server.address)[0] == 503


def test_a_page_in_a_file_asks_nobody(make_store: Callable[..., Store]) -> None:
    from harness.report.sweep_page import render
    from harness.report.sweep_view import SweepView

    text = render(SweepView.read(make_store(), HARDWARE, SWEEP))
    assert "connect-src" not in text
    assert "data-built" not in text


def test_a_port_in_use_is_an_error(make_store: Callable[..., Store]) -> None:
    store = make_store()
    with served(pages(store, HARDWARE, SWEEP, 0)) as server, pytest.raises(OSError, match="in use"):
        pages(store, HARDWARE, SWEEP, server.server_port)
