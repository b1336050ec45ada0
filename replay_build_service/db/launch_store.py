"""The part of the store that keeps launches and who holds which server. Used through `Store` only."""

from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, and_, delete, exists, func, insert, not_, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from replay_build_service.db.activity_store import forget_activity
from replay_build_service.db.event_store import append
from replay_build_service.db.rows import content_text, launch_of, launch_row, recipe_of, resolved_of
from replay_build_service.db.tables import ActiveServerRow, BuildRow, ImageRow, LaunchRow, StreamRow
from replay_build_service.domain import (
    BuildId,
    ImageName,
    Launch,
    LaunchId,
    LaunchState,
    NewEvent,
    ResolvedRef,
    RunnableImage,
    launch_stream,
)
from replay_build_service.links import RepoSpec
from replay_build_service.policy_values import Ceilings, Counts, Resources

_HOLDING = (LaunchState.BUILDING, LaunchState.STARTING, LaunchState.RUNNING)
"""A launch in one of these has a server, or is on its way to one: limits count them."""

_UNLIMITED = Ceilings()


class LaunchQueries:
    """Launches and the row per (user, server name) that holds the active one."""

    def _reading(self) -> AbstractAsyncContextManager[AsyncSession]:
        raise AssertionError("Store opens its sessions")

    def _writing(self) -> AbstractAsyncContextManager[AsyncSession]:
        raise AssertionError("Store opens its sessions")

    async def create_launch(self, launch: Launch, ceilings: Ceilings = _UNLIMITED) -> Launch:
        """Store a launch and let it hold the person's server, where nothing else does.

        Where a launch of the same image, path and content is on its way already, that one is returned and nothing is stored.
        Where another launch holds the server, this one is stored as `LaunchState.CHOOSING`. Raises `LimitReached` where it
        would take a server over one of the ceilings. Writing transactions follow each other, so the count is exact.
        """
        async with self._writing() as session:
            holder = await _holder(session, launch.user, launch.server_name)
            if holder is not None and not LaunchState(holder.state).is_final:
                asked = (str(launch.image_name), launch.urlpath, content_text(launch.content))
                same = (holder.image_name, holder.urlpath, holder.content) == asked
                if same and LaunchState(holder.state) in {LaunchState.BUILDING, LaunchState.STARTING}:
                    return launch_of(holder)
                row = launch_row(launch)
                row.state = LaunchState.CHOOSING
            else:
                row = launch_row(launch)
                if launch.state is not LaunchState.CHOOSING:
                    ceilings.refuse(await _counts(session, launch), launch.vo, launch.resolved.repository)
                    await _hold(session, launch)
            session.add(row)
            session.add(StreamRow(id=launch_stream(launch.id), last_sequence=0, position=0, finished=False))
            return launch_of(row)

    async def take_server(
        self,
        launch: Launch,
        expected: LaunchId | None,
        state: LaunchState,
        event: NewEvent,
        ceilings: Ceilings = _UNLIMITED,
    ) -> bool:
        """A launch that was choosing takes the server from ``expected``; false where that is not its holder any more.

        The launch that held it is ended, whatever it was doing; ``event`` is the last of its stream. Raises `LimitReached`
        as `create_launch`, and then all is as before.
        """
        async with self._writing() as session:
            holder = await _holder(session, launch.user, launch.server_name)
            held_by = holder.id if holder is not None and not LaunchState(holder.state).is_final else None
            if held_by != expected:
                return False
            taken = await session.execute(
                update(LaunchRow)
                .where(LaunchRow.id == launch.id, LaunchRow.state == LaunchState.CHOOSING)
                .values(**_state_values(state))
                .returning(LaunchRow.id)
            )
            if taken.first() is None:
                return False
            if holder is not None and held_by is not None:
                holder.state, holder.ended_at = LaunchState.ENDED, datetime.now(UTC)
                await forget_activity(session, holder.id)
                await append(session, launch_stream(LaunchId(holder.id)), [event], finished=True)
            ceilings.refuse(await _counts(session, launch), launch.vo, launch.resolved.repository)
            await _hold(session, launch)
            return True

    async def counts(self, launch: Launch) -> Counts:
        """What there is of all that is limited, but for what holds the server that this launch would take."""
        async with self._reading() as session:
            return await _counts(session, launch)

    async def get_launch(self, launch_id: LaunchId) -> Launch | None:
        async with self._reading() as session:
            row = await session.get(LaunchRow, launch_id)
            return None if row is None else launch_of(row)

    async def holder(self, user: str, server_name: str) -> Launch | None:
        """The launch that holds that server now; none where it has ended."""
        async with self._reading() as session:
            row = await _holder(session, user, server_name)
            return None if row is None or LaunchState(row.state).is_final else launch_of(row)

    async def recent_launches(self, user: str, limit: int = 10) -> Sequence[Launch]:
        """The person's last launches, newest first."""
        async with self._reading() as session:
            rows = await session.scalars(
                select(LaunchRow).where(LaunchRow.user == user).order_by(LaunchRow.created_at.desc()).limit(limit)
            )
            return [launch_of(row) for row in rows]

    async def last_built(self, spec: RepoSpec, builder: str) -> tuple[ResolvedRef, ImageName, datetime] | None:
        """What that link led to when it was last launched or built, by that builder and with an image that is kept; and when.

        Of a link that names a version for good, also that version by another ref. Reads all launches and builds.
        """
        of_launches = (
            select(LaunchRow, BuildRow.recipe)
            .join(ImageRow, ImageRow.name == LaunchRow.image_name)
            .join(BuildRow, BuildRow.id == ImageRow.build_id)
            .where(_is_of_link(LaunchRow, spec))
            .order_by(LaunchRow.created_at.desc())
        )
        of_builds = (
            select(BuildRow, BuildRow.recipe)
            .join(ImageRow, ImageRow.build_id == BuildRow.id)
            .where(_is_of_link(BuildRow, spec))
            .order_by(BuildRow.created_at.desc())
        )
        async with self._reading() as session:
            launched = (await session.execute(of_launches.limit(20))).all()
            built = (await session.execute(of_builds.limit(20))).all()
            ours = [row for row, recipe in (*launched, *built) if recipe_of(recipe).builder == builder]
            last = max(ours, key=lambda row: row.created_at, default=None)
            return last and (resolved_of(last), ImageName.from_text(last.image_name), last.created_at)

    async def launches_in(self, states: Collection[LaunchState]) -> Sequence[Launch]:
        async with self._reading() as session:
            rows = await session.scalars(select(LaunchRow).where(LaunchRow.state.in_(states)))
            return [launch_of(row) for row in rows]

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
    ) -> bool:
        """Change a launch's state by compare-and-set; false where it was in none of ``allowed_from``.

        ``event`` tells of it in the launch's stream, in the same transaction. It is the last one where the launch has
        become a server or is over.
        """
        values = _state_values(to)
        if failure is not None:
            values["failure"] = failure
        if image is not None:
            values |= {"image_reference": image.reference, "image_location": image.location}
        if build_id is not None:
            values["build_id"] = build_id
        async with self._writing() as session:
            moved = await session.execute(
                update(LaunchRow)
                .where(LaunchRow.id == launch_id, LaunchRow.state.in_(allowed_from))
                .values(**values)
                .returning(LaunchRow.id)
            )
            if moved.first() is None:
                return False
            if to.is_final:
                await forget_activity(session, launch_id)
            if event is not None:
                is_last = to.is_final or to is LaunchState.RUNNING
                await append(session, launch_stream(launch_id), [event], finished=is_last)
            return True

    async def explain_end(self, launch_id: LaunchId, failure: str, within: timedelta) -> bool:
        """Say why a launch has ended; false where it has not, or longer ago, or where that is on record already."""
        async with self._writing() as session:
            explained = await session.execute(
                update(LaunchRow)
                .where(
                    LaunchRow.id == launch_id,
                    LaunchRow.state == LaunchState.ENDED,
                    LaunchRow.failure.is_(None),
                    LaunchRow.ended_at > datetime.now(UTC) - within,
                )
                .values(failure=failure)
                .returning(LaunchRow.id)
            )
            return explained.first() is not None

    async def given_up_after_their_plan(self, within: timedelta) -> Sequence[Launch]:
        """Launches that failed no longer ago than that, after the spawner had their plan, and whose place nothing else has taken."""
        async with self._reading() as session:
            rows = await session.scalars(
                select(LaunchRow)
                .join(ActiveServerRow, ActiveServerRow.launch_id == LaunchRow.id)
                .where(
                    LaunchRow.state == LaunchState.FAILED,
                    LaunchRow.consumed_at.is_not(None),
                    LaunchRow.ended_at > datetime.now(UTC) - within,
                )
            )
            return [launch_of(row) for row in rows]

    async def take_back(self, launch_id: LaunchId) -> bool:
        """A launch that had failed runs: from the moment on at which it was given up. False where its place is taken."""
        holds = exists().where(ActiveServerRow.launch_id == LaunchRow.id)
        async with self._writing() as session:
            taken = await session.execute(
                update(LaunchRow)
                .where(LaunchRow.id == launch_id, LaunchRow.state == LaunchState.FAILED, holds)
                .values(state=LaunchState.RUNNING, running_at=LaunchRow.ended_at, ended_at=None, failure=None)
                .returning(LaunchRow.id)
            )
            return taken.first() is not None

    async def consume_launch(
        self,
        launch_id: LaunchId,
        user: str,
        server_name: str,
        max_age: timedelta,
        resources: Resources | None = None,
        maximum_age: timedelta | None = None,
    ) -> Launch | None:
        """Use a launch up: once, by its own person, for its own server, while it is fresh. Otherwise ``None``.

        ``resources`` and ``maximum_age`` are what its session gets, for the record.
        """
        now = datetime.now(UTC)
        got = resources or Resources()
        async with self._writing() as session:
            row = await session.scalar(
                update(LaunchRow)
                .where(
                    LaunchRow.id == launch_id,
                    LaunchRow.user == user,
                    LaunchRow.server_name == server_name,
                    LaunchRow.state == LaunchState.STARTING,
                    LaunchRow.consumed_at.is_(None),
                    LaunchRow.starting_at > now - max_age,
                )
                .values(
                    consumed_at=now,
                    memory_reserved=got.reserved_memory,
                    cores_reserved=got.reserved_cores,
                    gpus_reserved=got.gpus.count if got.gpus else 0,
                    maximum_age=None if maximum_age is None else maximum_age.total_seconds(),
                )
                .returning(LaunchRow)
            )
            return None if row is None else launch_of(row)


