"""From a person's consent to their server: policy, one server at a time, and the plan for the spawner.

Knows the store and the hub by their protocols. A launch is on record before anybody is told of it; a service that
died goes on with its launches where it left off.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Protocol, TypeVar, assert_never

from replay_build_service.awaiting import Awaiting
from replay_build_service.builds import Builds
from replay_build_service.content import Contents
from replay_build_service.domain import (
    NO_NAMED_SERVERS,
    BuildId,
    Launch,
    LaunchId,
    LaunchState,
    NewEvent,
    Person,
    Phase,
    ResolvedRef,
    Server,
    ServerStatus,
    launch_stream,
)
from replay_build_service.endings import Endings, EndingStore
from replay_build_service.errors import BadLink, Conflict, LimitReached, NotFound, ReplayError
from replay_build_service.events import EventFeed
from replay_build_service.launch_records import launch_of
from replay_build_service.lifetimes import Lifetimes, LifetimeStore
from replay_build_service.links import RepoSpec, safe_urlpath
from replay_build_service.permissions import Permissions, Permit
from replay_build_service.policy_values import Ceilings, Limited, Resources
from replay_build_service.providers.base import RepoProvider
from replay_build_service.resolving import Meaning, Resolving, ResolvingStore
from replay_build_service.starts import STILL_STARTING, Hub, Starts, StartStore, is_of, phase_event
from replay_build_service.wishes import Consent, Planned, Wish

log = logging.getLogger(__name__)

_T = TypeVar("_T")

FRESH = timedelta(minutes=10)
"""How long after its image was there a launch may still be used."""

RETRY_SECONDS = 5.0


class LaunchStore(StartStore, LifetimeStore, EndingStore, ResolvingStore, Protocol):
    """What launches ask of the database; see `replay_build_service.db.Store`."""

    async def create_launch(self, launch: Launch, ceilings: Ceilings = ...) -> Launch: ...
    async def take_server(
        self,
        launch: Launch,
        expected: LaunchId | None,
        state: LaunchState,
        event: NewEvent,
        ceilings: Ceilings = ...,
    ) -> bool: ...
    async def holder(self, user: str, server_name: str) -> Launch | None: ...
    async def recent_launches(self, user: str, limit: int = 10) -> Sequence[Launch]: ...
    async def consume_launch(
        self,
        launch_id: LaunchId,
        user: str,
        server_name: str,
        max_age: timedelta,
        resources: Resources | None = None,
        maximum_age: timedelta | None = None,
    ) -> Launch | None: ...
    async def launches_waiting_for(self, build_id: BuildId) -> int: ...
    async def usual_build_seconds(self) -> float | None: ...


class Launches:
    """The launches of one service."""

    def __init__(
        self,
        store: LaunchStore,
        providers: Mapping[str, RepoProvider],
        builds: Builds,
        hub: Hub,
        permissions: Permissions,
        feed: EventFeed,
        tasks: asyncio.TaskGroup,
        contents: Contents,
    ) -> None:
        self._store = store
        self._builds = builds
        self._hub = hub
        self.permissions = permissions
        self.contents = contents
        self._feed = feed
        self._tasks = tasks
        self._starts = Starts(store, hub, feed, builds.doubt)
        self._awaiting = Awaiting(store, builds, feed, contents)
        self.resolving = Resolving(store, providers, builds)
        self.lifetimes = Lifetimes(store, hub, feed)
        self.endings = Endings(store)

    async def consent(self, person: Person, repo: str, content: str | None = None, server_name: str = "") -> Consent:
        """What would run, for the page that asks. Starts nothing and stores nothing."""
        self.permissions.policies.permitted(person)
        meant, also = await asyncio.gather(
            self.resolving.offered(RepoSpec.parse(repo)), self.resolving.content(content)
        )
        offers, chosen = await self.permissions.offers(person, meant.resolved.repository, also and also.repository)
        holder, server = await self.standing(person, server_name)
        return Consent(
            resolved=meant.resolved,
            offers=offers,
            chosen=chosen,
            is_built=await self._builds.find(meant.image_name) is not None,
            usual_seconds=await self._store.usual_build_seconds(),
            server=server,
            holder=holder,
            same_image=holder is not None
            and holder.image_name == meant.image_name
            and _version_of(holder.content) == _version_of(also),
            unanswered=meant.unanswered,
            content=also,
        )

    async def standing(self, person: Person, server_name: str = "") -> tuple[Launch | None, Server]:
        """Which launch holds the person's server, and what the hub says of it; brings our record up to date."""
        holder, server = await asyncio.gather(
            self._store.holder(person.name, server_name), self._hub.server(person.name, server_name)
        )
        if holder is not None and holder.state is LaunchState.RUNNING and not is_of(server, holder):
            # The record may be younger than what the hub said beside it.
            server = await self._hub.server(person.name, server_name)
        if holder is not None and holder.state is LaunchState.RUNNING and not is_of(server, holder):
            await self._end(holder.id, {LaunchState.RUNNING}, "The session has ended.")
            holder = None
        return holder, server

    async def create(self, person: Person, wish: Wish) -> Launch:
        """Put a launch on record and see to it: the person's consent, given by a form or with a token.

        The launch that comes back may be one that was on its way already, or one that must be chosen (`LaunchState.CHOOSING`).
        Raises `BadLink`, `NotPermitted`, `TermsNotAgreed`, `LimitReached`, `NotFound` and whatever the provider raises.
        """
        meant, content, permit = await self._permitted(person, wish)
        # Neither needs the other, and the person waits.
        (holder, server), image = await asyncio.gather(
            self.standing(person, wish.server_name), self._builds.find(meant.image_name)
        )
        is_stopping = server.status is ServerStatus.STOPPING
        if is_stopping and holder is not None:
            # What is on its way out asks for no choice: this launch waits for that.
            await self._end(holder.id, {LaunchState.RUNNING}, "The session has ended.")
        is_free = is_stopping or server.status is ServerStatus.ABSENT or holder is not None
        state = LaunchState.STARTING if image else LaunchState.BUILDING
        state = state if is_free else LaunchState.CHOOSING
        launch = launch_of(person, wish, meant, content, permit, state, image)
        stored = await self._create(launch, permit.ceilings)
        await self.permissions.remember(person, stored.vo)
        if stored.id == launch.id and stored.state is not LaunchState.CHOOSING:
            self._see_to(stored, partial(self._go_on, stored, server=server))
        return stored

    async def create_now(self, person: Person, wish: Wish) -> Planned:
        """For a spawn that names a repository itself: only where the image is built and the server is free."""
        meant, content, permit = await self._permitted(person, wish)
        image = await self._builds.find(meant.image_name)
        if image is None:
            raise Conflict(
                "This repository is not built yet, and a server cannot wait for that. "
                "Open its link, or POST it to the Replay service's api/launches and follow the launch."
            )
        launch = launch_of(person, wish, meant, content, permit, LaunchState.STARTING, image)
        holder = await self._store.holder(person.name, wish.server_name)
        if holder is not None and holder.state is LaunchState.RUNNING:
            # The hub starts a server, so the one on our record has ended.
            await self._end(holder.id, {LaunchState.RUNNING}, "The session has ended.")
        stored = await self._create(launch, permit.ceilings)
        if stored.id != launch.id or stored.state is not LaunchState.STARTING:
            # A spawn cannot wait for a choice, so none is left to be made.
            await self._end(launch.id, {LaunchState.CHOOSING}, "Another launch held the server.")
            raise Conflict("Another launch of yours is on its way. Open or stop that one first.")
        planned = await self.plan(launch.id, person.name, wish.server_name, person.groups)
        self._see_to(planned.launch, partial(self._starts.follow, planned.launch))
        return planned

    async def plan(
        self, launch_id: LaunchId, user: str, server_name: str, groups: frozenset[str] | None = None
    ) -> Planned:
        """Use a launch up, for the spawner. Once.

        ``groups`` are those that the hub has the person in now. Raises `NotFound` for a launch that is not this person's,
        `NotPermitted` where it is not allowed any more, and `Conflict` for one that was used or is too old.
        """
        known = await self._store.get_launch(launch_id)
        if known is None or known.user != user or known.server_name != server_name:
            raise NotFound("There is no such launch of yours. Open the repository's link again.")
        policy = await self.permissions.at_start(known, groups)
        launch = await self._store.consume_launch(
            launch_id, user, server_name, FRESH, policy.resources, policy.maximum_age
        )
        if launch is None:
            raise Conflict("This launch was used already, or it waited too long. Open the repository's link again.")
        if launch.image is None:
            raise AssertionError(f"Launch {launch_id} is starting without an image")
        return Planned(launch, launch.image, policy)

    async def get(self, person: Person, launch_id: LaunchId) -> Launch:
        """A launch of this person's. Raises `NotFound` for anybody else's, as for one that never was."""
        launch = await self._store.get_launch(launch_id)
        if launch is None or launch.user != person.name:
            raise NotFound("There is no such launch of yours.")
        return launch

    async def recent(self, person: Person) -> Sequence[Launch]:
        return await self._store.recent_launches(person.name)

    async def replace(self, person: Person, launch_id: LaunchId, instead_of: LaunchId | None) -> Launch:
        """The person's choice: stop what holds their server, and let this launch have it.

        ``instead_of`` is the launch that they saw holding it; `Conflict` where that has changed meanwhile.
        """
        launch = await self.get(person, launch_id)
        if launch.state is not LaunchState.CHOOSING:
            return launch
        server = await self._hub.server(person.name, launch.server_name)
        if server.status is ServerStatus.STARTING:
            # Asked before anything is given up, since the hub cannot stop it.
            raise Conflict(STILL_STARTING)
        held = await self._store.holder(person.name, launch.server_name)
        if not await self._take(launch, instead_of):
            raise Conflict("Something else has taken your server meanwhile. Look again and choose.")
        if instead_of is not None:
            self._feed.notify(launch_stream(instead_of))
        if held is not None and held.image_name != launch.image_name:
            await self._awaiting.cancel_unwanted(held.id)
        taken = await self.get(person, launch_id)
        self._see_to(taken, partial(self._go_on, taken, stop_first=True))
        return taken

    async def give_up(self, person: Person, launch_id: LaunchId) -> None:
        """The person does not want this launch any more. Its build ends too where nobody else waits for it.

        Raises `NotFound`, and `Conflict` or `SourceFault` where its server cannot be stopped now.
        """
        is_over = False
        while not is_over:
            launch = await self.get(person, launch_id)
            match launch.state:
                case LaunchState.BUILDING | LaunchState.CHOOSING:
                    is_over = await self._end(launch.id, {launch.state}, "You gave up this launch.")
                    if is_over:
                        await self._awaiting.cancel_unwanted(launch.id)
                case LaunchState.STARTING | LaunchState.RUNNING:
                    await self.stop_server(person, launch.server_name)
                    is_over = True
                case LaunchState.ENDED | LaunchState.FAILED:
                    is_over = True
                case _:
                    assert_never(launch.state)

    async def stop_server(self, person: Person, server_name: str = "") -> None:
        """Stop the person's server, whatever it runs, and wait until it is gone."""
        holder = await self._store.holder(person.name, server_name)
        await self._starts.stop(person.name, server_name)
        if holder is not None and holder.state in {LaunchState.RUNNING, LaunchState.STARTING}:
            await self._end(holder.id, {LaunchState.RUNNING, LaunchState.STARTING}, "You stopped the session.")

    async def recover(self) -> None:
        """Go on with the launches that an earlier process left on their way."""
        for launch in await self._store.launches_in({LaunchState.BUILDING, LaunchState.STARTING}):
            self._see_to(launch, partial(self._go_on, launch))

    async def _permitted(self, person: Person, wish: Wish) -> tuple[Meaning, ResolvedRef | None, Permit]:
        """What is meant, with its content, where the person may run that: all but the limits, which are counted when it is stored."""
        if wish.server_name:
            raise BadLink(NO_NAMED_SERVERS)
        policy = self.permissions.policies.choose(person, wish.vo)
        safe_urlpath(wish.urlpath)
        meant, content = await asyncio.gather(
            self.resolving.agreed(wish), self.resolving.content(wish.content, wish.content_version)
        )
        permit = await self.permissions.permit(
            person, wish, policy, meant.resolved.repository, content and content.repository
        )
        return meant, content, permit

    async def _create(self, launch: Launch, ceilings: Ceilings) -> Launch:
        return await self._within(launch, lambda: self._store.create_launch(launch, ceilings))

    async def _take(self, launch: Launch, instead_of: LaunchId | None) -> bool:
        ceilings = await self.permissions.ceilings(launch)
        event = phase_event(Phase.FAILED, "You launched something else instead.")
        return await self._within(
            launch,
            lambda: self._store.take_server(launch, instead_of, LaunchState.BUILDING, event, ceilings),
        )

    async def _within(self, launch: Launch, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """Sessions on our record may be over: where a limit refuses, those are left out, and it is counted once more."""
        try:
            return await attempt()
        except LimitReached as reached:
            repository, vo, user = launch.resolved.repository, launch.vo, launch.user
            match reached.limited:
                case Limited.REPOSITORY:
                    key = repository.key
                    await self.lifetimes.tidy(("repository", key), lambda one: one.resolved.repository.key == key)
                case Limited.VO:
                    await self.lifetimes.tidy(("vo", vo), lambda one: one.vo == vo)
                case Limited.PERSON:
                    await self.lifetimes.tidy(("user", user), lambda one: one.user == user)
                case _:
                    raise
        return await attempt()

    # from here on: one launch's way

    def _see_to(self, launch: Launch, way: Callable[[], Awaitable[None]]) -> None:
        self._tasks.create_task(self._to_the_end(launch, way), name=f"launch {launch.id}")

    async def _to_the_end(self, launch: Launch, way: Callable[[], Awaitable[None]]) -> None:
        """Whatever goes wrong on a launch's way ends this one launch and is told; the service lives."""
        try:
            await way()
        except ReplayError as error:
            await self._fail(launch, error.sentence)
        except Exception:
            log.exception("Launch %s broke", launch.id)
            await self._fail(
                launch,
                "Something went wrong in Replay itself. Try again; if it happens again, tell the administrators "
                f"the launch's number, {launch.id}.",
            )

    async def _fail(self, launch: Launch, sentence: str) -> None:
        """A database that does not answer now is asked again: a launch must not hang without a word."""
        while True:
            try:
                return await self._starts.fail(launch.id, sentence)
            except Exception:
                log.exception("Could not record that launch %s failed; trying again", launch.id)
                await asyncio.sleep(RETRY_SECONDS)

    async def _go_on(self, launch: Launch, *, server: Server | None = None, stop_first: bool = False) -> None:
        if stop_first:
            await self._say(launch.id, Phase.WAITING, "Stopping your running server.")
            await self._starts.stop(launch.user, launch.server_name, is_patient=True)
        if launch.state is LaunchState.BUILDING:
            ceiling = self.permissions.policies.build_ceiling(launch.vo)
            image = await self._awaiting.image_for(launch, ceiling)
            moved = image is not None and await self._store.move_launch(
                launch.id, {LaunchState.BUILDING}, LaunchState.STARTING, image=image
            )
            if not moved:
                return
            server = None
        if launch.content is not None and launch.consumed_at is None:
            at = f"{launch.content.repository.short} at {launch.content.version[:12]}"
            await self._say(launch.id, Phase.LAUNCHING, f"Fetching {at}, which goes into a folder of your session.")
            try:
                if not await self._awaiting.content_for(launch, launch.content):
                    return
            except ReplayError as error:
                # It says nothing against the image.
                await self._starts.fail(launch.id, error.sentence, doubts_image=False)
                return
            server = None
        await self._starts.start(launch, server)

    async def _end(self, launch_id: LaunchId, allowed_from: Collection[LaunchState], text: str) -> bool:
        event = phase_event(Phase.FAILED, text)
        has_ended = await self._store.move_launch(launch_id, allowed_from, LaunchState.ENDED, event=event)
        self._feed.notify(launch_stream(launch_id))
        return has_ended

    async def _say(self, launch_id: LaunchId, phase: Phase, text: str) -> None:
        await self._store.append_events(launch_stream(launch_id), [phase_event(phase, text)])
        self._feed.notify(launch_stream(launch_id))


def _version_of(content: ResolvedRef | None) -> tuple[str, str] | None:
    return content and (content.repository.url, content.version)
