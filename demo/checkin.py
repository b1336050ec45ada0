"""A stand-in for EGI Check-in on loopback: an OpenID Connect provider whose logins take one click.

For the demo and the tests. It asks for no password, so it never listens on anything but loopback. Here are its socket
and its command line; the protocol is `demo.checkin_protocol`, addresses and pages are `demo.checkin_server`, what is
kept is `demo.checkin_memory`, the people are `demo.people`.

Like Check-in, it insists on PKCE and an exact redirect URI, releases memberships in userinfo and introspection only,
and gives a refresh token to whoever asks for ``offline_access``.
"""

from __future__ import annotations

import argparse
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from werkzeug.serving import WSGIRequestHandler, make_server

from demo.checkin_memory import Client, Memory
from demo.checkin_server import REALM, create_app
from demo.people import PEOPLE, Person

__all__ = ["CheckinStandIn"]


class _QuietRequests(WSGIRequestHandler):
    """Faults are logged, requests are not: they hold codes."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


class CheckinStandIn:
    """The stand-in on an address of its own, served by threads of its own.

    The port is taken when the object is made, so that `issuer` is known; it answers from `start` to `stop`.
    Port 0 takes a free one. Raises `ValueError` for an address that is not loopback.
    """

    def __init__(
        self,
        *,
        client_id: str,
        client_secret: str,
        redirect_uris: Iterable[str],
        host: str = "127.0.0.1",
        port: int = 0,
        people: Sequence[Person] = PEOPLE,
    ) -> None:
        if not ip_address(host).is_loopback:
            raise ValueError(f"{host} is no loopback address, and this stand-in asks for no password.")
        self.people = tuple(people)
        self.memory = Memory()
        client = Client(client_id, client_secret, tuple(redirect_uris))
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, port), family=family) as listening:
            port = listening.getsockname()[1]
            self.issuer = f"http://{f'[{host}]' if ':' in host else host}:{port}{REALM}"
            app = create_app(self.issuer, client, self.people, self.memory)
            # The server has its own descriptor of the same socket.
            self._server = make_server(
                host, port, app, threaded=True, request_handler=_QuietRequests, fd=listening.fileno()
            )
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Answer from now on. May be called once."""
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="checkin", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and give the port back. May be called more than once."""
        if self._thread:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m demo.checkin", description="A stand-in for EGI Check-in.")
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    parser.add_argument("--client-id", required=True)
    parser.add_argument("--client-secret-file", type=Path, required=True, help="its first line is the secret")
    parser.add_argument("--redirect-uri", action="append", required=True, help="may be given more than once")
    options = parser.parse_args(arguments)
    secret = options.client_secret_file.read_text().strip()
    if not secret:
        parser.error(f"{options.client_secret_file} is empty")
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with CheckinStandIn(
        host=options.host,
        port=options.port,
        client_id=options.client_id,
        client_secret=secret,
        redirect_uris=options.redirect_uri,
    ) as checkin:
        print(f"The stand-in for EGI Check-in answers at {checkin.issuer}", flush=True)
        ended.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
