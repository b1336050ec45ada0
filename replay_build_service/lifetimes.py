"""How long sessions last: those that are over leave our record, and those older than their policy allows are stopped.

The hub says which are over. People, cullers and crashes end servers without a word to the service, and what limits count
has to be what there is. Knows store and hub by their protocols.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

from replay_build_service.domain import (
    BuildId,
    Launch,
    LaunchId,
    LaunchState,
    NewEvent,
    Phase,
    RunnableImage,
    Server,
    ServerStatus,
    launch_stream,
)
from replay_build_service.errors import ReplayError
from replay_build_service.events import EventFeed
from replay_build_service.starts import Hub, phase_event

log = logging.getLogger(__name__)

PERIOD_SECONDS = 30.0
"""Between two looks for sessions that are too old: by so much a session may be older than its policy says."""

LOOKS_PER_TIDYING = 10
"""Each so manieth look asks the hub for every session."""

AT_ONCE = 8
"""Questions to the hub at the same time."""

STOP_SECONDS = 60.0
STOP_POLL_SECONDS = 0.5

REST_SECONDS = 5.0
"""How long what a tidying found is good enough for the next who ask."""


class LifetimeStore(Protocol):
    """What lifetimes ask of the database; see `replay_build_service.db.Store`."""

    async def launches_in(self, states: Collection[LaunchState]) -> Sequence[Launch]: ...
    async def move_launch(
        self,
        launch_id: LaunchId,
        allowed_from: Collection[LaunchState],
        to: LaunchState,
        *,
        failure: str | None = None,
        image: RunnableImage | None = None,
        build_id: BuildId | None = None,
        event: NewEvent | None = None,
    ) -> bool: ...


class Lifetimes:
    """The ends of one service's sessions. Any number of processes may look; each end is recorded once."""

    def __init__(self, store: LifetimeStore, hub: Hub, feed: EventFeed) -> None:
        self._store = store
        self._hub = hub
        self._feed = feed
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._tidying = asyncio.Lock()
        self._tidied: dict[object, float] = {}

    async def watch(self) -> None:
        """Look again and again, for as long as the service runs. A fault of hub or database is told, and looked past."""
        look = 0
        while True:
            await asyncio.sleep(PERIOD_SECONDS)
            look += 1
            try:
                await self.look(everything=look % LOOKS_PER_TIDYING == 0)
            except Exception:
                log.exception("Could not look for sessions that are over or too old; trying again")

    async def look(self, *, everything: bool = False) -> None:
        """End what is too old; with ``everything``, also the record of what is over by itself."""
        now = datetime.now(UTC)
        launches = await self._store.launches_in({LaunchState.RUNNING})
        await asyncio.gather(*(self._see_to(one, now) for one in launches if everything or _is_too_old(one, now)))

    async def tidy(self, what: object, is_meant: Callable[[Launch], bool]) -> int:
        """Ask the hub for those sessions of our record, and end the record of those that are over; how many these were.

        ``what`` names the question: who asks the same at about the same time shares one answer.
        """
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        async with self._tidying:
            if self._tidied.get(what, -REST_SECONDS) > asked_at - REST_SECONDS:
                return 0
            running = await self._store.launches_in({LaunchState.RUNNING})
            ended = await asyncio.gather(*(self._end_if_over(one) for one in running if is_meant(one)))
            self._tidied = {key: at for key, at in self._tidied.items() if at > asked_at - REST_SECONDS}
            self._tidied[what] = loop.time()
            return sum(ended)

    async def _see_to(self, launch: Launch, now: datetime) -> None:
        try:
            if not await self._end_if_over(launch) and _is_too_old(launch, now):
                await self._stop(launch)
        except ReplayError as error:
            log.warning("Session %s of %r is looked at again later: %s", launch.id, launch.user, error.sentence)

    async def _end_if_over(self, launch: Launch) -> bool:
        if await self._runs(launch):
            return False
        return await self._record_end(launch, None)

    async def _runs(self, launch: Launch) -> bool:
        async with self._slots:
            return _is_of(await self._hub.server(launch.user, launch.server_name), launch)

    async def _stop(self, launch: Launch) -> None:
        """Stop the server and wait until it is gone; where it does not go, the next look tries again."""
        log.info("Session %s of %r for %r has reached its maximum age", launch.id, launch.user, launch.vo)
        async with self._slots:
            await self._hub.stop(launch.user, launch.server_name)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                # The hub has no event for a server that is gone, so it is asked.
                while await self._runs(launch):  # noqa: ASYNC110
                    await asyncio.sleep(STOP_POLL_SECONDS)
        except TimeoutError:
            log.warning("Session %s of %r does not stop", launch.id, launch.user)
            return
        await self._record_end(launch, too_old(launch))

    async def _record_end(self, launch: Launch, told: str | None) -> bool:
        event = phase_event(Phase.FAILED, told or "The session has ended.")
        has_ended = await self._store.move_launch(
            launch.id, {LaunchState.RUNNING}, LaunchState.ENDED, failure=told, event=event
        )
        self._feed.notify(launch_stream(launch.id))
        return has_ended


def too_old(launch: Launch) -> str:
    """Why a session was stopped that had run for as long as it may."""
    age = in_words(launch.maximum_age or timedelta())
    return f"The session was stopped: {launch.vo} lets a session run for {age} at most. You can launch the same again."


def in_words(span: timedelta) -> str:
    """Such as “8 hours” or “1 hour and 30 minutes”: the two largest units."""
    left = round(span.total_seconds())
    parts: list[str] = []
    for unit, seconds in (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1)):
        count, left = divmod(left, seconds)
        if count:
            parts.append(f"{count} {unit}{'' if count == 1 else 's'}")
    return " and ".join(parts[:2]) or "0 seconds"


def _is_too_old(launch: Launch, now: datetime) -> bool:
    return launch.ends_by is not None and launch.ends_by <= now


def _is_of(server: Server, launch: Launch) -> bool:
    return server.status is not ServerStatus.ABSENT and server.launch_id == launch.id
