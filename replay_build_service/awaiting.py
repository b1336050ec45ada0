"""The parts of a launch that wait: for its image, and for what else its session gets. Knows the store by its protocol."""

import asyncio
from typing import Protocol

from replay_build_service.builds import Builds
from replay_build_service.content import Contents
from replay_build_service.domain import (
    Build,
    BuildId,
    BuildStatus,
    Launch,
    LaunchId,
    LaunchState,
    Phase,
    ResolvedRef,
    RunnableImage,
    launch_stream,
)
from replay_build_service.errors import BuildFailed
from replay_build_service.events import EventFeed
from replay_build_service.policy_values import BuildCeiling
from replay_build_service.starts import MovesLaunches, phase_event

MOST_BUILDS = 5
"""How many builds a launch waits for, one after the other, where others cancel each while it joins."""

LOOK_SECONDS = 2.0
"""How often it is looked whether somebody still waits for a content that is being fetched."""


class AwaitingStore(MovesLaunches, Protocol):
    """What waiting asks of the database; see `replay_build_service.db.Store`."""

    async def get_launch(self, launch_id: LaunchId) -> Launch | None: ...
    async def launches_waiting_for(self, build_id: BuildId) -> int: ...


class Awaiting:
    """Builds and contents as launches wait for them."""

    def __init__(self, store: AwaitingStore, builds: Builds, feed: EventFeed, contents: Contents) -> None:
        self._store = store
        self._contents = contents
        self._builds = builds
        self._feed = feed

    async def image_for(self, launch: Launch, ceiling: BuildCeiling | None) -> RunnableImage | None:
        """The image, once it is built; none where the launch was given up. Raises `BuildFailed` and `LimitReached`.

        A build that somebody else cancelled while this launch joined it is no outcome for this launch: it asks again.
        """
        build_id = launch.build_id
        for builds_left in reversed(range(MOST_BUILDS)):
            if build_id is None:
                found = await self._builds.ensure(launch.resolved, launch.user, ceiling)
                if isinstance(found, RunnableImage):
                    return found
                build_id = found.id
                if not await self._wait_on_record(launch, build_id):
                    await self._cancel_if_unwanted(build_id)
                    return None
            build = await self._builds.finished(build_id)
            if build.image is not None:
                return build.image
            was_joined = build_id != launch.build_id and not self._builds.is_ending
            if build.status is not BuildStatus.CANCELLED or not was_joined or not builds_left:
                raise BuildFailed(_failure_of(build))
            if not await self._is_in(launch.id, LaunchState.BUILDING):
                return None
            build_id = None
        raise AssertionError("the last build ends with an image or an error")

    async def content_for(self, launch: Launch, content: ResolvedRef) -> bool:
        """See to it that the content is there; false where the launch was given up meanwhile, which ends the fetch.

        Raises as `Contents.ready`.
        """
        fetching = asyncio.ensure_future(self._contents.ready(content))
        try:
            while not fetching.done():
                await asyncio.wait({fetching}, timeout=LOOK_SECONDS)
                if not await self._is_in(launch.id, LaunchState.STARTING):
                    return False
            await fetching
        finally:
            fetching.cancel()
            await asyncio.gather(fetching, return_exceptions=True)
        return True

    async def cancel_unwanted(self, launch_id: LaunchId) -> None:
        """After a launch was given up: end the build that it waited for, where nobody else waits for it."""
        launch = await self._store.get_launch(launch_id)
        if launch is not None and launch.build_id is not None:
            await self._cancel_if_unwanted(launch.build_id)

    async def _wait_on_record(self, launch: Launch, build_id: BuildId) -> bool:
        """Whether the launch waits for that build now; false where it was given up meanwhile."""
        waits = phase_event(Phase.WAITING, "Your launch waits for its build.")
        is_waiting = await self._store.move_launch(
            launch.id, {LaunchState.BUILDING}, LaunchState.BUILDING, build_id=build_id, event=waits
        )
        if is_waiting:
            self._feed.notify(launch_stream(launch.id))
        return is_waiting

    async def _is_in(self, launch_id: LaunchId, state: LaunchState) -> bool:
        launch = await self._store.get_launch(launch_id)
        return launch is not None and launch.state is state

    async def _cancel_if_unwanted(self, build_id: BuildId) -> None:
        if not await self._store.launches_waiting_for(build_id):
            await self._builds.cancel(build_id)


def _failure_of(build: Build) -> str:
    return build.failure.message if build.failure else "The build ended without an image."
