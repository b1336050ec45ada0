"""The part of the store that keeps what people chose and agreed to. Used through `Store` only."""

from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from replay_build_service.db.tables import TermsAgreedRow, VOChoiceRow


class ChoiceQueries:
    """The VO of each person's last launch, and the terms of use that they agreed to."""

    def _reading(self) -> AbstractAsyncContextManager[AsyncSession]:
        raise AssertionError("Store opens its sessions")

    def _writing(self) -> AbstractAsyncContextManager[AsyncSession]:
        raise AssertionError("Store opens its sessions")

    async def chosen_vo(self, user: str) -> str | None:
        """The VO that this person launched for last."""
        async with self._reading() as session:
            return await session.scalar(select(VOChoiceRow.vo).where(VOChoiceRow.user == user))

    async def choose_vo(self, user: str, vo: str) -> None:
        """Remember it, in place of another."""
        async with self._writing() as session:
            await session.merge(VOChoiceRow(user=user, vo=vo))

    async def agreed_at(self, user: str, vo: str, version: str) -> datetime | None:
        """When this person agreed to that version of the VO's terms of use; none where they did not."""
        async with self._reading() as session:
            row = await session.get(TermsAgreedRow, (user, vo, version))
            return None if row is None else row.agreed_at

    async def agree(self, user: str, vo: str, version: str) -> None:
        """Put on record that they agree, now; the first time counts."""
        async with self._writing() as session:
            if await session.get(TermsAgreedRow, (user, vo, version)) is None:
                session.add(TermsAgreedRow(user=user, vo=vo, version=version, agreed_at=datetime.now(UTC)))
