"""One build per image: who asks joins it, this module drives it, and finds it again after a restart.

Knows the store, the builder and the feed by their protocols. Nobody owns a build: no watcher's leaving ends it.
"""

import asyncio
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol, cast

from replay_build_service import metrics
from replay_build_service.builders.base import Builder, LogRecord, RunningBuild, SessionCommand
from replay_build_service.domain import (
    Build,
    BuildFailure,
    BuildId,
    BuildJob,
    BuildStatus,
    EventKind,
    FailureReason,
    ImageName,
    NewEvent,
    Phase,
    ResolvedRef,
    RunnableImage,
    build_stream,
)
from replay_build_service.errors import ReplayError, SourceFault
from replay_build_service.events import EventFeed
from replay_build_service.policy_values import BuildCeiling

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0

LOOK_SECONDS = 0.01
"""Between two looks at a build whose events have ended."""

MOST_FAULTS = 5
"""How often in a row driving a build may break before it is ended."""

LEASE = timedelta(seconds=30)
"""How long a silent driver keeps its build; renewed at a third of it."""


class BuildStore(Protocol):
    """What builds ask of the database. Each method is a transaction; see `replay_build_service.db.Store`."""

    async def find_image(self, name: ImageName) -> RunnableImage | None: ...
    async def forget_image(self, name: ImageName, image: RunnableImage) -> None: ...
    async def join_build(
        self, job: BuildJob, requested_by: str, ceiling: BuildCeiling | None = None
    ) -> tuple[Build, bool] | None: ...
    async def get_build(self, build_id: BuildId) -> Build | None: ...
    async def unfinished_builds(self) -> Sequence[Build]: ...
    async def kept_build_ids(self) -> frozenset[BuildId]: ...
    async def last_images(self, job: BuildJob) -> Sequence[RunnableImage]: ...
    async def lease_build(self, build_id: BuildId, owner: str, duration: timedelta) -> bool: ...
    async def mark_running(self, build_id: BuildId) -> None: ...
    async def finish_build(self, build_id: BuildId, outcome: RunnableImage | BuildFailure, text: str) -> bool: ...
    async def stream_position(self, stream: str) -> int: ...
    async def append_log(self, stream: str, events: Sequence[NewEvent], before: int, after: int) -> bool: ...
    async def append_events(self, stream: str, events: Sequence[NewEvent], *, finished: bool = False) -> None: ...


