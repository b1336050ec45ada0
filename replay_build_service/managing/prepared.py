"""Events that managers prepare: a course or a workshop whose people will all open one link at about the same time.

Its environment is built ahead, as anybody's would be; its people are exempt from limits of rates while it lasts
(`replay_build_service.rulings`). It grants nothing beyond: what the policy denies is neither built nor launched.
"""

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from replay_build_service.domain import Build, BuildId, ImageName, ResolvedRef, RunnableImage
from replay_build_service.errors import BadLink, Conflict, NotFound, ReplayError, SourceFault, UnknownProvider
from replay_build_service.links import Repository, RepoSpec, safe_urlpath
from replay_build_service.managing import texts
from replay_build_service.managing.admission import Manager
from replay_build_service.policy_values import BuildCeiling
from replay_build_service.records import Action, Decision, StandingEvent
from replay_build_service.rulings import PreparedEvent

MOST_EVENTS = 30
"""That are not over, of one VO."""
MOST_SHOWN = 60
MOST_PEOPLE = 5000
LONGEST = timedelta(days=31)
MOST_TITLE = 120


class PreparedStore(Protocol):
    """See `replay_build_service.db.Store`."""

    async def events(self, vo: str, limit: int) -> Sequence[StandingEvent]: ...
    async def event(self, vo: str, event_id: str) -> StandingEvent | None: ...
    async def add_event(self, event: StandingEvent, decision: Decision, most: int) -> bool: ...
    async def record_event_build(
        self, event_id: str, version: str, image_name: str, build_id: BuildId | None, decision: Decision
    ) -> bool: ...
    async def remove_event(self, event_id: str, decision: Decision) -> bool: ...
    async def get_build(self, build_id: BuildId) -> Build | None: ...


class Resolves(Protocol):
    async def resolve(self, spec: RepoSpec) -> ResolvedRef: ...


class BuildsAhead(Protocol):
    """See `replay_build_service.builds.Builds`."""

    def name_of(self, resolved: ResolvedRef) -> ImageName: ...
    async def find(self, name: ImageName) -> RunnableImage | None: ...
    async def ensure(
        self, resolved: ResolvedRef, requested_by: str, ceiling: BuildCeiling | None = None
    ) -> RunnableImage | Build: ...


@dataclass(frozen=True, slots=True)
class EventWish:
    """An event as a form sends it; nothing of it is trusted yet."""

    title: str
    repo: str
    """``<provider>/<spec>``, as in a link."""
    urlpath: str
    starts: str
    ends: str
    people: str


@dataclass(frozen=True, slots=True)
class EventState:
    """An event and how far its environment is."""

    standing: StandingEvent
    is_built: bool | None
    """``None`` where that cannot be known just now."""
    build: Build | None
    """The build that was asked for ahead, if there was need of one."""

    @property
    def spec(self) -> RepoSpec:
        return RepoSpec.parse(self.standing.event.repo)


