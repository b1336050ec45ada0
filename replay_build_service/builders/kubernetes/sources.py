"""What is followed of a build's pod, in one queue: its states from one watch, its log from one follower."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial

from replay_build_service.builders.base import LogRecord
from replay_build_service.builders.detached.log import MAX_RECORDS, parse_records
from replay_build_service.builders.kubernetes import places
from replay_build_service.builders.kubernetes.client import Cluster, ClusterFault, PodSeen
from replay_build_service.builders.kubernetes.pods import LOG

log = logging.getLogger(__name__)

_MOST_WAITING = 32
"""Items of the queue. Whoever reads slowly slows only the follower, and through it the connection."""

_LONGEST_RECORD = 256 * 1024
"""Bytes. A line that goes on for longer is none of the builder's, and is not kept in memory until it ends."""

_AGAIN_SECONDS = 0.5
_MOST_FAULTS = 5


@dataclass(frozen=True, slots=True)
class LogEnded:
    """The log's follower has ended although the log may go on."""


@dataclass(frozen=True, slots=True)
class Broken:
    """One of the tasks made a mistake of ours."""

    error: BaseException


class LogTooLong(Exception):
    """There is more of the log than a runner that keeps to its limit can have written."""


class LinesLost(Exception):
    """Some of the log is nowhere any more."""


class LogText:
    """Bytes of a log in, whole records out."""

    def __init__(self, offset: int, most: int | None = None) -> None:
        self._most = most
        """Bytes of a log that is still one."""
        self.offset = offset
        """The byte after the last whole record."""
        self.last: LogRecord | None = None
        """The last record that came out of it."""
        self._pending = b""

    def feed(self, data: bytes) -> Iterator[list[LogRecord]]:
        """The records that these bytes complete; what is yielded is what ``offset`` counts. Raises `LogTooLong`."""
        if self._most is not None and self.offset + len(self._pending) + len(data) > self._most:
            raise LogTooLong
        self._pending += data
        while (parsed := parse_records(self._pending))[1]:
            records, length = parsed
            self._pending, self.offset = self._pending[length:], self.offset + length
            self.last = records[-1] if records else self.last
            yield records
        if len(self._pending) > _LONGEST_RECORD:
            # The build could reach the file. Whatever ends this line is passed over as no record.
            self.offset += len(self._pending)
            self._pending = b""

    @property
    def pending(self) -> int:
        """Bytes that wait for the end of their line."""
        return len(self._pending)

    def rewind(self) -> None:
        """What comes next begins at ``offset`` again."""
        self._pending = b""


class Sources:
    """Owns the tasks that follow one pod; `close` ends them."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster = cluster
        self._name = name
        self._queue: asyncio.Queue[PodSeen | bytes | LogEnded | Broken] = asyncio.Queue(_MOST_WAITING)
        self._watch = self._run(self._watch_pod)
        self._log: asyncio.Task[None] | None = None

    async def next(self, seconds: float | None) -> PodSeen | bytes | LogEnded | None:
        """What comes next; ``None`` where nothing comes within this time."""
        try:
            async with asyncio.timeout(seconds):
                item = await self._queue.get()
        except TimeoutError:
            return None
        if isinstance(item, Broken):
            raise item.error
        return item

    def read_log(self, offset: int) -> None:
        """Follow the log from there on, unless it is followed already."""
        if self._log is None or self._log.done():
            self._log = self._run(partial(self._follow_log, offset))

    async def close(self) -> None:
        """End the tasks."""
        tasks = [task for task in (self._watch, self._log) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _run(self, what: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        async def guarded() -> None:
            try:
                await what()
            except Exception as error:  # noqa: BLE001  it is raised where the queue is read
                await self._queue.put(Broken(error))

        return asyncio.create_task(guarded(), name=f"following {self._name}")

    async def _watch_pod(self) -> None:
        async for seen in self._cluster.watch_pod(self._name):
            await self._queue.put(seen)

    async def _follow_log(self, offset: int) -> None:
        command = ("tail", f"--bytes=+{offset + 1}", "--follow=name", "--retry", places.LOG_FILE)
        try:
            async for data in self._cluster.execute(self._name, LOG, command):
                await self._queue.put(data)
        except ClusterFault as fault:
            log.info("The log of %s is followed anew: %s", self._name, fault.detail)
            await asyncio.sleep(_AGAIN_SECONDS)
        await self._queue.put(LogEnded())


async def rest_of_log(cluster: Cluster, name: str, text: LogText) -> AsyncIterator[list[LogRecord]]:
    """What the log has behind ``text``, after the builder has ended. Raises `ClusterFault` where that cannot be had."""
    command = "tail", places.LOG_FILE
    faults = 0
    while True:
        before = text.offset
        text.rewind()
        try:
            async for data in cluster.execute(name, LOG, (*command, f"--bytes=+{before + 1}")):
                for records in text.feed(data):
                    yield records
        except ClusterFault:
            faults += 1
            if faults == _MOST_FAULTS:
                raise
            await asyncio.sleep(_AGAIN_SECONDS)
        else:
            # The last bytes of a command's output may be lost with its connection, so the end is what is empty.
            if text.offset == before:
                return


async def printed_rest(cluster: Cluster, name: str, text: LogText) -> AsyncIterator[list[LogRecord]]:
    """The same from what the node has kept of the log container's output. Raises `ClusterFault`, and `LinesLost` at the end
    where the node no longer has all that comes after ``text``.

    The node throws the oldest away, so how many bytes were read before does not say where to go on: the last record does.
    """
    last, is_found = text.last, text.offset == 0
    kept, later = LogText(0), list[LogRecord]()
    async for data in cluster.printed(name, LOG):
        for records in kept.feed(data):
            for record in records:
                if record == last:
                    is_found, later = True, []
                elif last is None or record.at >= last.at:
                    later.append(record)
    # After a restart of the service it is not known what the last one was: nothing is told twice then.
    for start in range(0, 0 if last is None and text.offset else len(later), MAX_RECORDS):
        batch = later[start : start + MAX_RECORDS]
        text.offset += len(batch)
        yield batch
    if not is_found:
        raise LinesLost
