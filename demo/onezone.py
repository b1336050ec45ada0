"""A stand-in for the DataHub on loopback: a Onezone and the one Oneprovider that supports its spaces.

For the demo and the tests. It believes the access tokens of the stand-in for Check-in (`demo.checkin`), gives temporary tokens
with caveats and holds them to these, and serves small files by Oneprovider's REST API. What fails, and whose spaces there
are, is set at `controls`; who asks is `demo.onezone_tokens`, the files are `demo.onezone_files`.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from flask import Flask, request
from flask.json import loads

from demo.checkin_listening import Listener
from demo.onezone_controls import PROVIDER, Controls, Endpoint, Failing, Fault, Space
from demo.onezone_files import file_calls
from demo.onezone_tokens import Bearer, Refused, Tokens, caveats_in

__all__ = ["OnezoneStandIn"]

ONEZONE = "/api/v3/onezone"
ONEPROVIDER = "/api/v3/oneprovider"

_ADDRESSES: tuple[tuple[str, Endpoint], ...] = (
    (f"{ONEZONE}/user", Endpoint.USER),
    (f"{ONEZONE}/user/effective_spaces", Endpoint.EFFECTIVE_SPACES),
    (f"{ONEZONE}/user/spaces/[^/]+", Endpoint.SPACE),
    (f"{ONEZONE}/user/effective_providers", Endpoint.EFFECTIVE_PROVIDERS),
    (f"{ONEZONE}/user/effective_providers/[^/]+", Endpoint.PROVIDER),
    (f"{ONEZONE}/user/effective_providers/[^/]+/spaces", Endpoint.PROVIDER_SPACES),
    (f"{ONEZONE}/user/tokens/temporary", Endpoint.TEMPORARY_TOKEN),
    (f"{ONEZONE}/tokens/infer_access_token_scope", Endpoint.TOKEN_SCOPE),
    (f"{ONEPROVIDER}/configuration", Endpoint.CONFIGURATION),
    (f"{ONEPROVIDER}/.*", Endpoint.DATA),
)

StartResponse = Callable[..., Any]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


class OnezoneStandIn:
    """The stand-in on addresses of its own, served by threads of its own.

    Ports are taken when the object is made, so that `url` is known; it answers from `start` to `stop`. Port 0 takes a free
    one. ``userinfo_url`` is Check-in's, which says whose an access token is. With ``certificate``, a file with a certificate
    and its key, both speak TLS, as ``onedatarestfsspec`` has to have it. The provider has a port of its own, so that it alone
    can be gone, where ``provider_port`` is given.
    """

    def __init__(
        self, *, userinfo_url: str, port: int = 0, provider_port: int | None = None, certificate: Path | None = None
    ) -> None:
        self.controls = Controls()
        context = None
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
        self._onezone = Listener("127.0.0.1", port, context)
        self._provider = self._onezone if provider_port is None else Listener("127.0.0.1", provider_port, context)
        self.host = f"127.0.0.1:{self._onezone.port}"
        self.url = f"{'http' if context is None else 'https'}://{self.host}"
        self.provider = f"127.0.0.1:{self._provider.port}"
        """Its host and port, as Onezone has them for its domain."""
        self.tokens = Tokens(lambda token: _subject(userinfo_url, token))
        self._app = Flask(__name__)
        self._add_errors()
        self._add_onezone()
        self._add_tokens()
        self._app.register_blueprint(file_calls(self.controls, self.tokens))
        answer = self._app.wsgi_app
        self._app.wsgi_app = lambda environ, start_response: _answer_or_fail(
            self.controls, answer, environ, start_response
        )

    def start(self) -> None:
        """Answer from now on; also after `refuse`."""
        for listener in {self._onezone, self._provider}:
            listener.answer(self._app)

    def refuse(self, *, provider_only: bool = False) -> None:
        """Connections, until `start`."""
        for listener in {self._provider} if provider_only else {self._onezone, self._provider}:
            listener.refuse()

    def stop(self) -> None:
        """Stop answering and give the ports back. May be called more than once."""
        self.controls.recover()  # what hangs is let go
        for listener in {self._onezone, self._provider}:
            listener.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    # What it answers

    def _add_errors(self) -> None:
        @self._app.errorhandler(Refused)
        def refused(error: Refused) -> Any:
            return {"error": {"id": error.error, "description": error.description}}, error.code

        _ = refused  # Flask knows it by its registration alone; so below.

    def _bearer(self) -> Bearer:
        return self.tokens.rest_bearer(request.headers.get("X-Auth-Token"))

    def _add_onezone(self) -> None:
        app, controls = self._app, self.controls

        @app.get(f"{ONEZONE}/user")
        def user() -> Any:
            return {"userId": self._bearer().person, "fullName": "", "username": ""}

        @app.get(f"{ONEZONE}/user/effective_spaces")
        def effective_spaces() -> Any:
            return {"spaces": [space.id for space in controls.spaces_of(self._bearer().person)]}

        @app.get(f"{ONEZONE}/user/spaces/<space_id>")
        def one_space(space_id: str) -> Any:
            space = controls.space(self._bearer().person, space_id)
            if space is None:
                raise Refused(404, "notFound", "There is no such space.")
            return {"spaceId": space.id, "name": space.name, "providers": dict.fromkeys(space.providers, 1_000_000)}

        @app.get(f"{ONEZONE}/user/effective_providers")
        def providers() -> Any:
            spaces = controls.spaces_of(self._bearer().person)
            return {"providers": sorted({one for space in spaces for one in space.providers})}

        @app.get(f"{ONEZONE}/user/effective_providers/<provider>")
        def one_provider(provider: str) -> Any:
            self._known(provider)
            described = {"providerId": provider, "name": "demo", "domain": self._domain(provider)}
            return {**described, "online": provider == PROVIDER and controls.provider_is_online}

        @app.get(f"{ONEZONE}/user/effective_providers/<provider>/spaces")
        def its_spaces(provider: str) -> Any:
            return {"spaces": [space.id for space in self._known(provider)]}

        _ = (user, effective_spaces, one_space, providers, one_provider, its_spaces)

    def _known(self, provider: str) -> list[Space]:
        """The spaces of whoever asks that this provider supports."""
        spaces = self.controls.spaces_of(self._bearer().person)
        if not (supported := [space for space in spaces if provider in space.providers]):
            raise Refused(404, "notFound", "There is no such provider.")
        return supported

    def _domain(self, provider: str) -> str:
        return self.provider if provider == PROVIDER else "provider.example.org"

    def _add_tokens(self) -> None:
        app, controls = self._app, self.controls

        @app.post(f"{ONEZONE}/user/tokens/temporary")
        def temporary() -> Any:
            caveats = caveats_in(request.get_json(silent=True))
            token = self.tokens.issue(
                self._bearer(), caveats, longest_seconds=controls.longest_token_seconds, size=controls.token_bytes
            )
            return {"token": token}, 201

        @app.post(f"{ONEZONE}/tokens/infer_access_token_scope")
        def scope() -> Any:
            # The token is in the body: whoever has it may ask what it is good for.
            bearer = self.tokens.bearer((request.get_json(silent=True) or {}).get("token"))
            spaces = controls.spaces_of(bearer.person)
            providers = {one for space in spaces for one in space.providers}
            return {
                "validUntil": int(bearer.valid_until or time.time() + 3600),
                "dataAccessScope": {
                    "readonly": bearer.is_read_only,
                    "spaces": {
                        space.id: {
                            "name": space.name,
                            "supports": {one: {"readonly": False} for one in space.providers},
                        }
                        for space in spaces
                    },
                    "providers": {
                        one: {
                            "name": "demo",
                            "domain": self._domain(one),
                            "version": "25.0",
                            "online": one == PROVIDER and controls.provider_is_online,
                        }
                        for one in providers
                    },
                },
            }

        @app.get(f"{ONEPROVIDER}/configuration")
        def configuration() -> Any:
            return {"providerId": PROVIDER, "name": "demo", "domain": self.provider, "version": "25.0"}

        _ = (temporary, scope, configuration)


def _subject(userinfo_url: str, token: str) -> str | None:
    """Whose Check-in says the token is; none where it knows no such token."""
    asked = Request(userinfo_url, headers={"Authorization": f"Bearer {token}"})
    try:
        with urlopen(asked, timeout=10) as answer:
            claims: Mapping[str, Any] = loads(answer.read())
    except HTTPError as error:
        if error.code in {400, 401, 403}:
            return None
        raise
    return str(claims["sub"])


# How it fails


def _answer_or_fail(
    controls: Controls, answer: Application, environ: dict[str, Any], start_response: StartResponse
) -> Iterable[bytes]:
    endpoint = next((one for path, one in _ADDRESSES if re.fullmatch(path, environ["PATH_INFO"])), None)
    if endpoint is None:
        return answer(environ, start_response)
    with controls.request(endpoint) as fault:
        if fault is None:
            return answer(environ, start_response)
        return _failed(fault, controls, endpoint, environ, start_response)


def _failed(
    fault: Fault, controls: Controls, endpoint: Endpoint, environ: Mapping[str, Any], start_response: StartResponse
) -> Iterable[bytes]:
    json = ("Content-Type", "application/json")
    match fault:
        case Failing.HANG:
            controls.wait_out(endpoint)
            return _said("503 Fault", [json], [b'{"error": {"id": "temporaryFailure"}}'], start_response)
        case Failing.DISCONNECT:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError("This answer is lost on purpose.")
        case Failing.HTML:
            page = [b"<!doctype html><title>Maintenance</title><p>Back soon."]
            return _said("200 OK", [("Content-Type", "text/html")], page, start_response)
        case Failing.TRICKLE:
            return _said("200 OK", [json], _trickle(), start_response)
        case Failing.ENDLESS:
            return _said("200 OK", [json], _endless(), start_response)
        case Failing.REDIRECT:
            # An address that is reserved for examples (RFC 6761): nobody answers there.
            return _said("302 Found", [("Location", "https://datahub.example.org/")], [], start_response)
        case Failing.NONSENSE:
            return _said("200 OK", [json], [b'{"spaces": {"a": 1}, "providers": 7, "token": ["x"]}'], start_response)
        case Failing.NOT_JSON:
            return _said("200 OK", [json], [b'{"spaces": ['], start_response)
        case int():
            return _said(f"{fault} Fault", [json], [b'{"error": {"id": "internalServerError"}}'], start_response)


def _said(
    status: str, headers: list[tuple[str, str]], body: Iterable[bytes], start_response: StartResponse
) -> Iterable[bytes]:
    start_response(status, headers)
    return body


def _trickle() -> Iterator[bytes]:
    for _ in range(6000):
        yield b" "
        time.sleep(0.1)  # It is the fault itself: an answer that comes byte by byte, in a thread of its own.


def _endless() -> Iterator[bytes]:
    yield b'{"spaces": ["'
    for _ in range(10_000):
        yield b"0" * 65_536