def _is_of_link(table: type[LaunchRow | BuildRow], spec: RepoSpec) -> ColumnElement[bool]:
    is_so_named = or_(table.ref == spec.ref, table.version == spec.ref)
    return and_(table.provider == spec.provider, table.locator == spec.locator, is_so_named)


def _state_values(state: LaunchState) -> dict[str, object]:
    values: dict[str, object] = {"state": state}
    if state.is_final:
        values["ended_at"] = datetime.now(UTC)
    if state is LaunchState.STARTING:
        values["starting_at"] = datetime.now(UTC)
    if state is LaunchState.RUNNING:
        values["running_at"] = datetime.now(UTC)
    return values


async def _holder(session: AsyncSession, user: str, server_name: str) -> LaunchRow | None:
    return await session.scalar(
        select(LaunchRow)
        .join(ActiveServerRow, ActiveServerRow.launch_id == LaunchRow.id)
        .where(ActiveServerRow.user == user, ActiveServerRow.server_name == server_name)
    )


async def _counts(session: AsyncSession, launch: Launch) -> Counts:
    is_its_own = and_(LaunchRow.user == launch.user, LaunchRow.server_name == launch.server_name)
    of_vo = LaunchRow.vo == launch.vo
    person, vo, repository = (
        await session.execute(
            select(
                func.count().filter(of_vo, LaunchRow.user == launch.user),
                func.count().filter(of_vo),
                func.count().filter(func.lower(LaunchRow.repository).in_(launch.resolved.repository.counted_as)),
            ).where(LaunchRow.state.in_(_HOLDING), not_(is_its_own))
        )
    ).one()
    needs_build = launch.state in {LaunchState.BUILDING, LaunchState.CHOOSING} and launch.image is None
    builds = await count_builds(session, launch.user, str(launch.image_name)) if needs_build else 0
    return Counts(person, vo, repository, builds)


async def count_builds(session: AsyncSession, user: str, but_of: str) -> int:
    """The builds under way that a person asked for, but for one of that image."""
    asked = select(func.count()).where(
        BuildRow.active.is_(True), BuildRow.requested_by == user, BuildRow.image_name != but_of
    )
    return await session.scalar(asked) or 0


async def _hold(session: AsyncSession, launch: Launch) -> None:
    await session.execute(
        delete(ActiveServerRow).where(
            ActiveServerRow.user == launch.user, ActiveServerRow.server_name == launch.server_name
        )
    )
    await session.execute(
        insert(ActiveServerRow).values(user=launch.user, server_name=launch.server_name, launch_id=launch.id)
    )
