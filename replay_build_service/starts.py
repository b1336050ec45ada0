"""The last part of a launch: asking the hub for the server and following it until it answers.

Knows the hub by its protocol. What the hub says goes into the launch's own stream of events, so that one page tells
the whole way from a click to a notebook.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Protocol, assert_never

from replay_build_service import metrics
from replay_build_service.domain import (
    BuildId,
    EventKind,
    Launch,
    LaunchId,
    LaunchState,
    NewEvent,
    Phase,
    RunnableImage,
    Server,
    ServerStatus,
    StartProgress,
    launch_stream,
)
from replay_build_service.errors import Conflict, SourceFault
from replay_build_service.events import EventFeed

log = logging.getLogger(__name__)

HEAD_START_SECONDS = 0.05
"""What the hub does first is fetch the launch's plan from us. Until then there is nothing to tell and nothing to follow,
and the person waits for the server, not for the sentence about it."""

STOP_SECONDS = 60.0
"""How long a server may take to stop before the person is told."""

STOP_POLL_SECONDS = 0.2
"""The hub has no event for a server that is gone, so it is asked."""

MOST_FAULTS = 5
"""How often the hub's progress of one start may break off before the person is told."""

LOOK_SECONDS = 0.5
"""After progress broke off: how long until the hub is asked for it again."""

ANOTHER = "Another server of yours was started meanwhile. Open the link again to choose."
STILL_STARTING = "Your server is just starting, and the hub cannot stop it before it has. Try again in a moment."


class Hub(Protocol):
    """What launches ask of the hub; see `replay_build_service.hub.HubClient`.

    Each raises `SourceFault` where the hub does not answer properly, and `Conflict` where it refuses, with its reason.
    """

    async def server(self, user: str, server_name: str) -> Server: ...
    async def start(self, user: str, server_name: str, launch_id: LaunchId) -> None: ...
    async def stop(self, user: str, server_name: str) -> None: ...
    def progress(self, user: str, server_name: str) -> AsyncIterator[StartProgress]: ...


class MovesLaunches(Protocol):
    """A launch's change of state by compare-and-set; see `replay_build_service.db.Store`."""

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


class StartStore(MovesLaunches, Protocol):
    """What starts ask of the database; see `replay_build_service.db.Store`."""

    async def get_launch(self, launch_id: LaunchId) -> Launch | None: ...
    async def append_events(self, stream: str, events: Sequence[NewEvent], *, finished: bool = False) -> None: ...


