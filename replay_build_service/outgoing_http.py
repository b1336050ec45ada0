"""httpx kept to the rule of `replay_build_service.outgoing`: every request, every hop of a redirect, every connection.

The transport admits each request anew, and its connections go to addresses that were checked for that very connection.
This room knows how httpx connects and nothing of what is asked: no provider, no git, no database. What may be reached
is not decided here.
"""

from __future__ import annotations

import ssl
import zlib
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any, cast

import httpcore
import httpx

from replay_build_service.outgoing import (
    DEFAULT_PORTS,
    Origin,
    OutgoingRules,
    Resolver,
    admit,
    certificate_file,
    checked_addresses,
    resolve_host,
)
from replay_build_service.outgoing_connections import KEPT_SECONDS, Connections

__all__ = ["PACKED", "GuardedTransport", "TooLongAnswer", "UnreadableAnswer", "guarded_client", "read_bounded"]

PACKED = {"Accept-Encoding": "gzip"}
"""Headers of a request whose answer `read_bounded` reads."""


def _ssl_context(rules: OutgoingRules) -> ssl.SSLContext:
    file = certificate_file(rules)
    return httpx.create_ssl_context() if file is None else ssl.create_default_context(cafile=file)


class _CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to a name's addresses only after all of them were looked at."""

    def __init__(self, rules: OutgoingRules, resolver: Resolver) -> None:
        self._rules = rules
        self._resolver = resolver
        # httpcore also declares a stand-in of this name, for installations that have no anyio; httpx requires anyio.
        self._sockets = cast("httpcore.AsyncNetworkBackend", cast("Callable[[], object]", httpcore.AnyIOBackend)())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        exempt = any(self._rules.is_exempt(Origin(scheme, host, port)) for scheme in DEFAULT_PORTS)
        addresses = await checked_addresses(host, port, self._resolver, any_address=exempt)
        failure: httpcore.ConnectError | httpcore.ConnectTimeout | None = None
        for address in addresses:
            try:
                return await self._sockets.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or httpcore.ConnectError(f"{host} has no address")

    async def sleep(self, seconds: float) -> None:
        await self._sockets.sleep(seconds)


class GuardedTransport(httpx.AsyncBaseTransport):
    """httpx over the rule of `outgoing`. Each request, so each hop of a redirect too, is admitted anew.

    Raises what `vet` raises and, for the rest, httpx's own errors.
    """

    def __init__(self, rules: OutgoingRules, *, resolver: Resolver = resolve_host, max_connections: int = 100) -> None:
        self._rules = rules
        context = _ssl_context(rules)
        backend = _CheckedBackend(rules, resolver)
        self._direct = Connections(
            lambda origin: httpcore.AsyncHTTPConnection(
                origin, ssl_context=context, keepalive_expiry=KEPT_SECONDS, network_backend=backend
            ),
            max_connections,
        )
        self._proxied = (
            None
            if rules.proxy is None
            else httpcore.AsyncHTTPProxy(rules.proxy, ssl_context=context, max_connections=max_connections)
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        origin = admit(str(request.url), self._rules)
        pool = self._direct if self._proxied is None or self._rules.is_exempt(origin) else self._proxied
        target = httpcore.URL(scheme=origin.scheme, host=origin.host, port=origin.port, target=request.url.raw_path)
        with _as_httpx_errors(request):
            answer = await pool.handle_async_request(
                httpcore.Request(
                    request.method,
                    target,
                    headers=request.headers.raw,
                    content=cast("httpx.AsyncByteStream", request.stream),  # the only kind that an AsyncClient sends
                    extensions=request.extensions,
                )
            )
        return httpx.Response(
            answer.status,
            headers=answer.headers,
            stream=_Body(answer, request),
            extensions=cast("dict[str, Any]", answer.extensions),  # pyright: ignore[reportUnknownMemberType] - httpcore leaves it open
        )

    async def aclose(self) -> None:
        await self._direct.aclose()
        if self._proxied is not None:
            await self._proxied.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, answer: httpcore.Response, request: httpx.Request) -> None:
        self._answer = answer
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx_errors(self._request):
            async for part in self._answer.aiter_stream():
                yield part

    async def aclose(self) -> None:
        await self._answer.aclose()


@contextmanager
def _as_httpx_errors(request: httpx.Request) -> Generator[None]:
    """httpx names its transport errors as httpcore does."""
    try:
        yield
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, httpcore.ProxyError) as error:
        kind = getattr(httpx, type(error).__name__, httpx.TransportError)
        raise cast("type[httpx.TransportError]", kind)(str(error), request=request) from error


class UnreadableAnswer(Exception):
    """It is packed otherwise than was asked for, or is damaged."""


class TooLongAnswer(UnreadableAnswer):
    """There is more than is read."""


async def read_bounded(response: httpx.Response, most: int) -> bytes:
    """A body of at most ``most`` bytes, unpacked where it came packed, of which never more is held.

    httpx's own ways of reading unpack all that has come at once, a thousand times as much or, packed twice, a million times. Raises
    `UnreadableAnswer`, `TooLongAnswer`, and what httpx raises where the connection breaks off.
    """
    codings = [one.lower() for one in response.headers.get_list("Content-Encoding", split_commas=True) if one]
    codings = [one for one in codings if one != "identity"]
    if codings not in ([], ["gzip"], ["x-gzip"]):
        raise UnreadableAnswer(", ".join(codings)[:100])
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16) if codings else None
    body = bytearray()
    try:
        async for part in response.aiter_raw():
            # One byte more than there may be, so that this is noticed.
            body += part if unpacker is None else unpacker.decompress(part, most + 1 - len(body))
            if len(body) > most:
                raise TooLongAnswer
    except zlib.error as error:
        raise UnreadableAnswer(str(error)) from error
    if unpacker is not None and (not unpacker.eof or unpacker.unused_data):
        raise UnreadableAnswer("gzip")
    return bytes(body)


def guarded_client(
    rules: OutgoingRules, *, resolver: Resolver = resolve_host, timeout: float = 10.0
) -> httpx.AsyncClient:
    """An HTTP client that keeps the rule: nothing from the environment, and no redirect followed unless a call asks for it.

    httpx then drops ``Authorization`` where the host changes; other headers with secrets belong on no redirected request.
    """
    return httpx.AsyncClient(
        transport=GuardedTransport(rules, resolver=resolver),
        trust_env=False,
        follow_redirects=False,
        max_redirects=5,
        timeout=timeout,
        headers={"User-Agent": "replay-build-service"},
    )
