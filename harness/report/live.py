"""The page of a sweep that still runs: built again now and then, and served to a browser that loads it again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer

from harness.errors import HarnessError

SHARE = 0.01
"""Share of the wall time that building the page may take: trials wait meanwhile."""
FIRST_S = 45.0
"""Before this there is little to see."""
LOOPBACK = "127.0.0.1"


@dataclass
class Refresh:
    """Builds something again, so seldom that it costs little.

    Args:
        build: what takes time.
        clock: monotonic time, in s.
    """

    build: Callable[[], object]
    clock: Callable[[], float] = time.monotonic
    _next: float = field(init=False)

    def __post_init__(self) -> None:
        self._next = self.clock() + FIRST_S

    def maybe(self) -> None:
        """Build if the last time is long enough ago."""
        begin = self.clock()
        if begin >= self._next:
            self.build()
            end = self.clock()
            self._next = end + max(FIRST_S, (end - begin) / SHARE)


class Pages(HTTPServer):
    """Serves one page to this machine alone.

    Args:
        state: a text that changes when there is something new.
        render: makes the page, given that text.
        port: 0 for any that is free.

    Raises:
        OSError: the port is in use.
    """

    allow_reuse_address = True

    def __init__(self, state: Callable[[], str], render: Callable[[str], str], port: int) -> None:
        self.state, self.render = state, render
        self.shown, self.page = "", b""
        super().__init__((LOOPBACK, port), _Handler)

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{LOOPBACK}:{self.server_port}/"

    def current(self) -> bytes:
        """The page as it is now."""
        state = self.state()
        if state != self.shown:
            self.page, self.shown = self.render(state).encode(), state
        return self.page


class _Handler(BaseHTTPRequestHandler):
    server: Pages

    def do_GET(self) -> None:
        # A name that another site made point here is not this machine's own.
        if self.headers.get("Host", "").partition(":")[0] not in (LOOPBACK, "localhost"):
            self.send_error(HTTPStatus.FORBIDDEN)
        elif self.path == "/":
            try:
                page = self.server.current()
            except HarnessError as error:  # such as a sweep that was removed meanwhile
                self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, explain=str(error))
                return
            self._answer(page, "text/html; charset=utf-8")
        elif self.path == "/built":
            self._answer(self.server.state().encode(), "text/plain; charset=utf-8")
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: the terminal shows the address."""
