"""Server-sent events of launches and builds.

A launch's stream is three parts, one after the other: its own events before the build (ids ``w…``), the build's
(``b…``), and its own from then on (``l…``). Where somebody else cancelled the build while the launch joined it, the
launch's next build follows, and of the first no failure is told. An id tells the part and the sequence number in it, so that
``Last-Event-ID`` resumes without a gap or a repeat.
"""

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import takewhile

from tornado import web
from tornado.iostream import StreamClosedError

from replay_build_service.domain import (
    BuildId,
    BuildStatus,
    Event,
    LaunchId,
    Phase,
    build_stream,
    launch_stream,
)
from replay_build_service.web.base import ApiHandler

log = logging.getLogger(__name__)

ALIVE_SECONDS = 10.0
"""How often a quiet stream says that it is alive."""

ALIVE = b"event: alive\ndata:\n\n"
"""An event and not a comment, so that a page's script sees it: a proxy may keep a connection open whose other end is dead."""

_ID = re.compile(r"([wbl])(\d{1,12})")


def encode_event(stream: str, event: Event) -> bytes:
    """An event as a frame of ``text/event-stream``; BinderHub's ``phase`` and ``message`` in its data."""
    part = "b" if stream.startswith("build:") else "w" if event.phase is Phase.WAITING else "l"
    data = {"phase": event.phase, "kind": event.kind, "message": event.text, "at": event.at.timestamp()}
    if event.phase is Phase.READY and part != "b":
        data |= {"message": "Your server is ready.", "url": event.text}
    return f"id: {part}{event.sequence}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode(errors="replace")


class _StreamHandler(ApiHandler):
    """Writes frames as they come; a reader that is slow or gone concerns nobody else."""

    _task: "asyncio.Task[None] | None" = None

    def on_connection_close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def send(self, frames: AsyncGenerator[list[bytes]]) -> None:
        """Answer with these frames to their end, or to the watcher's. Raises 429 where the person follows too many."""
        with self.site.stream_limit.held(self.person.name):
            await self._send(frames)

    async def _send(self, frames: AsyncGenerator[list[bytes]]) -> None:
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("X-Accel-Buffering", "no")
        self._task = asyncio.current_task()
        try:
            await self.flush()
            async with aclosing(frames):
                async for batch in frames:
                    self.write(b"".join(batch) if batch else ALIVE)
                    await self.flush()
        except (StreamClosedError, asyncio.CancelledError):
            log.debug("A watcher of %s left", self.request.path)
            raise web.Finish() from None
        finally:
            self._task = None

    def last_seen(self) -> tuple[str, int]:
        """Part and sequence of the last event that this watcher has; ``("w", 0)`` for the very start."""
        text = self.request.headers.get("Last-Event-ID") or self.get_query_argument("after", "")
        found = _ID.fullmatch(text)
        return (found[1], int(found[2])) if found else ("w", 0)


class LaunchEvents(_StreamHandler):
    """``GET api/launches/ID/events``: for the person whose launch it is."""

    async def get(self, launch_id: str) -> None:
        launch = await self.site.launches.get(self.person, LaunchId(launch_id))
        part, sequence = self.last_seen()
        await self.send(self._frames(launch.id, part, sequence))

    async def _frames(self, launch_id: LaunchId, part: str, sequence: int) -> AsyncGenerator[list[bytes]]:
        feed, stream = self.site.feed, launch_stream(launch_id)
        told = sequence if part in {"w", "l"} else 0
        if part == "w" and not await self._has_come_to_build(launch_id, told):
            async with aclosing(feed.follow(stream, told, ALIVE_SECONDS)) as followed:
                async for frames in followed:
                    # What comes after the build must wait for it, also where a late reader gets both at once.
                    due = list(takewhile(_is_before_build, frames))
                    told += len(due)
                    if due or not frames:
                        yield due
                    if len(due) < len(frames) or await self._has_come_to_build(launch_id, told):
                        break
        if feed.has_ended:
            return
        build_id = None if part == "l" else await self._build_of(launch_id)
        after = sequence if part == "b" else 0
        while build_id is not None:
            told = await self._before_build(stream)
            withheld: list[bytes] = []
            async with aclosing(feed.follow(build_stream(build_id), after, ALIVE_SECONDS)) as followed:
                async for frames in followed:
                    if frames and _is_failure(frames[-1]):
                        withheld, frames = frames[-1:], frames[:-1]
                    if frames or not withheld:
                        yield frames
            if feed.has_ended:
                return
            if withheld and await self._goes_on_without(launch_id, build_id, told):
                later = await self._build_of(launch_id)
                build_id, after = (None if later == build_id else later), 0
                told = await self._before_build(stream)
            else:
                build_id = None
                if withheld:
                    yield withheld
        async with aclosing(feed.follow(stream, told, ALIVE_SECONDS)) as followed:
            async for frames in followed:
                yield frames

    async def _goes_on_without(self, launch_id: LaunchId, build_id: BuildId, told: int) -> bool:
        """Whether the launch waits for another build, or needs none, after somebody else has cancelled this one."""
        build = await self.site.store.get_build(build_id)
        if build is None or build.status is not BuildStatus.CANCELLED:
            return False
        async with aclosing(self.site.feed.follow(launch_stream(launch_id), told, ALIVE_SECONDS)) as followed:
            async for frames in followed:
                if frames:
                    return not _is_failure(frames[0])
        return False

    async def _has_come_to_build(self, launch_id: LaunchId, told: int) -> bool:
        """Whether the launch waits for a build by now, and all that came before that is told."""
        return await self._build_of(launch_id) is not None and told >= await self._before_build(
            launch_stream(launch_id)
        )

    async def _build_of(self, launch_id: LaunchId) -> BuildId | None:
        return (await self.site.launches.get(self.person, launch_id)).build_id

    async def _before_build(self, stream: str) -> int:
        """How many of the launch's own events come before its build."""
        page = await self.site.store.read_events(stream, 0, 100)
        return len(list(takewhile(lambda event: event.phase is Phase.WAITING, page.events)))


def _is_before_build(frame: bytes) -> bool:
    return frame.startswith(b"id: w")


def _is_failure(frame: bytes) -> bool:
    return frame.partition(b"data: ")[2].startswith(b'{"phase": "failed"')


class BuildEvents(_StreamHandler):
    """``GET api/builds/ID/events``: for everybody who may use the service, since a build is nobody's own."""

    async def get(self, build_id: str) -> None:
        if await self.site.store.get_build(BuildId(build_id)) is None:
            raise web.HTTPError(404, "There is no such build.")
        part, sequence = self.last_seen()
        after = sequence if part == "b" else 0
        await self.send(self.site.feed.follow(build_stream(BuildId(build_id)), after, ALIVE_SECONDS))
