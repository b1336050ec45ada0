"""Server-sent events of launches and builds.

A launch's stream is three parts, one after the other: its own events before the build (ids ``w…``), the build's
(``b…``), and its own from then on (``l…``). An id tells the part and the sequence number in it, so that
``Last-Event-ID`` resumes without a gap or a repeat.
"""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator

from tornado import web
from tornado.iostream import StreamClosedError

from replay_build_service.domain import (
    BuildId,
    Event,
    LaunchId,
    LaunchState,
    Phase,
    build_stream,
    launch_stream,
)
from replay_build_service.web.base import ApiHandler

log = logging.getLogger(__name__)

_ID = re.compile(r"([wbl])(\d{1,12})")


def encode_event(stream: str, event: Event) -> bytes:
    """An event as a frame of ``text/event-stream``; BinderHub's ``phase`` and ``message`` in its data."""
    part = "b" if stream.startswith("build:") else "w" if event.phase is Phase.WAITING else "l"
    data = {"phase": event.phase, "kind": event.kind, "message": event.text, "at": event.at.timestamp()}
    if event.phase is Phase.READY:
        data |= {"message": "Your server is ready.", "url": event.text}
    return f"id: {part}{event.sequence}\ndata: {json.dumps(data)}\n\n".encode()


class _StreamHandler(ApiHandler):
    """Writes frames as they come; a reader that is slow or gone concerns nobody else."""

    _task: "asyncio.Task[None] | None" = None

    def on_connection_close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def send(self, frames: AsyncIterator[list[bytes]]) -> None:
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("X-Accel-Buffering", "no")
        self._task = asyncio.current_task()
        try:
            await self.flush()
            async for batch in frames:
                self.write(b"".join(batch) if batch else b": still here\n\n")
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

    async def _frames(self, launch_id: LaunchId, part: str, sequence: int) -> AsyncIterator[list[bytes]]:
        feed, stream = self.site.feed, launch_stream(launch_id)
        before = sequence if part == "w" else 0
        launch = await self.site.launches.get(self.person, launch_id)
        if part == "w" and launch.build_id is None and launch.state in {LaunchState.BUILDING, LaunchState.CHOOSING}:
            async for frames in feed.follow(stream, before):
                if frames:
                    yield frames
                    before += len(frames)
                    launch = await self.site.launches.get(self.person, launch_id)
                    if launch.build_id is not None or launch.state is not LaunchState.BUILDING:
                        break
                else:
                    yield frames
        own_before = await self._waiting_events(stream)
        if part == "w" and before < own_before:
            async for frames in feed.follow(stream, before):
                due = frames[: own_before - before]
                yield due
                before += len(due)
                if before >= own_before:
                    break
        if part in {"w", "b"} and launch.build_id is not None:
            async for frames in feed.follow(build_stream(launch.build_id), sequence if part == "b" else 0):
                yield frames
        after = sequence if part == "l" else max(before, own_before)
        async for frames in feed.follow(stream, after):
            yield frames

    async def _waiting_events(self, stream: str) -> int:
        """How many of the launch's own events come before its build."""
        page = await self.site.store.read_events(stream, 0, 100)
        count = 0
        for event in page.events:
            if event.phase is not Phase.WAITING:
                break
            count += 1
        return count


class BuildEvents(_StreamHandler):
    """``GET api/builds/ID/events``: for everybody who may use the service, since a build is nobody's own."""

    async def get(self, build_id: str) -> None:
        if await self.site.store.get_build(BuildId(build_id)) is None:
            raise web.HTTPError(404, "There is no such build.")
        part, sequence = self.last_seen()
        await self.send(self.site.feed.follow(build_stream(BuildId(build_id)), sequence if part == "b" else 0))


