"""The sessions of a VO, as its managers see and stop them.

The hub would let a group's manager stop any server of any member. Here it goes by the launch: a session is a VO's where
its launch was made for that VO, and the server is stopped only while it is that launch's. Knows store, hub and builds
by their protocols.
"""

import asyncio
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, assert_never

from replay_build_service.domain import (
    BuildId,
    Launch,
    LaunchId,
    LaunchState,
    Phase,
    Server,
    ServerStatus,
    launch_stream,
)
from replay_build_service.errors import Conflict, NotFound, ReplayError, SourceFault
from replay_build_service.managing import texts
from replay_build_service.managing.admission import Manager
from replay_build_service.managing.decisions import MOST_REASON
from replay_build_service.records import Action, Decision, Session
from replay_build_service.starts import MovesLaunches, in_time, is_of, phase_event

log = logging.getLogger(__name__)

PAGE = 50
"""Sessions of a page; the hub is asked about each of them."""

MOST_STOPPED_AT_ONCE = 20
"""Sessions of one person that one form ends."""

ASKED_AT_ONCE = 10

ACTIVE = frozenset(state for state in LaunchState if not state.is_final)


class SessionStore(MovesLaunches, Protocol):
    """What sessions ask of the database; see `replay_build_service.db.Store`."""

    async def sessions(
        self, vo: str, states: Collection[LaunchState] | None, before: LaunchId | None, limit: int, user: str = ""
    ) -> Sequence[Session]: ...
    async def session(self, vo: str, launch_id: LaunchId) -> Session | None: ...
    async def count_sessions(self, vo: str, states: Collection[LaunchState]) -> int: ...
    async def put_on_record(self, decision: Decision) -> None: ...
    async def launches_waiting_for(self, build_id: BuildId) -> int: ...


class ServerHub(Protocol):
    """What sessions ask of the hub; see `replay_build_service.hub.HubClient`."""

    async def server(self, user: str, server_name: str) -> Server: ...
    async def stop(self, user: str, server_name: str) -> None: ...


class CancelsBuilds(Protocol):
    async def cancel(self, build_id: BuildId) -> None: ...


class Notifies(Protocol):
    def notify(self, stream: str) -> None: ...


@dataclass(frozen=True, slots=True)
class ActiveSession:
    """A session that is on its way or runs, with what the hub said of its server a moment ago."""

    session: Session
    last_activity: datetime | None = None
    """By the hub; ``None`` where nothing runs yet, or the hub did not say."""
    is_known: bool = True
    """False where the hub did not answer: then what is shown is our record alone."""


