"""The part of the store that keeps streams of events. Used through `Store` and the other parts of it only."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from sqlalchemy import and_, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from replay_build_service.db.rows import event_of
from replay_build_service.db.tables import EventRow, StreamRow
from replay_build_service.domain import NewEvent, StreamPage


class EventQueries:
    """Streams, each with its events and how far the log that it is made from was read."""

    def _reading(self) -> AbstractAsyncContextManager[AsyncSession]:
        raise AssertionError("Store opens its sessions")

    def _writing(self) -> AbstractAsyncContextManager[AsyncSession]:
        raise AssertionError("Store opens its sessions")

    async def stream_position(self, stream: str) -> int:
        """Where to read on in the log that the stream is made from."""
        async with self._reading() as session:
            row = await session.get(StreamRow, stream)
            return 0 if row is None else row.position

    async def append_log(self, stream: str, events: Sequence[NewEvent], before: int, after: int) -> bool:
        """Store what was read between two positions of a log; false, and nothing stored, where another has read on from ``before``."""
        async with self._writing() as session:
            moved = await session.execute(
                update(StreamRow)
                .where(StreamRow.id == stream, StreamRow.position == before, StreamRow.finished.is_(False))
                .values(position=after)
                .returning(StreamRow.id)
            )
            if moved.first() is None:
                return False
            await append(session, stream, events)
            return True

    async def append_events(self, stream: str, events: Sequence[NewEvent], *, finished: bool = False) -> None:
        """Add to a stream; nothing is added to one that has finished."""
        async with self._writing() as session:
            await append(session, stream, events, finished=finished)

    async def read_events(self, stream: str, after: int, limit: int) -> StreamPage:
        """Events with a sequence above ``after``, in order, and whether the stream ends with the last of them."""
        async with self._reading() as session:
            head = await session.get(StreamRow, stream)
            if head is None:
                return StreamPage((), finished=True)
            rows = await session.scalars(
                select(EventRow)
                .where(and_(EventRow.stream == stream, EventRow.sequence > after))
                .order_by(EventRow.sequence)
                .limit(limit)
            )
            events = tuple(event_of(row) for row in rows)
            last = events[-1].sequence if events else after
            return StreamPage(events, finished=head.finished and last >= head.last_sequence)


async def append(session: AsyncSession, stream: str, events: Sequence[NewEvent], *, finished: bool = False) -> None:
    """Add events to a stream within a transaction that does more. Nothing is added to one that has finished."""
    row = (
        await session.execute(
            update(StreamRow)
            .where(StreamRow.id == stream, StreamRow.finished.is_(False))
            .values(last_sequence=StreamRow.last_sequence + len(events), finished=finished)
            .returning(StreamRow.last_sequence)
        )
    ).first()
    if row is None or not events:
        return
    first = row.last_sequence - len(events) + 1
    await session.execute(
        insert(EventRow),
        [
            {
                "stream": stream,
                "sequence": first + index,
                "kind": event.kind,
                "phase": event.phase,
                "text": event.text,
                "at": event.at,
            }
            for index, event in enumerate(events)
        ],
    )