class PreparedEvents:
    """The events of each VO."""

    def __init__(
        self,
        store: PreparedStore,
        providers: Mapping[str, Resolves],
        builds: BuildsAhead,
        refuse_denied: Callable[[str, Repository], Awaitable[None]],
        build_ceiling: Callable[[str], BuildCeiling | None],
    ) -> None:
        """``refuse_denied`` raises `NotPermitted` where a VO may not launch a repository.

        ``build_ceiling`` says how many builds each of a VO's members may have under way: a manager has no more.
        """
        self._store = store
        self._providers = providers
        self._builds = builds
        self._refuse_denied = refuse_denied
        self._build_ceiling = build_ceiling

    async def all(self, manager: Manager) -> Sequence[EventState]:
        """The last `MOST_SHOWN`, by their start, latest first."""
        return [await self._state(event) for event in await self._store.events(manager.vo, MOST_SHOWN)]

    async def get(self, manager: Manager, event_id: str) -> EventState:
        """Raises `NotFound` for an event of another VO, as for one that never was."""
        return await self._state(await self._known(manager, event_id))

    async def prepare(self, manager: Manager, wish: EventWish) -> StandingEvent:
        """Put an event on record, then have its environment built.

        Raises `BadLink` for what cannot be meant, `NotPermitted` for a repository that may not be launched, `Conflict` where
        there are too many, and whatever the provider raises. Where it was stored and the build could not be asked for, the
        sentence of a `SourceFault` says so.
        """
        now = datetime.now(UTC)
        title = texts.line(wish.title, "The title", MOST_TITLE)
        starts = texts.moment(wish.starts, "The start")
        ends = texts.end(wish.ends, "The end", now)
        if not timedelta(0) < ends - starts <= LONGEST:
            raise BadLink(f"The end must come after the start, by at most {LONGEST.days} days.")
        resolved = await self._resolve(manager, wish.repo)
        event = StandingEvent(
            PreparedEvent(secrets.token_hex(8), title, resolved.spec.text, starts, ends, _people(wish.people)),
            urlpath=safe_urlpath(wish.urlpath),
            by=manager.name,
            at=now,
            version=resolved.version,
            image_name=str(self._builds.name_of(resolved)),
        )
        span = f"{starts:%Y-%m-%d %H:%M} to {ends:%Y-%m-%d %H:%M} UTC, {event.event.people} people"
        decision = Decision(manager.vo, manager.name, Action.PREPARE_EVENT, f"{title}: {resolved.spec.text}", span)
        if not await self._store.add_event(event, decision, MOST_EVENTS):
            raise Conflict(f"{manager.vo} has {MOST_EVENTS} events ahead, which is the limit. Call one off first.")
        try:
            await self._build(manager, event, resolved)
        except ReplayError as error:
            raise SourceFault(
                f"The event is on record, but its environment could not be asked for: {error.sentence} "
                "Go to the VO’s events, open it and build it there."
            ) from error
        return event

    async def build_ahead(self, manager: Manager, event_id: str) -> None:
        """Look at the repository again, and build what its link means now. Raises as `prepare`, and `LimitReached`."""
        event = await self._known(manager, event_id)
        await self._build(manager, event, await self._resolve(manager, event.event.repo))

    async def call_off(self, manager: Manager, event_id: str) -> None:
        """The event is forgotten; what was built stays. Raises `NotFound`."""
        decision = Decision(manager.vo, manager.name, Action.CALL_OFF_EVENT, event_id)
        if not await self._store.remove_event(event_id, decision):
            raise NotFound(f"{manager.vo} has no such event.")

    async def _known(self, manager: Manager, event_id: str) -> StandingEvent:
        event = await self._store.event(manager.vo, event_id)
        if event is None:
            raise NotFound(f"{manager.vo} has no such event.")
        return event

    async def _build(self, manager: Manager, event: StandingEvent, resolved: ResolvedRef) -> None:
        found = await self._builds.ensure(resolved, manager.name, self._build_ceiling(manager.vo))
        build_id = None if isinstance(found, RunnableImage) else found.id
        said = f"commit {resolved.short_version}, {'built already' if build_id is None else f'build {build_id}'}"
        decision = Decision(manager.vo, manager.name, Action.BUILD_AHEAD, event.event.title, said)
        name = str(self._builds.name_of(resolved))
        if not await self._store.record_event_build(event.event.id, resolved.version, name, build_id, decision):
            raise NotFound(f"{manager.vo} has no such event any more.")

    async def _resolve(self, manager: Manager, repo: str) -> ResolvedRef:
        spec = RepoSpec.parse(repo)
        provider = self._providers.get(spec.provider)
        if provider is None:
            raise UnknownProvider(f"There is no provider “{spec.provider}” here.")
        resolved = await provider.resolve(spec)
        await self._refuse_denied(manager.vo, resolved.repository)
        return resolved

    async def _state(self, event: StandingEvent) -> EventState:
        build = None if event.build_id is None else await self._store.get_build(event.build_id)
        is_built: bool | None = False
        if event.image_name is not None:
            try:
                is_built = await self._builds.find(ImageName.from_text(event.image_name)) is not None
            except SourceFault:
                is_built = None
        return EventState(event, is_built, build)


def _people(text: str) -> int:
    try:
        count = int(text)
    except ValueError:
        count = 0
    if not 1 <= count <= MOST_PEOPLE:
        raise BadLink(f"How many people are expected should be a number from 1 to {MOST_PEOPLE}.")
    return count
