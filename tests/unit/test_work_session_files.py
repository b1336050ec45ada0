"""Reading a session that is a stranger's program: over real connections, from something that answers as it likes."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from replay_build_service.schemas import ReadingModel
from replay_build_service.work import JupyterFiles, SessionSilent, Unreadable, session_files

pytestmark = pytest.mark.hub_independent


def http(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def listed(*entries: Any) -> bytes:
    return http(json.dumps({"type": "directory", "content": entries}).encode())


@asynccontextmanager
async def session(
    answers: Mapping[str, bytes] | Callable[[str], bytes],
) -> AsyncIterator[tuple[JupyterFiles, list[str]]]:
    """Answers each path with these bytes and closes the connection; which requests came, as they came."""
    requests: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        requests.append(head)
        path = head.split(" ")[1].partition("?")[0].removeprefix("/user/ada/")
        writer.write(answers(path) if callable(answers) else answers[path])
        await writer.drain()
        writer.close()

    async def reading() -> ReadingModel:
        readings.append(len(readings))
        return ReadingModel(url=f"http://127.0.0.1:{port}/user/ada/", token=f"way-{len(readings)}", seconds=600)

    readings: list[int] = []
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, JupyterFiles(reading) as files:
        yield files, requests


async def read(files: JupyterFiles, *path: str) -> bytes:
    return b"".join([chunk async for chunk in files.content(path)])


async def test_a_session_is_asked_as_jupyter_has_it_and_for_nothing_compressed() -> None:
    entry = {"name": "a b#?.txt", "type": "file", "size": 3, "last_modified": "2026-03-04T12:30:20.5Z", "path": "lies"}
    answers = {
        "api/contents": listed(entry),
        "api/contents/d%2Fx/%C3%BC": listed(),
        "files/d/a%20b%23%3F.txt": http(b"abc"),
    }
    async with session(answers) as (files, requests):
        (found,) = (await files.listing(())).entries
        assert (found.name, found.is_folder, found.size) == ("a b#?.txt", False, 3)
        assert found.modified is not None
        assert await read(files, "d", found.name) == b"abc"
        assert (await files.listing(("d/x", "ü"))).entries == ()
    assert requests[0].startswith("GET /user/ada/api/contents?type=directory&content=1 ")
    for request in requests:
        assert "authorization: token way-1\r\n" in request.lower()
        assert "accept-encoding: identity\r\n" in request.lower()


async def test_what_a_session_would_have_sent_back_is_not() -> None:
    async with session(lambda _: http(b"", "Set-Cookie: a=b; Path=/")) as (files, requests):
        for _ in range(2):
            await read(files, "x")
    assert len(requests) == 2
    assert "cookie" not in requests[1].lower()


async def test_names_that_are_none_spoil_only_their_own() -> None:
    # The last but one is a name of bytes that are no text, as Python has it.
    names = ["", ".", "..", "a/b", "/etc", "nul\0", "\ud800", 7, None, {"x": 1}, "caf\udce9", "fine"]
    entries = [*({"name": name, "type": "file"} for name in names), "no model", {"type": "file"}]
    answers = {"api/contents": listed(*entries), "files/caf%E9": http(b"text")}
    async with session(answers) as (files, _):
        listing = await files.listing(())
        assert await read(files, "caf\udce9") == b"text"
    assert [entry.name for entry in listing.entries] == ["caf\udce9", "fine"]
    assert listing.unnamed == len(entries) - 2


NO_LISTINGS = {
    "no JSON": b"<html>",
    "nested without end": b"[" * 100_000,
    "another shape": b"[1]",
    "no content": b'{"content": null}',
    "a file": b'{"type": "file", "content": "text"}',
    "no text": b"\xff\xfe\xfd",
}


@pytest.mark.parametrize("body", NO_LISTINGS.values(), ids=NO_LISTINGS)
async def test_what_is_no_listing_is_not_understood(body: bytes) -> None:
    async with session({"api/contents": http(body)}) as (files, _):
        with pytest.raises(Unreadable, match="was not understood"):
            await files.listing(())


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ("302 Found", "answered 302"),
        ("401 Unauthorized", "does not let it be read"),
        ("403 Forbidden", "does not let it be read"),
        ("404 Not Found", "not there any more"),
        ("500 Oh", "answered 500"),
        ("206 Partial Content", "answered 206"),
    ],
)
async def test_what_a_session_refuses_is_told_and_no_redirect_is_followed(status: str, told: str) -> None:
    async with session(lambda _: http(b"", "Location: http://127.0.0.1:1/", status=status)) as (files, requests):
        with pytest.raises(Unreadable, match=told) as raised:
            await read(files, "x")
        assert not isinstance(raised.value, SessionSilent)
        assert len(requests) == 1


async def test_what_comes_compressed_although_not_asked_for_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(20 * 1024**2))
    async with session(lambda _: http(bomb, "Content-Encoding: gzip")) as (files, _):
        for asked in (read(files, "x"), files.listing(())):
            with pytest.raises(Unreadable, match="not asked for"):
                await asked


SILENCES = {
    "less than it said": http(b"abc", length=10),
    "nothing at all": b"",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a head without end": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000,
    "chunks that are none": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
}


@pytest.mark.parametrize("answer", SILENCES.values(), ids=SILENCES)
async def test_an_answer_that_breaks_off_is_no_answer(answer: bytes) -> None:
    async with session(lambda _: answer) as (files, _):
        for asked in (read(files, "x"), files.listing(())):
            with pytest.raises(SessionSilent):
                await asked


async def test_a_session_that_says_nothing_is_waited_for_in_vain_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_files, "SILENCE_SECONDS", 0.2)
    held = asyncio.Event()

    async def never(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await held.wait()
        writer.close()

    async def reading() -> ReadingModel:
        return ReadingModel(url=f"http://127.0.0.1:{port}/", token="t", seconds=600)

    server = await asyncio.start_server(never, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, JupyterFiles(reading) as files:
        with pytest.raises(SessionSilent):
            await files.listing(())
        held.set()


async def test_a_listing_without_end_is_not_held_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_files, "MOST_LISTING_BYTES", 100_000)
    async with session(lambda _: http(b" " * 5_000_000)) as (files, _):
        with pytest.raises(Unreadable, match="too many files"):
            await files.listing(())


async def test_a_way_in_is_asked_for_again_before_it_ends() -> None:
    asked = 0

    async def reading() -> ReadingModel:
        nonlocal asked
        asked += 1
        return ReadingModel(url=f"http://127.0.0.1:{port}/", token=f"way-{asked}", seconds=0 if asked == 1 else 600)

    seen: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(
            (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("authorization: token ")[1].split("\r")[0]
        )
        writer.write(listed())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, JupyterFiles(reading) as files:
        for _ in range(3):
            await files.listing(())
    assert seen == ["way-1", "way-2", "way-2"]
