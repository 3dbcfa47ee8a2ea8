"""``/metrics`` and ``/healthz`` over HTTP while a run goes on, for a scrape of what takes hours."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from mcp_planner_schema.guard.events import Event
from mcp_planner_schema.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_POLL = 0.05
"""Seconds that the end of a run may wait for the server's."""

_SLOW = 5.0
"""Seconds until a client that does not speak is left."""


class _Silent(WSGIRequestHandler):
    timeout = _SLOW

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: a scrape is no news."""


class _Server(ThreadingMixIn, WSGIServer):
    """Each request in a thread of its own that ends with the process."""

    daemon_threads = True
    request_queue_size = 32

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked has gone: that is no news either."""

    def server_bind(self) -> None:
        """Without asking the name service what this machine is called."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "metrics", self.server_address[1]
        self.setup_environ()


@contextmanager
def serving(place: str, metrics: Metrics, say: Callable[[str], None]) -> Iterator[Callable[[Event], None] | None]:
    """While inside, ``host:port`` answers. A place that is taken is told, and nobody is answered; port 0 takes a free one."""
    import socket

    host, _, port = place.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    heard = _Heard()
    family = type("_Family", (_Server,), {"address_family": socket.AF_INET6 if ":" in host else socket.AF_INET})
    try:
        server: WSGIServer = make_server(
            host, int(port), _app(metrics, heard), server_class=family, handler_class=_Silent
        )
    except OSError as error:
        say(f"warning: metrics are not served at {place}: {error.strerror or error}; the run goes on without")
        yield None
        return
    say(f"metrics at http://{_shown(host)}:{server.server_port}/metrics")
    thread = threading.Thread(target=server.serve_forever, args=(_POLL,), daemon=True)
    thread.start()
    try:
        yield heard.hear
    finally:
        server.shutdown()
        server.server_close()


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class _Heard:
    """Where the run is, for whoever asks whether it is alive."""

    def __init__(self) -> None:
        self.now: dict[str, Any] = {"run": None, "revision": None, "since": None, "state": "beginning"}

    def hear(self, event: Event) -> None:
        states = {"run-ended": "ended", "waiting": "waiting", "try-failed": "waiting"}
        state = states.get(event.kind, "running")
        self.now = {
            "run": event.run or None, "revision": event.revision, "since": event.at.isoformat(timespec="seconds"),
            "state": state, "last": event.kind,
        }  # fmt: skip


def _app(metrics: Metrics, heard: _Heard) -> Any:
    from prometheus_client.exposition import choose_encoder

    def app(environ: WSGIEnvironment, start: StartResponse) -> list[bytes]:
        status, kind, body = "404 Not Found", "text/plain; charset=utf-8", b"/metrics or /healthz\n"
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            status, body = "405 Method Not Allowed", b"GET\n"
        elif environ["PATH_INFO"] == "/metrics":
            encode, kind = choose_encoder(environ.get("HTTP_ACCEPT", ""))
            status, body = "200 OK", encode(metrics)
        elif environ["PATH_INFO"] == "/healthz":
            status, kind, body = "200 OK", "application/json", json.dumps(heard.now).encode() + b"\n"
        start(status, [("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")])
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]

    return app