@dataclass(slots=True)
class _Driving:
    """What this process knows of a build that it drives."""

    build: Build
    running: RunningBuild | None = None
    is_cancelled: bool = False
    faults: int = 0
    """How often driving it broke since it last came on."""
    fault: ReplayError | None = None
    """What broke it last, where a person can be told."""
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Builds:
    """Drives the builds of one process."""

    def __init__(
        self,
        store: BuildStore,
        builder: Builder,
        feed: EventFeed,
        tasks: asyncio.TaskGroup,
        owner: str,
        *,
        at_once: int = 2,
    ) -> None:
        self._store = store
        self._builder = builder
        self._feed = feed
        self._tasks = tasks
        self._owner = owner
        """Names this process and its successors at the same address, so that a restart need not wait for the lease."""
        self._at_once = at_once
        self._driven: dict[BuildId, _Driving] = {}
        self.is_ending = False
        """This process ends its builds with itself, so that no other begins."""
        self._doubted: set[RunnableImage] = set()
        """Images of which a server could not be started: looked at thoroughly before they are used again."""
        self._in_slot: set[BuildId] = set()
        self._slots_changed = asyncio.Event()
        """Replaced each time, so that all who wait for a slot look again."""

    @property
    def builder(self) -> str:
        """The name of what makes images here: it cannot run another's."""
        return self._builder.recipe.builder

    def name_of(self, resolved: ResolvedRef) -> ImageName:
        """The image that this ref and the present recipe make."""
        return ImageName.of(resolved, self._builder.recipe)

    async def find(self, name: ImageName) -> RunnableImage | None:
        """The image, if it was built and is whole. Raises `SourceFault` where that cannot be known now."""
        image = await self._store.find_image(name)
        if image is None:
            return None
        is_whole = await self._builder.exists(image, thoroughly=image in self._doubted)
        self._doubted.discard(image)
        if is_whole:
            return image
        log.warning("The image %s was built and is gone or damaged; it will be built again", name)
        await self._store.forget_image(name, image)
        return None

    def doubt(self, image: RunnableImage) -> None:
        """A server of this image could not be started: perhaps it is damaged."""
        self._doubted.add(image)

    async def ensure(
        self, resolved: ResolvedRef, requested_by: str, ceiling: BuildCeiling | None = None
    ) -> RunnableImage | Build:
        """The image, if it is there; else the one build of it, started now or joined.

        Raises `SourceFault` where this process is ending its builds, and `LimitReached` where a new one would be over the ceiling.
        """
        if self.is_ending:
            raise SourceFault("Replay's build service is just ending. Open the link again in a moment.")
        name = self.name_of(resolved)
        job = BuildJob(BuildId(secrets.token_hex(8)), name, resolved, self._builder.recipe)
        while True:
            if image := await self.find(name):
                return image
            if joined := await self._store.join_build(job, requested_by, ceiling):
                break
        # Also where another process drives it: this one then waits for the lease and goes on where that one died.
        build, _ = joined
        self._drive(build)
        return build

    async def recover(self) -> None:
        """Find again what an earlier process left: re-attach to what runs, end what is gone, remove what nobody knows."""
        unfinished = await self._store.unfinished_builds()
        try:
            running = [build.id for build in unfinished]
            for build_id in await self._builder.sweep(running, await self._store.kept_build_ids()):
                log.info("Removed what was left of build %s", build_id)
        except Exception:
            # Room on a disk, no more: people need the service.
            log.exception("Could not remove what ended builds have left")
        for build in unfinished:
            log.info("Found build %s of %s again", build.id, build.job.image_name)
            if build.status is BuildStatus.RUNNING:
                # It runs already, so it has a slot: making it wait for one would hide its log.
                self._in_slot.add(build.id)
            self._drive(build)

    async def finished(self, build_id: BuildId) -> Build:
        """The build once it is final, whichever process drives it."""
        while True:
            build = await self._store.get_build(build_id)
            if build is None:
                raise LookupError(f"No build {build_id}")
            if build.status.is_final:
                return build
            async for _ in self._feed.follow(build_stream(build_id), 0):
                pass
            # The feed also ends with the process, which has a moment left.
            await asyncio.sleep(LOOK_SECONDS)

    async def cancel(self, build_id: BuildId) -> None:
        """End a build that this process drives, really. No error where it has ended."""
        driving = self._driven.get(build_id)
        if driving is None:
            return
        driving.is_cancelled = True
        self._look_at_slots()
        if driving.running is not None:
            await driving.running.cancel()

    async def cancel_all(self) -> None:
        """End all builds that this process drives and wait until that is on record and nothing is left of them."""
        self.is_ending = True
        driven = list(self._driven.values())
        await asyncio.gather(*(self.cancel(driving.build.id) for driving in driven))
        for driving in driven:
            await driving.done.wait()

    async def session(self, image: RunnableImage) -> SessionCommand:
        """How a server is started from an image. Raises `SourceFault` where that cannot be known now."""
        return await self._builder.session(image)

    # from here on: one build's way

    def _drive(self, build: Build) -> None:
        if build.id not in self._driven:
            driving = self._driven[build.id] = _Driving(build)
            self._tasks.create_task(self._drive_to_the_end(driving), name=f"build {build.id}")

    async def _drive_to_the_end(self, driving: _Driving) -> None:
        build = driving.build
        try:
            with metrics.build_going_on():
                await self._drive_while_it_lasts(driving)
        finally:
            self._in_slot.discard(build.id)
            self._look_at_slots()
            del self._driven[build.id]
            driving.done.set()

    async def _drive_while_it_lasts(self, driving: _Driving) -> None:
        build = driving.build
        while not await self._is_over(build):
            try:
                if driving.faults < MOST_FAULTS:
                    await self._drive_once(driving)
                else:
                    await self._end(build, _given_up(driving))
            except Exception as error:
                # A database that does not answer must not end the service nor the build, which goes on by itself: tried again.
                driving.faults += 1
                driving.fault = _told_to_people(error)
                log.exception("Driving build %s broke, for the %d. time in a row", build.id, driving.faults)
                await asyncio.sleep(RETRY_SECONDS)

    async def _is_over(self, build: Build) -> bool:
        while True:
            try:
                current = await self._store.get_build(build.id)
            except Exception:
                # As above: not knowing is no reason to give up.
                log.exception("Could not read build %s; trying again", build.id)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return current is None or current.status.is_final

    async def _drive_once(self, driving: _Driving) -> None:
        build = driving.build
        if not await self._store.lease_build(build.id, self._owner, LEASE):
            await asyncio.sleep(LEASE.total_seconds() / 3)
            return
        async with asyncio.TaskGroup() as group:
            renewal = group.create_task(self._renew_lease(driving))
            await self._take_slot(driving)
            await self._end(build, await self._run(driving))
            renewal.cancel()

    async def _renew_lease(self, driving: _Driving) -> None:
        while True:
            await asyncio.sleep(LEASE.total_seconds() / 3)
            await self._store.lease_build(driving.build.id, self._owner, LEASE)
            driving.faults = 0

    async def _take_slot(self, driving: _Driving) -> None:
        """Wait until fewer builds run than may; a cancelled one need not wait for its end."""
        build_id = driving.build.id
        has_told = False
        while build_id not in self._in_slot and not driving.is_cancelled:
            if len(self._in_slot) < self._at_once:
                self._in_slot.add(build_id)
                return
            changed = self._slots_changed
            if has_told:
                await changed.wait()
                continue
            waiting = NewEvent(EventKind.PHASE, Phase.WAITING, "Waiting for another build to end.", datetime.now(UTC))
            await self._store.append_events(build_stream(build_id), [waiting])
            self._feed.notify(build_stream(build_id))
            has_told = True

    def _look_at_slots(self) -> None:
        changed, self._slots_changed = self._slots_changed, asyncio.Event()
        changed.set()

    async def _run(self, driving: _Driving) -> RunnableImage | BuildFailure:
        build = driving.build
        if driving.is_cancelled and driving.running is None and build.status is BuildStatus.QUEUED:
            return BuildFailure(
                FailureReason.CANCELLED, "The build was cancelled before it began. Open the link again."
            )
        stream = build_stream(build.id)
        try:
            cache_from = await self._store.last_images(build.job)
            running = driving.running = await self._builder.start(build.job, cache_from)
        except OSError:
            log.exception("Build %s could not be started", build.id)
            return _internal_failure(build)
        await self._store.mark_running(build.id)
        if driving.is_cancelled:
            await running.cancel()
        position = await self._store.stream_position(stream)
        async for chunk in running.follow(position):
            # The last phase of a build is told by `_end`, together with its outcome.
            events = [_event_of(record) for record in chunk.records if not _is_last_phase(record)]
            if not await self._store.append_log(stream, events, position, chunk.position):
                raise _LostBuild(f"Another process reads the log of build {build.id}")
            position = chunk.position
            driving.faults = 0
            self._feed.notify(stream)
        return await running.outcome()

    async def _end(self, build: Build, outcome: RunnableImage | BuildFailure) -> None:
        """Put the end on record, then remove what is of no use any more.

        In this order: a service killed in between finds an ended build, whose rest the next start sweeps up. The other
        way round it would find a build that never ended and whose files are gone, and would run it a second time.
        """
        if isinstance(outcome, BuildFailure):
            told = outcome.message[:300]
            log.info("Build %s of %s failed: %s: %r", build.id, build.job.image_name, outcome.reason, told)
            text = outcome.message
        else:
            log.info("Build %s of %s made %s", build.id, build.job.image_name, outcome.reference)
            text = "The environment is built."
        await self._store.finish_build(build.id, outcome, text)
        metrics.build_ended(build, outcome)
        self._feed.notify(build_stream(build.id))
        try:
            if isinstance(outcome, BuildFailure):
                await self._builder.discard(build.job)
            else:
                await self._builder.tidy(build.job)
        except (OSError, SourceFault):
            log.exception("Could not remove what build %s left; the next start tries again", build.id)


