"""A builder, a hub and a provider that a test directs, behind our own protocols; the store beside them is the real one."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from replay_build_service.builders.base import LogChunk, LogRecord, SessionCommand
from replay_build_service.builds import Builds
from replay_build_service.content_schemas import ContentModel
from replay_build_service.db import Store, open_database
from replay_build_service.domain import (
    BuildFailure,
    BuildId,
    BuildJob,
    BuildRecipe,
    Event,
    EventKind,
    FailureReason,
    ImageName,
    LaunchId,
    Phase,
    ResolvedRef,
    RunnableImage,
    Server,
    ServerStatus,
    StartProgress,
)
from replay_build_service.errors import NotFound, ReplayError
from replay_build_service.events import EventFeed
from replay_build_service.launches import Launches
from replay_build_service.links import Repository, RepoSpec
from replay_build_service.permissions import Permissions
from replay_build_service.policies import PolicySet
from replay_build_service.policy_values import Feature, Resources, VOPolicy
from replay_build_service.providers.base import RepoProvider

CANCELLED = BuildFailure(FailureReason.CANCELLED, "The build was cancelled.")
BROKEN = BuildFailure(FailureReason.DEPENDENCIES, "Nothing provides six==9.")
ABSENT = Server(ServerStatus.ABSENT)


def ref(name: str = "hello", version: str = "a" * 40, branch: str = "HEAD") -> ResolvedRef:
    url = f"https://git.example.org/{name}"
    return ResolvedRef(Repository.of_url(url), RepoSpec("git", url, branch), url, version)


def image(name: str = "hello") -> RunnableImage:
    return RunnableImage(f"venv@sha256:{name}", f"/images/{name}")


def a_job_of(build_id: str, name: str = "hello", recipe: BuildRecipe | None = None) -> BuildJob:
    resolved, recipe = ref(name), recipe or BuildRecipe("fake")
    return BuildJob(BuildId(build_id), ImageName.of(resolved, recipe), resolved, recipe)


def encode(stream: str, event: Event) -> bytes:
    return f"{event.sequence}:{event.text}".encode()


@asynccontextmanager
async def a_store(folder: Path) -> AsyncGenerator[Store]:
    """The service's database in a file of that folder; opened again, it is the same one."""
    async with open_database(f"sqlite:///{folder / 'replay.sqlite'}") as engine:
        yield Store(engine)


