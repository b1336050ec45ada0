"""The part of the store that keeps when sessions that run were last used. Used through `Store` only."""

from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from replay_build_service.db.tables import LaunchRow, SessionEndRow
from replay_build_service.domain import LaunchId, LaunchState
from replay_build_service.records import SessionEnd


class ActivityQueries:
    """One row for each session whose end was near, or whose person kept it; gone with the session."""

    def _reading(self) -> AbstractAsyncContextManager[AsyncSession]:
        raise AssertionError("Store opens its sessions")

    def _writing(self) -> AbstractAsyncContextManager[AsyncSession]:
        raise AssertionError("Store opens its sessions")

    async def record_use(
        self, launch_id: LaunchId, used_at: datetime, limit: timedelta, warning: timedelta
    ) -> SessionEnd | None:
        """Put on record when a session was last used, and what follows. None where no session of that launch runs."""
        async with self._writing() as session:
            row = await _row_to_write(session, launch_id)
            if row is None:
                return None
            row.used_at = used_at
            row.limit_seconds, row.warning_seconds = limit.total_seconds(), warning.total_seconds()
            return _end_of(row)

    async def keep_session(self, launch_id: LaunchId) -> SessionEnd | None:
        """Put on record that its person asked for it to go on, now. None where no session of that launch runs."""
        async with self._writing() as session:
            row = await _row_to_write(session, launch_id)
            if row is None:
                return None
            row.kept_at = datetime.now(UTC)
            return _end_of(row)

    async def session_end(self, launch_id: LaunchId) -> SessionEnd | None:
        """What is known of the end of a session that runs."""
        async with self._reading() as session:
            row = await session.get(SessionEndRow, launch_id)
            return None if row is None else _end_of(row)


async def forget_activity(session: AsyncSession, launch_id: str) -> None:
    """A session that has ended needs no warning: what it was for is over."""
    await session.execute(delete(SessionEndRow).where(SessionEndRow.launch_id == launch_id))


async def _row_to_write(session: AsyncSession, launch_id: LaunchId) -> SessionEndRow | None:
    runs = await session.scalar(
        select(LaunchRow.id).where(LaunchRow.id == launch_id, LaunchRow.state == LaunchState.RUNNING)
    )
    if runs is None:
        return None
    row = await session.get(SessionEndRow, launch_id)
    if row is None:
        row = SessionEndRow(launch_id=launch_id)
        session.add(row)
    return row


def _end_of(row: SessionEndRow) -> SessionEnd:
    return SessionEnd(
        used_at=row.used_at,
        limit=None if row.limit_seconds is None else timedelta(seconds=row.limit_seconds),
        warning=timedelta(seconds=row.warning_seconds or 0),
        kept_at=row.kept_at,
    )