class _LostBuild(Exception):
    """Another replica drives this build: leave it to that one."""


def _told_to_people(error: Exception) -> ReplayError | None:
    """The error that has a sentence, also where a group of tasks wrapped it."""
    if isinstance(error, ReplayError):
        return error
    if isinstance(error, ExceptionGroup):  # of a group of tasks
        inside = cast("tuple[Exception, ...]", error.exceptions)  # pyright: ignore[reportUnknownMemberType] - generic without an argument
        return next((found for inner in inside if (found := _told_to_people(inner))), None)
    return None


def _given_up(driving: _Driving) -> BuildFailure:
    if driving.fault is not None:
        return BuildFailure(FailureReason.INTERNAL, driving.fault.sentence)
    return _internal_failure(driving.build)


def _internal_failure(build: Build) -> BuildFailure:
    return BuildFailure(
        FailureReason.INTERNAL,
        "Something went wrong in Replay itself. Try again; if it happens again, tell the administrators "
        f"the build's number, {build.id}.",
    )


def _is_last_phase(record: LogRecord) -> bool:
    return record.kind is EventKind.PHASE and record.phase in {Phase.BUILT, Phase.FAILED}


def _event_of(record: LogRecord) -> NewEvent:
    return NewEvent(record.kind, record.phase, record.text, datetime.fromtimestamp(record.at, UTC))