class Starts:
    """Starts and stops servers for launches."""

    def __init__(self, store: StartStore, hub: Hub, feed: EventFeed, doubt: Callable[[RunnableImage], None]) -> None:
        """``doubt`` is told of each image of which a server could not be started."""
        self._store = store
        self._hub = hub
        self._feed = feed
        self._doubt = doubt

    async def start(self, launch: Launch, server: Server | None) -> None:
        """Have the hub start the server of a launch whose image is there, and follow it.

        ``server`` is what the hub said a moment ago, where the launch is new. Without it, a start that an earlier process
        had asked for is followed.
        """
        if server is None:
            server = await self._hub.server(launch.user, launch.server_name)
            current = await self._store.get_launch(launch.id)
            if server.status is ServerStatus.ABSENT and current is not None and current.consumed_at is not None:
                raise Conflict("The server of this launch has stopped before it was ready. Open the link again.")
        if server.status is ServerStatus.STOPPING:
            await self._say(launch.id, Phase.LAUNCHING, "Waiting for your last server to stop.")
            await self._until_stopped(launch.user, launch.server_name)
            server = Server(ServerStatus.ABSENT)
        is_ours = True
        if server.status is ServerStatus.ABSENT:
            await self._ask(launch)
            is_ours = await self._seems_ours(launch)
        elif server.launch_id != launch.id:
            raise Conflict(ANOTHER)
        await self._say(launch.id, Phase.LAUNCHING, "Starting your server.")
        await self.follow(launch, is_ours=is_ours)

    async def follow(self, launch: Launch, *, is_ours: bool = True) -> None:
        """Turn the hub's progress into events until the server is ready or has failed.

        Where it is not sure whether the start under way ``is_ours``, it is asked for again once the other has failed.
        """
        failure = await self._followed(launch)
        if failure is not None and not is_ours and await self._is_unused(launch):
            await self._ask(launch)
            failure = await self._followed(launch)
        if failure is not None:
            await self.fail(launch.id, failure)

    async def _ask(self, launch: Launch) -> None:
        try:
            await self._hub.start(launch.user, launch.server_name, launch.id)
        except Conflict:
            server = await self._hub.server(launch.user, launch.server_name)
            if server.status is ServerStatus.ABSENT:
                raise
            # Asked twice, where the first answer was lost, the hub refuses what it has done.
            if not is_of(server, launch):
                raise Conflict(ANOTHER) from None
        await asyncio.sleep(HEAD_START_SECONDS)

    async def _seems_ours(self, launch: Launch) -> bool:
        """Whether the start under way may be this launch's, as the hub says it.

        A request that comes while another start is under way is taken by the hub and dropped without a word.
        """
        try:
            server = await self._hub.server(launch.user, launch.server_name)
        except SourceFault:
            return True
        return server.status is not ServerStatus.STARTING or server.launch_id == launch.id

    async def _is_unused(self, launch: Launch) -> bool:
        current = await self._store.get_launch(launch.id)
        return current is not None and current.state is LaunchState.STARTING and current.consumed_at is None

    async def _followed(self, launch: Launch) -> str | None:
        """Why the start has failed; none where the server is ready, or on record as something else.

        Progress that breaks off is no fact about the server: the hub is asked for that, and followed again.
        """
        may_be_leaving = True
        for faults_left in reversed(range(MOST_FAULTS)):
            try:
                async for progress in self._hub.progress(launch.user, launch.server_name):
                    if progress.failed:
                        return progress.message or "The server could not be started."
                    if progress.ready:
                        break
                    if progress.message:
                        await self._say(launch.id, Phase.LAUNCHING, progress.message)
            except SourceFault:
                if not faults_left:
                    raise
            except Conflict:
                # While what failed is being removed, the hub says that nothing starts; after that, why it failed.
                if not may_be_leaving:
                    raise
                may_be_leaving = False
                await in_time(
                    lambda: self._hub.server(launch.user, launch.server_name),
                    lambda server: server.status is not ServerStatus.STOPPING,
                )
                continue
            if await self._is_settled(launch):
                return None
            await asyncio.sleep(LOOK_SECONDS)
        raise SourceFault("The hub does not say how the start of your server goes. Open the link again in a moment.")

    async def stop(self, user: str, server_name: str, *, is_patient: bool = False) -> None:
        """Stop a server and wait until it is gone. No error where there is none.

        With ``is_patient``, one that is just starting is waited for, for as long as for one that stops.
        """
        server = await self._hub.server(user, server_name)
        if is_patient and server.status is ServerStatus.STARTING:
            await in_time(
                lambda: self._hub.server(user, server_name), lambda one: one.status is not ServerStatus.STARTING
            )
            server = await self._hub.server(user, server_name)
        if server.status is ServerStatus.ABSENT:
            return
        if server.status is ServerStatus.STARTING:
            raise Conflict(STILL_STARTING)
        if server.status is ServerStatus.READY:
            await self._hub.stop(user, server_name)
        await self._until_stopped(user, server_name)

    async def fail(self, launch_id: LaunchId, sentence: str, *, doubts_image: bool = True) -> None:
        """End a launch that did not become a server, and say why."""
        active = {LaunchState.BUILDING, LaunchState.STARTING}
        event = phase_event(Phase.FAILED, sentence)
        if await self._store.move_launch(launch_id, active, LaunchState.FAILED, failure=sentence, event=event):
            log.info("Launch %s failed: %r", launch_id, sentence[:300])
            metrics.launch_failed()
            self._feed.notify(launch_stream(launch_id))
            launch = await self._store.get_launch(launch_id)
            if doubts_image and launch is not None and launch.image is not None:
                self._doubt(launch.image)

    async def _is_settled(self, launch: Launch) -> bool:
        """Put on record what the hub says of the server now; false while it is still starting."""
        server = await self._hub.server(launch.user, launch.server_name)
        if server.status is ServerStatus.ABSENT:
            raise Conflict("The server of this launch has stopped before it was ready. Open the link again.")
        if server.launch_id != launch.id:
            raise Conflict(ANOTHER)
        match server.status:
            case ServerStatus.STARTING:
                return False
            case ServerStatus.STOPPING:
                raise Conflict("The server of this launch was stopped before it was ready. Open the link again.")
            case ServerStatus.READY:
                event = phase_event(Phase.READY, server.url + launch.urlpath)
                if await self._store.move_launch(launch.id, {LaunchState.STARTING}, LaunchState.RUNNING, event=event):
                    metrics.launch_ready(launch)
                    self._feed.notify(launch_stream(launch.id))
                return True
            case _:
                assert_never(server.status)

    async def _until_stopped(self, user: str, server_name: str) -> None:
        if not await in_time(
            lambda: self._hub.server(user, server_name), lambda server: server.status is ServerStatus.ABSENT
        ):
            raise SourceFault(
                f"Your running server did not stop within {STOP_SECONDS:.0f} seconds. Try again in a few minutes."
            )

    async def _say(self, launch_id: LaunchId, phase: Phase, text: str) -> None:
        await self._store.append_events(launch_stream(launch_id), [phase_event(phase, text)])
        self._feed.notify(launch_stream(launch_id))


def is_of(server: Server, launch: Launch) -> bool:
    """Whether there is a server, and it is this very launch's."""
    return server.status is not ServerStatus.ABSENT and server.launch_id == launch.id


async def in_time(look: Callable[[], Awaitable[Server]], has_stopped: Callable[[Server], bool]) -> bool:
    """Wait for a server to stop, `STOP_SECONDS` at most; false where it has not. Raises what ``look`` raises.

    The hub has no event for a server that is gone, so it is asked again and again.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + STOP_SECONDS
    while not has_stopped(await look()):
        if loop.time() >= deadline:
            return False
        await asyncio.sleep(STOP_POLL_SECONDS)
    return True


def phase_event(phase: Phase, text: str) -> NewEvent:
    """A phase that begins now."""
    return NewEvent(EventKind.PHASE, phase, text, datetime.now(UTC))
