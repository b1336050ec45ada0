"""The sockets of the stand-ins for Check-in and the DataHub: each can refuse connections for a while and keeps its port meanwhile."""

from __future__ import annotations

import socket
import ssl
import threading
from typing import Any

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server


class _QuietRequests(WSGIRequestHandler):
    """Faults are logged, requests are not: they hold codes."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


class Listener:
    """One address on loopback, answered by threads of its own. Port 0 takes a free one, which is kept until `close`.

    With ``tls`` it speaks that and nothing else.
    """

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._host = host
        self._tls = tls
        self._kept = self._bound(port)
        self.port: int = self._kept.getsockname()[1]
        self._server: BaseWSGIServer | None = None
        self._thread: threading.Thread | None = None

    def answer(self, app: Any) -> None:
        """With this WSGI application from now on. Does nothing where that is so already."""
        if self._server:
            return
        self._kept.listen(128)
        # The server has its own descriptor of the same socket.
        self._server = make_server(
            self._host,
            self.port,
            app,
            threaded=True,
            request_handler=_QuietRequests,
            fd=self._kept.fileno(),
            ssl_context=self._tls,
        )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="stand-in", daemon=True)
        self._thread.start()

    def refuse(self) -> None:
        """Connections, while nobody else can take the port: it stays bound, and nothing listens."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._kept.close()
        self._server = self._thread = None
        self._kept = self._bound(self.port)

    def close(self) -> None:
        """Give the port back. May be called more than once."""
        self.refuse()
        self._kept.close()

    def _bound(self, port: int) -> socket.socket:
        made = socket.socket(socket.AF_INET6 if ":" in self._host else socket.AF_INET)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((self._host, port))
        return made
