"""How long sessions last: those that are over leave our record, and those that may not go on are stopped.

The hub says which are over. People, cullers and crashes end servers without a word to the service, and what limits count
has to be what there is. A session may not go on that is older than its policy allows, or whose person has left the VO that
it runs for. Knows store and hub by their protocols.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

from replay_build_service.domain import (
    Launch,
    LaunchId,
    LaunchState,
    Phase,
    Server,
    ServerStatus,
    launch_stream,
)
from replay_build_service.errors import Conflict, NotFound, ReplayError
from replay_build_service.events import EventFeed
from replay_build_service.starts import Hub, MovesLaunches, in_time, is_of, phase_event

log = logging.getLogger(__name__)

PERIOD_SECONDS = 30.0
"""Between two looks for sessions that are too old: by so much a session may be older than its policy says."""

LOOKS_PER_TIDYING = 2
"""Each so manieth look asks the hub for every session: so soon after the hub knows it, a lost membership ends one."""

OVERLOOKED_FOR = timedelta(days=7)
"""How long a launch that was given up for failed is looked for at the hub, where that did not say what became of its server."""

EXPLAINED_WITHIN = timedelta(minutes=10)
"""After its end a session may still be said why; the spawner tries for no longer than that."""

AT_ONCE = 8
"""Questions to the hub at the same time."""

REST_SECONDS = 5.0
"""How long what a tidying found is good enough for the next who ask."""


class LifetimeStore(MovesLaunches, Protocol):
    """What lifetimes ask of the database; see `replay_build_service.db.Store`."""

    async def launches_in(self, states: Collection[LaunchState]) -> Sequence[Launch]: ...
    async def given_up_after_their_plan(self, within: timedelta) -> Sequence[Launch]: ...
    async def take_back(self, launch_id: LaunchId) -> bool: ...
    async def get_launch(self, launch_id: LaunchId) -> Launch | None: ...
    async def explain_end(self, launch_id: LaunchId, failure: str, within: timedelta) -> bool: ...


class Lifetimes:
    """The ends of one service's sessions. Any number of processes may look; each end is recorded once."""

    def __init__(self, store: LifetimeStore, hub: Hub, feed: EventFeed) -> None:
        self._store = store
        self._hub = hub
        self._feed = feed
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._tidying = asyncio.Lock()
        self._tidied: dict[object, float] = {}
        self._stopping: set[LaunchId] = set()
        self._settled: set[LaunchId] = set()
        """Launches that failed, and whose server is not there any more."""

    async def watch(self) -> None:
        """Look again and again, for as long as the service runs. A fault of hub or database is told, and looked past.

        A server that takes its time to stop holds up no look.
        """
        look = 0
        async with asyncio.TaskGroup() as ends:
            while True:
                await asyncio.sleep(PERIOD_SECONDS)
                look += 1
                try:
                    due = await self._due(everything=look % LOOKS_PER_TIDYING == 0)
                except Exception:
                    log.exception("Could not look for sessions that are over or may not go on; trying again")
                    continue
                for launch, why in due:
                    ends.create_task(self._stop(launch, why), name=f"end of launch {launch.id}")

    async def look(self, *, everything: bool = False) -> None:
        """End what is too old, and wait until it is gone.

        With ``everything``, also what runs for a VO that its person has left, and the record of what is over by itself; what
        was taken for failed and runs is put on record again.
        """
        await asyncio.gather(*(self._stop(launch, why) for launch, why in await self._due(everything=everything)))

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

    async def ended_by_itself(self, launch_id: LaunchId, why: str) -> None:
        """Put on record that a session ended which nobody stopped, and why; what is on record of its end already stays.

        Raises `NotFound`, and `Conflict` where the launch is on its way still: its start may be seen to end only later.
        """
        launch = await self._store.get_launch(launch_id)
        if launch is None:
            raise NotFound("There is no such launch.")
        if launch.state is not LaunchState.RUNNING and not launch.state.is_final:
            raise Conflict("This launch does not run yet.")
        # The hub may have said that it is over before the spawner could say why.
        if await self._record_end(launch, why) or await self._store.explain_end(launch_id, why, EXPLAINED_WITHIN):
            log.info("Session %s of %r has ended by itself: %r", launch.id, launch.user, why)

    async def _due(self, *, everything: bool) -> Sequence[tuple[Launch, str]]:
        """Sessions that are to be stopped now, each with why; those that are over leave the record here."""
        if everything:
            await self._find_overlooked()
        now = datetime.now(UTC)
        launches = await self._store.launches_in({LaunchState.RUNNING})
        looked_at = [one for one in launches if everything or _is_too_old(one, now)]
        found = await asyncio.gather(*(self._why_not(one, now) for one in looked_at))
        due = [(one, why) for one, why in zip(looked_at, found, strict=True) if why and one.id not in self._stopping]
        self._stopping.update(launch.id for launch, _ in due)
        return due

    async def _why_not(self, launch: Launch, now: datetime) -> str | None:
        """Why a session may not go on; none where it may, or is over, or where the hub does not say."""
        try:
            server = await self._server(launch)
            if not is_of(server, launch):
                await self._record_end(launch, None)
                return None
        except ReplayError as error:
            _look_later(launch, error)
            return None
        # Where the service may not read groups, they are unknown and nobody has left.
        if server.groups is not None and launch.vo not in server.groups:
            return left_the_vo(launch)
        return too_old(launch) if _is_too_old(launch, now) else None

    async def _find_overlooked(self) -> None:
        """A hub that did not answer during a start says nothing about the server: one that runs all the same is on record again."""
        given_up = await self._store.given_up_after_their_plan(OVERLOOKED_FOR)
        self._settled &= {launch.id for launch in given_up}
        await asyncio.gather(*(self._take_back_if_it_runs(one) for one in given_up if one.id not in self._settled))

    async def _take_back_if_it_runs(self, launch: Launch) -> None:
        try:
            server = await self._server(launch)
        except ReplayError as error:
            _look_later(launch, error)
            return
        if not is_of(server, launch):
            # A launch is used once, so its server never comes back.
            self._settled.add(launch.id)
        elif server.status is ServerStatus.READY and await self._store.take_back(launch.id):
            log.info("Launch %s of %r was taken for failed, and its server runs", launch.id, launch.user)
            self._feed.notify(launch_stream(launch.id))

    async def _end_if_over(self, launch: Launch) -> bool:
        if is_of(await self._server(launch), launch):
            return False
        return await self._record_end(launch, None)

    async def _server(self, launch: Launch) -> Server:
        async with self._slots:
            return await self._hub.server(launch.user, launch.server_name)

    async def _stop(self, launch: Launch, why: str) -> None:
        """Stop the server and wait until it is gone; where it does not go, a later look tries again."""
        log.info("Session %s of %r is stopped: %r", launch.id, launch.user, why)
        try:
            async with self._slots:
                await self._hub.stop(launch.user, launch.server_name)
            if await in_time(lambda: self._server(launch), lambda server: not is_of(server, launch)):
                await self._record_end(launch, why)
            else:
                log.warning("Session %s of %r does not stop", launch.id, launch.user)
        except ReplayError as error:
            _look_later(launch, error)
        except Exception:
            # One end that breaks must not keep the others from theirs.
            log.exception("Ending session %s of %r broke; trying again", launch.id, launch.user)
        finally:
            self._stopping.discard(launch.id)

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


def left_the_vo(launch: Launch) -> str:
    """Why a session was stopped whose person is not in its VO any more."""
    return (
        f"The session was stopped: it ran for {launch.vo}, and you are not a member of that any more. "
        "Launch it for another virtual organisation of yours."
    )


def in_words(span: timedelta) -> str:
    """Such as “8 hours” or “1 hour and 30 minutes”: the two largest units."""
    left = round(span.total_seconds())
    parts: list[str] = []
    for unit, seconds in (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1)):
        count, left = divmod(left, seconds)
        if count:
            parts.append(f"{count} {unit}{'' if count == 1 else 's'}")
    return " and ".join(parts[:2]) or "0 seconds"


def _look_later(launch: Launch, error: ReplayError) -> None:
    log.warning("Session %s of %r is looked at again later: %s", launch.id, launch.user, error.sentence)


def _is_too_old(launch: Launch, now: datetime) -> bool:
    return launch.ends_by is not None and launch.ends_by <= now
