"""A stand-in for EGI Check-in on loopback: an OpenID Connect provider whose logins take one click.

For the demo and the tests. It asks for no password, so it never listens on anything but loopback. Here are its parts put
together and its command line; the protocol is `demo.checkin_protocol`, addresses and pages are `demo.checkin_server`,
what is kept is `demo.checkin_memory`, the people are `demo.people`.

Like Check-in, it insists on PKCE and an exact redirect URI, releases memberships in userinfo and introspection only,
and gives a refresh token to whoever asks for ``offline_access``. What it says, and how it fails, can be changed while it
runs: by the methods here, or at its page ``/controls``.
"""

from __future__ import annotations

import argparse
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from demo.checkin_control_pages import add_control_pages
from demo.checkin_controls import Controls, Endpoint, Entitlements, Failing, Fault, Settings, Standing
from demo.checkin_listening import Listener
from demo.checkin_memory import SCOPES, Client, Memory, Token
from demo.checkin_protocol import CheckinServer
from demo.checkin_server import PATHS, REALM, add_addresses, new_app
from demo.people import PEOPLE, Person

__all__ = ["CheckinStandIn"]

SEPARABLE = (Endpoint.TOKEN, Endpoint.USERINFO, Endpoint.INTROSPECT, Endpoint.CERTS, Endpoint.REVOKE)
"""What an application asks, as opposed to a browser: these may have ports of their own."""


class CheckinStandIn:
    """The stand-in on an address of its own, served by threads of its own.

    The port is taken when the object is made, so that `issuer` is known; it answers from `start` to `stop`.
    Port 0 takes a free one. With ``separate_ports`` each of `SEPARABLE` is on another one, so that connections to it
    alone can be refused. Raises `ValueError` for an address that is not loopback.
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
        separate_ports: bool = False,
    ) -> None:
        if not ip_address(host).is_loopback:
            raise ValueError(f"{host} is no loopback address, and this stand-in asks for no password.")
        self.people = tuple(people)
        self.memory = Memory()
        self.controls = Controls()
        self._host = f"[{host}]" if ":" in host else host
        self._main = Listener(host, port)
        self._separate = {endpoint: Listener(host, 0) for endpoint in SEPARABLE} if separate_ports else {}
        self.issuer = f"http://{self._host}:{self._main.port}{REALM}"
        client = Client(client_id, client_secret, tuple(redirect_uris))
        self._app = new_app()
        self._server = CheckinServer(
            self._app, issuer=self.issuer, client=client, memory=self.memory, controls=self.controls
        )
        add_addresses(self._app, self._server, self.people, self.url_of)
        add_control_pages(self._app, self)

    @property
    def controls_url(self) -> str:
        """The page, and the JSON, by which it is changed."""
        return f"http://{self._host}:{self._main.port}/controls"

    def url_of(self, endpoint: Endpoint) -> str:
        listener = self._separate.get(endpoint, self._main)
        return f"http://{self._host}:{listener.port}{PATHS[endpoint]}"

    def start(self) -> None:
        """Answer from now on. May be called once."""
        for listener in self._listeners():
            listener.answer(self._app)

    def stop(self) -> None:
        """Stop answering and give the ports back. May be called more than once."""
        self.controls.reset()  # what hangs is let go
        for listener in self._listeners():
            listener.close()

    def _listeners(self) -> list[Listener]:
        return [self._main, *self._separate.values()]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    # What it says of people

    @property
    def settings(self) -> Settings:
        """How it behaves to everybody: set what is wanted."""
        return self.controls.settings

    def set_entitlements(self, person: Person, *entitlements: str, eduperson_entitlement: Sequence[str] = ()) -> None:
        """In place of all that the person had; without any, none."""
        self.controls.set_entitlements(person, Entitlements(tuple(eduperson_entitlement), entitlements))

    def suspend(self, person: Person, *, inactive: bool = False) -> None:
        """Release no entitlements any more; or, ``inactive``, know the account no more (``{"active": false}``)."""
        self.controls.set_standing(person, Standing.INACTIVE if inactive else Standing.SUSPENDED)

    def restore(self, person: Person) -> None:
        """The opposite of `suspend`. Entitlements are as they were set last."""
        self.controls.set_standing(person, Standing.GOOD)

    def end_logins(self, person: Person, *, refresh_tokens_only: bool = False) -> None:
        """The tokens of all logins so far are worth nothing; a new login works."""
        if refresh_tokens_only:
            self.memory.end_refreshing_of(person)
        else:
            self.memory.end_families_of(person)

    def give_access_token(
        self,
        person: Person,
        *,
        client_id: str | None = None,
        audience: Sequence[str] = (),
        scope: str = " ".join(SCOPES),
        seconds: int = 3600,
    ) -> str:
        """As another application of the person's would have got it; by default our own. ``audience``: else that application."""
        own = self._server.client
        client = own if client_id in {None, own.client_id} else Client(str(client_id), secrets.token_hex(16), ())
        text = secrets.token_urlsafe(32)
        self.memory.add_token(
            Token(
                person=person,
                client=client,
                scope=scope,
                access_token=text,
                refresh_token=None,
                issued_at=int(time.time()),
                expires_in=seconds,
                family=secrets.token_hex(8),
                audience=tuple(audience) or (client.client_id,),
            )
        )
        return text

    # How it fails

    def fail(self, fault: Fault, *endpoints: Endpoint, times: int | None = None) -> None:
        """At these addresses, or at all. A status, or one of `Failing`; ``times``: so many requests, then no more.

        Raises `ValueError` for connections that are to be refused at an address without a port of its own.
        """
        if fault is Failing.REFUSE and endpoints and not self._separate.keys() >= set(endpoints):
            names = ", ".join(endpoints)
            raise ValueError(f"Not all of {names} have ports of their own, and a connection belongs to a port.")
        for endpoint in endpoints or tuple(Endpoint):
            self.controls.set_fault(endpoint, fault, times=times)
        if fault is Failing.REFUSE:
            for listener in [self._separate[endpoint] for endpoint in endpoints] or self._listeners():
                listener.refuse()

    def recover(self, *endpoints: Endpoint) -> None:
        """Answer at these addresses again, or at all."""
        for endpoint in endpoints or tuple(Endpoint):
            self.controls.set_fault(endpoint, None)
        for listener in [self._separate.get(endpoint, self._main) for endpoint in endpoints] or self._listeners():
            listener.answer(self._app)

    def rotate_key(self) -> None:
        """Sign with a new key, published in place of the one before."""
        self._server.keys.rotate()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m demo.checkin", description="A stand-in for EGI Check-in.")
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    parser.add_argument("--client-id", required=True)
    parser.add_argument("--client-secret-file", type=Path, required=True, help="its first line is the secret")
    parser.add_argument("--redirect-uri", action="append", required=True, help="may be given more than once")
    parser.add_argument(
        "--separate-ports", action="store_true", help="for what applications ask, so that it can be refused"
    )
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
        separate_ports=options.separate_ports,
    ) as checkin:
        print(f"The stand-in for EGI Check-in answers at {checkin.issuer}", flush=True)
        ended.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
