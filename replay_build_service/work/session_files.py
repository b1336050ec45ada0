"""The files of a session that runs, over Jupyter Server's contents API and its ``/files/``.

https://jupyter-server.readthedocs.io/en/latest/developers/contents.html. Listings come by ``api/contents``; content by ``/files/``,
which Jupyter's own contents managers send from the disk piece by piece, where ``api/contents`` would hold a whole file in memory.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import quote

import httpx
from pydantic import AwareDatetime, BaseModel, ValidationError

from replay_build_service.schemas import ReadingModel

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 60.0
"""How long a session may send nothing where something is due."""
LISTING_SECONDS = 60.0
"""For one folder's listing, whole."""
MOST_LISTING_BYTES = 4 * 1024**2
"""Of one folder's listing: some 15,000 names."""

Path = tuple[str, ...]
"""Names from the session's folder down, as the session has them."""


class Unreadable(Exception):
    """A file or a folder that the session does not give; the text says why, without its name and without a full stop."""


class SessionSilent(Unreadable):
    """The session does not answer, or stopped in the middle of an answer."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a folder has, by the session's word."""

    name: str
    is_folder: bool
    size: int | None = None
    modified: datetime | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """What is in a folder; ``unnamed`` counts what has no usable name or kind."""

    entries: Sequence[Entry]
    unnamed: int = 0


class SessionFiles(Protocol):
    """Where files are read. All raise `Unreadable` or `SessionSilent`."""

    async def listing(self, folder: Path) -> Listing: ...

    def content(self, file: Path) -> AsyncGenerator[bytes]: ...


class _EntryModel(BaseModel):
    name: str
    type: str
    size: int | None = None
    last_modified: AwareDatetime | None = None


class JupyterFiles:
    """One session's files. ``reading`` asks for a way in to it, again and again while that grows old.

    Use as an asynchronous context manager.
    """

    def __init__(
        self, reading: Callable[[], Awaitable[ReadingModel]], *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._reading = reading
        self._current: ReadingModel | None = None
        self._renew_at = 0.0
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=2),
            # What comes compressed may be a thousand times as much: it is not asked for, and not unpacked.
            headers={"Accept-Encoding": "identity"},
            # Nor is anything kept that the session would have sent back.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            transport=transport,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def listing(self, folder: Path) -> Listing:
        """What is in a folder, without what Jupyter hides."""
        address = "/".join(["api/contents", *(_segment(name) for name in folder)])
        body = bytearray()
        try:
            # In all: a session could send a byte now and then for ever.
            async with (
                asyncio.timeout(LISTING_SECONDS),
                self._asked(address, {"type": "directory", "content": "1"}) as response,
            ):
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > MOST_LISTING_BYTES:
                        raise Unreadable("it has too many files to list them")
        except TimeoutError as error:
            raise SessionSilent("the session did not say in time what is there") from error
        # Of a large folder that takes long enough for everybody else to notice.
        return await asyncio.to_thread(_listing_of, bytes(body))

    async def content(self, file: Path) -> AsyncGenerator[bytes]:
        """A file's content, piece by piece, until it ends."""
        address = "/".join(["files", *(_segment(name) for name in file)])
        async with self._asked(address, {}) as response:
            # As it comes: waiting for whole pieces, one would wait for a slow session without a limit.
            async for chunk in response.aiter_raw():
                yield chunk

    @asynccontextmanager
    async def _asked(self, address: str, query: dict[str, str]) -> AsyncGenerator[httpx.Response]:
        """The answer to a GET, where it is the one that was asked for."""
        reading = await self._way_in()
        try:
            url = httpx.URL(reading.url).join(address)
            headers = {"Authorization": f"token {reading.token}"}
            async with self._client.stream("GET", url, params=query, headers=headers) as response:
                _refuse(response)
                yield response
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise SessionSilent("the session stopped answering in time") from error
        except httpx.InvalidURL as error:
            raise Unreadable("it has a name that cannot be asked for") from error

    async def _way_in(self) -> ReadingModel:
        if self._current is None or time.monotonic() >= self._renew_at:
            self._current = await self._reading()
            self._renew_at = time.monotonic() + self._current.seconds / 2
        return self._current


def _segment(name: str) -> str:
    return quote(name, safe="", errors="surrogateescape")


def _refuse(response: httpx.Response) -> None:
    match response.status_code:
        case 200:
            pass
        case 401 | 403:
            raise Unreadable("the session does not let it be read")
        case 404:
            raise Unreadable("it is not there any more")
        case code:
            raise Unreadable(f"the session answered {code}")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Unreadable("the session sent it in a form that was not asked for")


def _listing_of(body: bytes) -> Listing:
    """The usable entries of a folder's model. Each is looked at by itself: a name that is no text spoils only its own."""
    try:
        # Not pydantic's parser: that refuses the whole for a name with bytes that are no text.
        model: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise Unreadable("the session's answer was not understood") from None
    content: Any = model.get("content") if isinstance(model, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - anything at all
    if not isinstance(content, list):
        raise Unreadable("the session's answer was not understood")
    entries: list[Entry] = []
    unnamed = 0
    one: Any
    for one in content:  # pyright: ignore[reportUnknownVariableType] - each is looked at
        try:
            entry = _EntryModel.model_validate(one)
        except ValidationError:
            unnamed += 1
            continue
        if not _is_a_name(entry.name):
            unnamed += 1
            continue
        entries.append(Entry(entry.name, entry.type == "directory", entry.size, entry.last_modified))
    return Listing(tuple(entries), unnamed)


def _is_a_name(name: str) -> bool:
    try:
        name.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return False
    return name not in {"", ".", ".."} and "/" not in name and "\0" not in name