class FailingStore:
    """The real store, which for a while does not answer: all of it, or one method."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.is_down = False
        self.fails: set[str] = set()
        self.faults = 0
        self.calls: list[str] = []
        self.failed = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            if self.is_down or name in self.fails:
                self.faults += 1
                self.failed.set()
                raise OSError("database is locked")
            return await method(*args, **kwargs)

        return call


@dataclass
class FakeRunning:
    """A build as its own process has it: it goes on whoever follows."""

    log: list[LogRecord] = field(default_factory=list)
    result: RunnableImage | BuildFailure | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    followed_from: list[int] = field(default_factory=list)
    faults: list[Exception] = field(default_factory=list)
    """What the next questions for the outcome raise, one after the other."""

    def _wake(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    def say(self, text: str) -> None:
        self.log.append(LogRecord(EventKind.LINE, Phase.BUILDING, text, 0.0))
        self._wake()

    def end(self, result: RunnableImage | BuildFailure) -> None:
        if self.result is None:
            self.result = result
        self._wake()

    async def follow(self, position: int) -> AsyncIterator[LogChunk]:
        self.followed_from.append(position)
        while True:
            changed, has_ended = self.changed, self.result is not None
            if records := self.log[position:]:
                position += len(records)
                yield LogChunk(records, position)
            elif has_ended:
                return
            else:
                await changed.wait()

    async def outcome(self) -> RunnableImage | BuildFailure:
        assert self.result is not None, "asked before its end"
        if self.faults:
            raise self.faults.pop(0)
        return self.result

    async def cancel(self) -> None:
        self.end(CANCELLED)


class FakeBuilder:
    """Builds run until the test ends them."""

    def __init__(self) -> None:
        self.recipe = BuildRecipe("fake")
        self.running: dict[BuildId, FakeRunning] = {}
        self.jobs: list[BuildJob] = []
        self.attached: list[BuildId] = []
        self.discarded: list[BuildId] = []
        self.swept_but: frozenset[BuildId] | None = None
        self.gone: set[RunnableImage] = set()
        self.damaged: set[RunnableImage] = set()
        """What only a thorough look finds."""
        self.tidied: list[BuildId] = []
        self.cached_from: list[list[RunnableImage]] = []
        self.error: Exception | None = None
        self.started = asyncio.Event()

    async def start(self, job: BuildJob, cache_from: Sequence[RunnableImage] = ()) -> FakeRunning:
        if self.error is not None:
            raise self.error
        if job.build_id in self.running:
            self.attached.append(job.build_id)
        else:
            self.jobs.append(job)
            self.cached_from.append(list(cache_from))
            self.running[job.build_id] = FakeRunning()
        self.started.set()
        return self.running[job.build_id]

    async def next(self, count: int = 1) -> FakeRunning:
        """The ``count``-th build, once it has started."""
        while len(self.jobs) < count:
            self.started.clear()
            await self.started.wait()
        return self.running[self.jobs[count - 1].build_id]

    async def exists(self, image: RunnableImage, *, thoroughly: bool = False) -> bool:
        return image not in self.gone and not (thoroughly and image in self.damaged)

    async def discard(self, job: BuildJob) -> None:
        self.discarded.append(job.build_id)

    async def tidy(self, job: BuildJob) -> None:
        self.tidied.append(job.build_id)

    async def sweep(self, running: Collection[BuildId], kept: Collection[BuildId]) -> Sequence[BuildId]:
        self.swept_but = frozenset([*running, *kept])
        return []

    async def session(self, image: RunnableImage) -> SessionCommand:
        return SessionCommand(["run"], {}, None)


class FakeHub:
    """A hub whose servers start when it is asked, with the launch that it was asked for, and ask for its plan as a spawner does."""

    def __init__(self) -> None:
        self.servers: dict[tuple[str, str], Server] = {}
        self.starts: list[LaunchId] = []
        self.was_asked = asyncio.Event()
        """To start a server, and its spawner has its plan."""
        self.stops = 0
        self.faults: dict[str, list[Exception]] = {}
        """By method: what its next calls raise, one after the other."""
        self.messages: list[StartProgress] = [StartProgress("Looking for room"), StartProgress("", ready=True)]
        self.becomes: Callable[[Server], Server] | None = None
        """What a start turns into, where it is not a server of that launch."""
        self.spawn: Callable[[str, str, LaunchId], Any] | None = None
        """The spawner's own question."""
        self.when_looked_at: Callable[[], None] = lambda: None
        """Happens before each answer about a server."""

    def _fault(self, method: str) -> None:
        if self.faults.get(method):
            raise self.faults[method].pop(0)

    async def server(self, user: str, server_name: str) -> Server:
        await asyncio.sleep(0)
        self._fault("server")
        self.when_looked_at()
        return self.servers.get((user, server_name), ABSENT)

    async def start(self, user: str, server_name: str, launch_id: LaunchId) -> None:
        self._fault("start")
        self.starts.append(launch_id)
        if (user, server_name) in self.servers:
            return
        server = Server(ServerStatus.STARTING, f"/user/{user}/", launch_id)
        self.servers[user, server_name] = self.becomes(server) if self.becomes else server
        if self.spawn is not None:
            await self.spawn(user, server_name, launch_id)
        self.was_asked.set()

    async def stop(self, user: str, server_name: str) -> None:
        self._fault("stop")
        self.stops += 1
        self.servers.pop((user, server_name), None)

    async def progress(self, user: str, server_name: str) -> AsyncIterator[StartProgress]:
        self._fault("progress")
        for message in self.messages:
            if message.ready:
                server = self.servers[user, server_name]
                self.servers[user, server_name] = Server(ServerStatus.READY, server.url, server.launch_id)
            yield message


