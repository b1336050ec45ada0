"""The part of the store that tells of a VO's sessions, builds and usage. Reads only. Used through `Store`."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime

from sqlalchemy import ColumnElement, Select, and_, exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from replay_build_service.db.manager_tables import VOEventRow
from replay_build_service.db.rows import build_of, event_of, launch_of
from replay_build_service.db.tables import BuildRow, EventRow, LaunchRow
from replay_build_service.domain import BuildId, Event, LaunchId, LaunchState
from replay_build_service.records import Session, UsedSession, VOBuild

_BATCH = 500
_MOST_NAMES = 10


class SessionQueries:
    """What ran for a VO, runs, and was built."""

    def _reading(self) -> AbstractAsyncContextManager[AsyncSession]:
        raise AssertionError("Store opens its sessions")

    async def sessions(
        self, vo: str, states: Collection[LaunchState] | None, before: LaunchId | None, limit: int, user: str = ""
    ) -> Sequence[Session]:
        """A VO's launches, newest first, of one person where ``user`` names one; with ``before`` those older than that one."""
        asked = select(LaunchRow).where(LaunchRow.vo == vo)
        if states is not None:
            asked = asked.where(LaunchRow.state.in_(states))
        if user:
            asked = asked.where(LaunchRow.user == user)
        if before is not None:
            asked = _older(asked, before)
        asked = asked.order_by(LaunchRow.created_at.desc(), LaunchRow.id.desc()).limit(limit)
        async with self._reading() as session:
            return [_session(row) for row in await session.scalars(asked)]

    async def session(self, vo: str, launch_id: LaunchId) -> Session | None:
        """One launch, where it is that VO's."""
        async with self._reading() as session:
            row = await session.scalar(select(LaunchRow).where(LaunchRow.id == launch_id, LaunchRow.vo == vo))
            return None if row is None else _session(row)

    async def count_sessions(self, vo: str, states: Collection[LaunchState]) -> int:
        async with self._reading() as session:
            return (
                await session.scalar(select(func.count()).where(LaunchRow.vo == vo, LaunchRow.state.in_(states))) or 0
            )

    async def vo_builds(self, vo: str, before: BuildId | None, limit: int) -> Sequence[VOBuild]:
        """Builds that launches or events of a VO waited for, newest first; with ``before`` those older than that one."""
        asked = select(BuildRow).where(_is_of(vo))
        if before is not None:
            other = select(BuildRow.created_at).where(BuildRow.id == before).scalar_subquery()
            asked = asked.where(
                or_(BuildRow.created_at < other, and_(BuildRow.created_at == other, BuildRow.id < before))
            )
        asked = asked.order_by(BuildRow.created_at.desc(), BuildRow.id.desc()).limit(limit)
        async with self._reading() as session:
            rows = (await session.scalars(asked)).all()
            return [VOBuild(build_of(row), await _people(session, vo, row.id)) for row in rows]

    async def vo_build(self, vo: str, build_id: BuildId) -> VOBuild | None:
        """One build, where launches or events of that VO waited for it."""
        async with self._reading() as session:
            row = await session.scalar(select(BuildRow).where(BuildRow.id == build_id, _is_of(vo)))
            return None if row is None else VOBuild(build_of(row), await _people(session, vo, row.id))

    async def last_events(self, stream: str, limit: int) -> Sequence[Event]:
        """The end of a stream, in order."""
        async with self._reading() as session:
            rows = await session.scalars(
                select(EventRow).where(EventRow.stream == stream).order_by(EventRow.sequence.desc()).limit(limit)
            )
            return [event_of(row) for row in rows][::-1]

    async def used_sessions(self, vo: str, start: datetime, end: datetime) -> AsyncIterator[Sequence[UsedSession]]:
        """Sessions of a VO that ran at some time from ``start`` to ``end``, in batches: the loop goes on between them."""
        columns = (
            LaunchRow.id,
            LaunchRow.user,
            LaunchRow.repository,
            LaunchRow.image_reference,
            LaunchRow.running_at,
            LaunchRow.ended_at,
            LaunchRow.memory_reserved,
            LaunchRow.cores_reserved,
            LaunchRow.gpus_reserved,
        )
        asked = (
            select(*columns)
            .where(
                LaunchRow.vo == vo,
                LaunchRow.running_at < end,
                or_(LaunchRow.ended_at.is_(None), LaunchRow.ended_at > start),
            )
            .order_by(LaunchRow.running_at, LaunchRow.id)
        )
        async with self._reading() as session:
            rows = await session.stream(asked)
            async for batch in rows.partitions(_BATCH):
                yield [
                    UsedSession(id_, user, repository, image or "", running_at, ended_at, memory, cores, gpus or 0)
                    for id_, user, repository, image, running_at, ended_at, memory, cores, gpus in batch
                    if running_at is not None
                ]


def _older(asked: Select[LaunchRow], before: LaunchId) -> Select[LaunchRow]:
    other = select(LaunchRow.created_at).where(LaunchRow.id == before).scalar_subquery()
    return asked.where(or_(LaunchRow.created_at < other, and_(LaunchRow.created_at == other, LaunchRow.id < before)))


def _is_of(vo: str) -> ColumnElement[bool]:
    launched = exists().where(LaunchRow.build_id == BuildRow.id, LaunchRow.vo == vo)
    prepared = exists().where(VOEventRow.build_id == BuildRow.id, VOEventRow.vo == vo)
    return or_(launched, prepared)


async def _people(session: AsyncSession, vo: str, build_id: str) -> tuple[str, ...]:
    names = await session.scalars(
        select(LaunchRow.user)
        .where(LaunchRow.build_id == build_id, LaunchRow.vo == vo)
        .distinct()
        .order_by(LaunchRow.user)
        .limit(_MOST_NAMES)
    )
    return tuple(names)


def _session(row: LaunchRow) -> Session:
    return Session(launch_of(row), row.memory_reserved, row.cores_reserved, row.gpus_reserved or 0)
