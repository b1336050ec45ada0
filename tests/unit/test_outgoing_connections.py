"""Connections are used again, are never more than there may be, and come back however their use ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpcore
import pytest

from replay_build_service.outgoing_connections import KEPT_SECONDS, Connections

pytestmark = pytest.mark.hub_independent


@dataclass
class Site:
    """A server that answers when it is let, and knows its connections."""

    port: int = 0
    let: asyncio.Event = field(default_factory=asyncio.Event)
    came: asyncio.Queue[None] = field(default_factory=asyncio.Queue[None])
    """One for each request."""
    writers: list[asyncio.StreamWriter] = field(default_factory=list[asyncio.StreamWriter])
    ended: asyncio.Queue[None] = field(default_factory=asyncio.Queue[None])
    """One for each connection."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.came.put_nowait(None)
                await self.let.wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # whoever asked has left
        writer.close()
        self.ended.put_nowait(None)


@asynccontextmanager
async def serving() -> AsyncGenerator[Site]:
    site = Site()
    site.let.set()
    server = await asyncio.start_server(site.serve, "127.0.0.1", 0)
    site.port = server.sockets[0].getsockname()[1]
    async with server:
        yield site
        site.let.set()
        for writer in site.writers:
            writer.close()
        for _ in site.writers:
            await site.ended.get()


def connections(most: int = 5, kept: float = KEPT_SECONDS) -> Connections:
    return Connections(lambda origin: httpcore.AsyncHTTPConnection(origin, keepalive_expiry=kept), most)


async def answer(to: Connections, port: int, *, pool_timeout: float | None = None) -> httpcore.Response:
    url = httpcore.URL(scheme="http", host="127.0.0.1", port=port, target="/")
    extensions = {"timeout": {"pool": pool_timeout}}
    return await to.handle_async_request(
        httpcore.Request("GET", url, headers=[("Host", "127.0.0.1")], extensions=extensions)
    )


async def ask(to: Connections, port: int) -> int:
    response = await answer(to, port)
    length = 0
    async for part in response.aiter_stream():
        length += len(part)
    await response.aclose()
    await response.aclose()  # a second time gives nothing back
    return length


async def test_one_request_after_the_other_takes_one_connection() -> None:
    async with serving() as site:
        to = connections()
        assert [await ask(to, site.port) for _ in range(5)] == [100_000] * 5
        assert len(site.writers) == 1
        await to.aclose()
        await site.ended.get()
        site.ended.put_nowait(None)


async def test_there_are_no_more_than_there_may_be_and_who_waits_is_served() -> None:
    async with serving() as site:
        to = connections(most=2)
        site.let.clear()
        asking = [asyncio.create_task(ask(to, site.port)) for _ in range(6)]
        for _ in range(2):
            await site.came.get()
        with pytest.raises(httpcore.PoolTimeout):
            await answer(to, site.port, pool_timeout=0.05)
        assert len(site.writers) == 2
        site.let.set()
        assert await asyncio.gather(*asking) == [100_000] * 6
        assert len(site.writers) == 2
        await to.aclose()


async def test_each_origin_has_its_own_and_together_no_more_are_kept_than_there_may_be() -> None:
    async with serving() as one, serving() as other:
        to = connections(most=1)
        for site in (one, other, one):
            assert await ask(to, site.port) == 100_000
        await asyncio.gather(one.ended.get(), other.ended.get())
        assert (len(one.writers), len(other.writers)) == (2, 1)
        for site in (one, other):
            site.ended.put_nowait(None)
        await to.aclose()


async def test_one_that_the_server_has_ended_or_that_is_too_old_is_not_used() -> None:
    async with serving() as site:
        to = connections()
        await ask(to, site.port)
        site.writers[0].close()
        await site.writers[0].wait_closed()
        assert await ask(to, site.port) == 100_000
        assert len(site.writers) == 2
        await to.aclose()
        old = connections(kept=-1.0)
        for _ in range(2):
            assert await ask(old, site.port) == 100_000
        assert len(site.writers) == 4
        await old.aclose()


async def test_who_leaves_gives_the_place_back() -> None:
    async with serving() as site:
        to = connections(most=1)
        site.let.clear()
        leaving = asyncio.create_task(ask(to, site.port))
        await site.came.get()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        site.let.set()
        assert await ask(to, site.port) == 100_000
        assert len(site.writers) == 2, "the first was in the middle of an answer"
        await to.aclose()


async def test_an_answer_that_was_not_read_to_its_end_ends_its_connection() -> None:
    async with serving() as site:
        to = connections(most=1)
        await (await answer(to, site.port)).aclose()
        assert await ask(to, site.port) == 100_000
        assert len(site.writers) == 2
        await to.aclose()


async def test_where_nobody_listens_the_place_is_given_back() -> None:
    async with serving() as gone:
        port = gone.port
    async with serving() as site:
        to = connections(most=1)
        for _ in range(2):
            with pytest.raises(httpcore.ConnectError):
                await answer(to, port, pool_timeout=1.0)
        assert await ask(to, site.port) == 100_000
        await to.aclose()


async def test_one_that_comes_back_after_the_end_is_not_kept() -> None:
    async with serving() as site:
        to = connections()
        response = await answer(to, site.port)
        await to.aclose()
        async for _ in response.aiter_stream():
            pass
        await response.aclose()
        await site.ended.get()
        site.ended.put_nowait(None)
