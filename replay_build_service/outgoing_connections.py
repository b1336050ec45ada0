"""Connections of httpcore's, lent to one request each and kept for the next one to the same origin.

In the place of httpcore's own pool, which at each request and each answer looks at all connections, and for each idle one at all of them
again: with fifty at a time that takes several times as long as asking. Here, nothing but the connection at hand is looked at.

This room knows neither what may be asked nor what is asked.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, cast

import httpcore

__all__ = ["KEPT_SECONDS", "Connections"]

KEPT_SECONDS = 5.0
"""For which a connection without a request is kept."""

_Key = tuple[bytes, bytes, int]


class Connections:
    """At most ``most`` of them in use at one time, and as many kept.

    ``connect`` makes one to an origin, which is to expire `KEPT_SECONDS` after its last use.
    """

    def __init__(self, connect: Callable[[httpcore.Origin], httpcore.AsyncHTTPConnection], most: int) -> None:
        self._connect = connect
        self._room = asyncio.Semaphore(most)
        self._most = most
        self._idle: OrderedDict[httpcore.AsyncHTTPConnection, _Key] = OrderedDict()
        """The one that is idle for longest first."""
        self._idle_of: defaultdict[_Key, list[httpcore.AsyncHTTPConnection]] = defaultdict(list)

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        """The answer, whose connection is lent until the answer is closed. Raises what httpcore raises."""
        await self._enter(request)
        try:
            key = (request.url.scheme, request.url.host, request.url.origin.port)
            connection = await self._kept(key) or self._connect(request.url.origin)
            try:
                answer = await connection.handle_async_request(request)
            except BaseException:
                await connection.aclose()
                raise
        except BaseException:
            self._room.release()
            raise
        lent = _Lent(answer, lambda: self._give_back(key, connection))
        extensions = cast("dict[str, Any]", answer.extensions)  # pyright: ignore[reportUnknownMemberType] - httpcore leaves it open
        return httpcore.Response(answer.status, headers=answer.headers, content=lent, extensions=extensions)

    async def aclose(self) -> None:
        """Ends those that are kept; one that is lent ends when it comes back."""
        self._most = 0
        await self._drop_oldest(0)

    async def _enter(self, request: httpcore.Request) -> None:
        try:
            timeouts = cast("Mapping[str, float | None]", request.extensions.get("timeout", {}))
            async with asyncio.timeout(timeouts.get("pool")):
                await self._room.acquire()
        except TimeoutError as error:
            raise httpcore.PoolTimeout("All connections are in use.") from error

    async def _kept(self, key: _Key) -> httpcore.AsyncHTTPConnection | None:
        while self._idle and next(iter(self._idle)).has_expired():
            await self._drop_oldest(len(self._idle) - 1)
        while key in self._idle_of:
            connection = self._taken(key, -1)  # the last one, whose peer is least likely to have left
            if connection.is_available() and not connection.has_expired():
                return connection
            await connection.aclose()
        return None

    async def _give_back(self, key: _Key, connection: httpcore.AsyncHTTPConnection) -> None:
        self._room.release()
        if not connection.is_idle():
            await connection.aclose()
            return
        self._idle[connection] = key
        self._idle_of[key].append(connection)
        await self._drop_oldest(self._most)

    async def _drop_oldest(self, most: int) -> None:
        while len(self._idle) > most:
            await self._taken(self._idle[next(iter(self._idle))], 0).aclose()

    def _taken(self, key: _Key, which: int) -> httpcore.AsyncHTTPConnection:
        kept = self._idle_of[key]
        connection = kept.pop(which)
        if not kept:
            del self._idle_of[key]
        del self._idle[connection]
        return connection


class _Lent:
    """An answer's body. Closing it gives the connection back, once."""

    def __init__(self, answer: httpcore.Response, give_back: Callable[[], Awaitable[None]]) -> None:
        self._answer = answer
        self._give_back: Callable[[], Awaitable[None]] | None = give_back

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._answer.aiter_stream():
            yield part

    async def aclose(self) -> None:
        give_back, self._give_back = self._give_back, None
        if give_back is None:
            return
        try:
            await self._answer.aclose()
        finally:
            await give_back()