class FakeProvider:
    """Repositories whose branches the test moves."""

    name = "git"

    def __init__(self) -> None:
        self.branches: dict[str, str] = {"HEAD": "a" * 40}
        self.fault: ReplayError | None = None
        """What it says of everything."""

    async def resolve(self, spec: RepoSpec) -> ResolvedRef:
        if self.fault is not None:
            raise self.fault
        version = spec.ref if len(spec.ref) == 40 else self.branches.get(spec.ref)
        if version is None:
            raise NotFound(f"There is no “{spec.ref}”.")
        return ResolvedRef(Repository.of_url(spec.locator), spec, spec.locator, version)


class _TheEnd(Exception):
    """The process of this house ends, and its tasks with it."""


@dataclass
class FakeContents:
    """What is said to bring contents into sessions: ``asked`` is what it had to see to, ``fault`` what it then says."""

    asked: list[ResolvedRef] = field(default_factory=list)
    fault: ReplayError | None = None
    is_slow: bool = False
    """It never comes."""
    was_asked: asyncio.Event = field(default_factory=asyncio.Event)
    was_given_up: asyncio.Event = field(default_factory=asyncio.Event)
    """Nobody waited for it any more."""

    async def ready(self, content: ResolvedRef) -> None:
        self.asked.append(content)
        self.was_asked.set()
        if self.is_slow:
            try:
                await asyncio.Event().wait()
            finally:
                self.was_given_up.set()
        if self.fault is not None:
            raise self.fault

    def given(self, content: ResolvedRef) -> ContentModel:
        return ContentModel.of(content, folder="/files")


@dataclass
class House:
    """What one process of the service has."""

    store: Store
    builder: FakeBuilder
    hub: FakeHub
    feed: EventFeed
    builds: Builds
    launches: Launches

    async def texts(self, stream: str) -> list[str]:
        """All that a stream will ever tell: waits for its end."""
        found = [frame async for frames in self.feed.follow(stream) for frame in frames]
        numbers = [int(frame.partition(b":")[0]) for frame in found]
        assert numbers == list(range(1, len(found) + 1)), "a gap or a repeat"
        return [frame.partition(b":")[2].decode() for frame in found]


@asynccontextmanager
async def a_house(
    store: Any,
    builder: FakeBuilder | None = None,
    hub: FakeHub | None = None,
    provider: RepoProvider | None = None,
    *,
    at_once: int = 2,
    vos: Sequence[str] = ("vo.one", "vo.two"),
    policies: Sequence[VOPolicy] | None = None,
    features: Sequence[Feature] = (),
    archive: RepoProvider | None = None,
    contents: "FakeContents | None" = None,
) -> AsyncGenerator[House]:
    """The core of the service over that store; leaving it is the death of its process. ``archive``: another provider beside ``git``."""
    builder, hub, provider = builder or FakeBuilder(), hub or FakeHub(), provider or FakeProvider()
    try:
        async with asyncio.TaskGroup() as tasks:
            feed = EventFeed(store, encode, tasks)
            builds = Builds(store, builder, feed, tasks, "here", at_once=at_once)
            if policies is None:
                policies = [VOPolicy(vo, Resources()) for vo in vos]
            permissions = Permissions(PolicySet(policies), store, store, features)
            providers = {"git": provider} if archive is None else {"git": provider, archive.name: archive}
            launches = Launches(store, providers, builds, hub, permissions, feed, tasks, contents or FakeContents())

            async def spawn(user: str, server_name: str, launch_id: LaunchId) -> None:
                # A refused spawn ends as a failed server does.
                try:
                    await launches.plan(launch_id, user, server_name)
                except ReplayError as error:
                    hub.servers.pop((user, server_name), None)
                    hub.messages = [StartProgress(error.sentence, failed=True)]

            hub.spawn = spawn
            yield House(store, builder, hub, feed, builds, launches)
            raise _TheEnd
    except* _TheEnd:
        pass