class Sessions:
    """What runs for each VO."""

    def __init__(self, store: SessionStore, hub: ServerHub, builds: CancelsBuilds, feed: Notifies) -> None:
        self._store = store
        self._hub = hub
        self._builds = builds
        self._feed = feed

    async def active(self, manager: Manager, before: LaunchId | None = None) -> Sequence[ActiveSession]:
        """The VO's sessions that are on their way or run, newest first, at most `PAGE`. Those that have ended are put on record."""
        found = await self._store.sessions(manager.vo, ACTIVE, before, PAGE)
        slots = asyncio.Semaphore(ASKED_AT_ONCE)
        looked = await asyncio.gather(*(self._look(session, slots) for session in found))
        return [session for session in looked if session is not None]

    async def count(self, manager: Manager) -> int:
        """How many run now, by our record."""
        return await self._store.count_sessions(manager.vo, {LaunchState.RUNNING})

    async def stop(self, manager: Manager, launch_id: LaunchId, reason: str) -> Session:
        """End one session of the VO, whatever state it is in, and wait until its server is gone. No error where it is over.

        What was asked is in the audit log before anything is done, and so is that it could not be done. Raises `NotFound` for
        a launch of another VO, also where it is the same person's, and `Conflict` or `SourceFault` where it cannot be stopped now.
        """
        session = await self._store.session(manager.vo, launch_id)
        if session is None:
            raise NotFound(f"{manager.vo} has no such session.")
        why = texts.line(reason, "The reason", MOST_REASON, may_be_empty=True)
        launch = session.launch
        if launch.state.is_final:
            return session
        also = f" with {launch.content.repository.short}" if launch.content else ""
        subject = f"{launch.user}: {launch.resolved.repository.short}{also} ({launch.id})"
        await self._store.put_on_record(Decision(manager.vo, manager.name, Action.STOP_SESSION, subject, why))
        told = f"A manager of {launch.vo} stopped this session{f': {why}' if why else '.'}"
        try:
            await self._end(manager, launch, told if told.endswith((".", "!", "?")) else f"{told}.")
        except ReplayError as error:
            failed = Decision(manager.vo, manager.name, Action.STOP_FAILED, subject, error.sentence)
            await self._store.put_on_record(failed)
            raise
        log.info("%r stopped launch %s of %r for %r", manager.name, launch.id, launch.user, manager.vo)
        return session

    async def stop_all_of(self, manager: Manager, user: str, reason: str) -> int:
        """End what this person has on its way or running for the VO; returns how many that were. Raises as `stop`."""
        found = await self._store.sessions(manager.vo, ACTIVE, None, MOST_STOPPED_AT_ONCE, user)
        for session in found:
            await self.stop(manager, session.launch.id, reason)
        return len(found)

    async def _look(self, session: Session, slots: asyncio.Semaphore) -> ActiveSession | None:
        """``None`` for one that has ended meanwhile."""
        launch = session.launch
        if launch.state is not LaunchState.RUNNING:
            return ActiveSession(session)
        try:
            async with slots:
                server = await self._hub.server(launch.user, launch.server_name)
        except (SourceFault, Conflict):
            # No fact about the session: it is shown as our record has it.
            return ActiveSession(session, is_known=False)
        if is_of(server, launch):
            return ActiveSession(session, server.last_activity)
        await self._move(launch, {LaunchState.RUNNING}, "The session has ended.", told_later=False)
        return None

    async def _end(self, manager: Manager, launch: Launch, told: str) -> None:
        current: Launch | None = launch
        while current is not None and not current.state.is_final:
            match current.state:
                case LaunchState.BUILDING | LaunchState.CHOOSING:
                    if await self._move(current, {current.state}, told):
                        await self._cancel_unwanted_build(current)
                case LaunchState.STARTING | LaunchState.RUNNING:
                    await self._stop_server(current)
                    await self._move(current, {LaunchState.STARTING, LaunchState.RUNNING}, told)
                case LaunchState.ENDED | LaunchState.FAILED:
                    return
                case _:
                    assert_never(current.state)
            found = await self._store.session(manager.vo, launch.id)
            current = None if found is None else found.launch

    async def _stop_server(self, launch: Launch) -> None:
        """Stop the server where it is this very launch's, and wait until it is not any more."""
        server = await self._hub.server(launch.user, launch.server_name)
        if not is_of(server, launch):
            return
        if server.status is ServerStatus.STARTING:
            raise Conflict(
                "This session is just starting, and the hub cannot stop it before it has. Try again in a moment."
            )
        if server.status is ServerStatus.READY:
            await self._hub.stop(launch.user, launch.server_name)
        if not await in_time(
            lambda: self._hub.server(launch.user, launch.server_name), lambda server: not is_of(server, launch)
        ):
            raise SourceFault("The session did not stop within a minute. Look again in a few minutes.")

    async def _move(
        self, launch: Launch, allowed_from: Collection[LaunchState], told: str, *, told_later: bool = True
    ) -> bool:
        """``told_later`` keeps the sentence with the launch: the stream of one that runs has ended already."""
        has_moved = await self._store.move_launch(
            launch.id,
            allowed_from,
            LaunchState.ENDED,
            failure=told if told_later else None,
            event=phase_event(Phase.FAILED, told),
        )
        self._feed.notify(launch_stream(launch.id))
        return has_moved

    async def _cancel_unwanted_build(self, launch: Launch) -> None:
        if launch.build_id is not None and not await self._store.launches_waiting_for(launch.build_id):
            await self._builds.cancel(launch.build_id)
