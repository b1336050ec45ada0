"""Following streams of events: one reader per stream and process, any number of watchers.

The database is the one source: a reader fetches each event once, encodes it once, and its watchers share the frames.
A watcher holds a cursor and no task, thread or queue of its own, so a slow one slows only itself, and one that comes
back with the last sequence number it saw misses nothing and gets nothing twice.

No database, web or builder may come in here: the store is known by a protocol, and frames are opaque bytes.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Protocol

from replay_build_service.domain import Event, StreamPage

log = logging.getLogger(__name__)

PAGE = 500
"""Events read at once."""

WINDOW = 5000
"""Frames that a reader keeps in memory; a watcher that is further behind reads pages of its own."""

WINDOW_BYTES = 8 * 1024**2
"""Of those frames together: a build may print long lines."""

FAREWELL_SECONDS = 2.0
"""How long watchers may take to leave when the process ends."""

POLL_SECONDS = 1.0
"""How often a reader looks without being told: another replica may write the stream."""


class EventStore(Protocol):
    async def read_events(self, stream: str, after: int, limit: int) -> StreamPage: ...


Encoder = Callable[[str, Event], bytes]
"""From a stream's name and an event to a frame."""


class _Reader:
    """The one place in this process that reads a stream."""

    def __init__(self, after: int) -> None:
        self.first = after + 1
        """The sequence of ``frames[0]``."""
        self.frames: list[bytes] = []
        self.size = 0
        """Bytes of all ``frames``."""
        self.finished = False
        self.watchers = 0
        self.stored = asyncio.Event()
        """Something was stored: look now."""
        self.changed = asyncio.Event()
        """Frames were added; replaced each time, so that all who waited go on."""

    @property
    def last(self) -> int:
        return self.first + len(self.frames) - 1

    def add(self, stream: str, page: StreamPage, encode: Encoder) -> None:
        added = [encode(stream, event) for event in page.events]
        self.frames.extend(added)
        self.size += sum(map(len, added))
        surplus = max(0, len(self.frames) - WINDOW)
        self.size -= sum(map(len, self.frames[:surplus]))
        while self.size > WINDOW_BYTES:
            self.size -= len(self.frames[surplus])
            surplus += 1
        del self.frames[:surplus]
        self.first += surplus
        self.finished = page.finished
        if page.events or page.finished:
            self.wake()

    def wake(self) -> None:
        """Have all who wait look again."""
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()


class EventFeed:
    """All streams that somebody in this process watches."""

    def __init__(self, store: EventStore, encode: Encoder, tasks: asyncio.TaskGroup) -> None:
        self._store = store
        self._encode = encode
        self._tasks = tasks
        self._readers: dict[str, _Reader] = {}
        self._watchers = 0
        self._nobody_watches = asyncio.Event()
        self.has_ended = False

    async def end(self) -> None:
        """The process ends: every watcher's stream does too, so that it is closed in good order and asked for elsewhere.

        A proxy in between may never tell a watcher of a connection that was just cut. A slow watcher is not waited for.
        """
        self.has_ended = True
        for reader in self._readers.values():
            reader.wake()
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                while self._watchers:
                    self._nobody_watches.clear()
                    await self._nobody_watches.wait()

    def notify(self, stream: str) -> None:
        """Events of this stream were stored: its reader, if there is one, looks at once."""
        if reader := self._readers.get(stream):
            reader.stored.set()

    async def follow(self, stream: str, after: int = 0, idle_seconds: float = 25.0) -> AsyncGenerator[list[bytes]]:
        """Frames with a sequence above ``after``, as they come; ends when the stream has finished.

        An empty list after each ``idle_seconds`` without an event, so that a connection can be kept alive. A position
        that the stream never had means nothing: it is followed from its start. Close the generator to leave early.
        """
        cursor = await self._known_position(stream, after)
        if self.has_ended:
            return
        reader = self._readers.get(stream)
        if reader is None:
            reader = self._readers[stream] = _Reader(cursor)
            self._tasks.create_task(self._read(stream, reader), name=f"reader of {stream}")
        reader.watchers += 1
        self._watchers += 1
        try:
            while not self.has_ended:
                changed = reader.changed
                if cursor + 1 < reader.first:
                    page = await self._page(stream, cursor, PAGE)
                    frames = [self._encode(stream, event) for event in page.events]
                else:
                    frames = reader.frames[cursor + 1 - reader.first :][:PAGE]
                if frames:
                    cursor += len(frames)
                    yield frames
                elif reader.finished:
                    return
                else:
                    try:
                        async with asyncio.timeout(idle_seconds):
                            await changed.wait()
                    except TimeoutError:
                        yield []
        finally:
            reader.watchers -= 1
            reader.stored.set()
            self._watchers -= 1
            self._nobody_watches.set()

    async def _known_position(self, stream: str, after: int) -> int:
        """``after``, or 0 where the stream has not come so far: a reader that began there would keep all others waiting."""
        reader = self._readers.get(stream)
        if after <= 0 or (reader is not None and reader.first <= after <= reader.last):
            return max(after, 0)
        return after if (await self._page(stream, after - 1, 1)).events else 0

    async def _page(self, stream: str, after: int, limit: int) -> StreamPage:
        """A page of a watcher's own. A database that does not answer now is asked again, as by the reader."""
        while True:
            try:
                return await self._store.read_events(stream, after, limit)
            except Exception:
                # As in `_read`: whoever waits for a stream waits a little longer.
                log.exception("Could not read %s; trying again", stream)
                await asyncio.sleep(POLL_SECONDS)

    async def _read(self, stream: str, reader: _Reader) -> None:
        try:
            while not reader.finished and reader.watchers:
                reader.stored.clear()
                try:
                    page = await self._store.read_events(stream, reader.last, PAGE)
                except Exception:
                    # A database that does not answer now must not end the service: its watchers wait, and it is asked again.
                    log.exception("Could not read %s; trying again", stream)
                else:
                    reader.add(stream, page, self._encode)
                    if len(page.events) == PAGE or page.finished:
                        continue
                try:
                    async with asyncio.timeout(POLL_SECONDS):
                        await reader.stored.wait()
                except TimeoutError:
                    continue
        finally:
            if self._readers.get(stream) is reader:
                del self._readers[stream]
