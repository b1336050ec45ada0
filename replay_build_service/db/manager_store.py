"""The part of the store that keeps what managers of VOs decide. Used through `Store` only.

A decision and its entry in the audit log are one transaction: either both are stored, or neither.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from replay_build_service.db.manager_tables import AuditRow, VOBlockRow, VOEventRow, VORuleRow, VOStandingRow
from replay_build_service.domain import BuildId
from replay_build_service.records import (
    Action,
    AuditEntry,
    Decision,
    Effect,
    RepositoryRule,
    StandingBlock,
    StandingEvent,
)
from replay_build_service.rulings import Block, PreparedEvent, Terms, VORulings

_MOST_STANDING = 1000
"""Rows of a kind that are read for one VO; what may be stored is bounded lower, in the core."""


class ManagerQueries:
    """Rules, blocks, banners, terms and events of each VO, and the audit log."""

    def _reading(self) -> AbstractAsyncContextManager[AsyncSession]:
        raise AssertionError("Store opens its sessions")

    def _writing(self) -> AbstractAsyncContextManager[AsyncSession]:
        raise AssertionError("Store opens its sessions")

    async def rulings_of(self, vo: str) -> VORulings:
        """All that holds for a VO at this moment."""
        async with self._reading() as session:
            standing = await session.get(VOStandingRow, vo)
            rules = await _rules(session, vo)
            blocks = await _blocks(session, vo)
            events = await session.scalars(
                select(VOEventRow)
                .where(VOEventRow.vo == vo, VOEventRow.ends_at > datetime.now(UTC))
                .order_by(VOEventRow.starts_at, VOEventRow.id)
                .limit(_MOST_STANDING)
            )
            return VORulings(
                denied=tuple(rule.pattern for rule in rules if rule.effect is Effect.DENY),
                allowed=tuple(rule.pattern for rule in rules if rule.effect is Effect.ALLOW),
                blocks=tuple(standing.block for standing in blocks),
                banner=None if standing is None else standing.banner,
                terms=_terms(standing),
                events=tuple(_event(row).event for row in events),
            )

    # rules about repositories

    async def repository_rules(self, vo: str) -> Sequence[RepositoryRule]:
        """By pattern."""
        async with self._reading() as session:
            return await _rules(session, vo)

    async def add_rule(self, rule: RepositoryRule, decision: Decision, most: int) -> bool:
        """Store a rule, in place of one of the same pattern; false where the VO has ``most`` already."""
        async with self._writing() as session:
            others = select(func.count()).where(VORuleRow.vo == decision.vo, VORuleRow.pattern != rule.pattern)
            if (await session.scalar(others) or 0) >= most:
                return False
            await session.execute(
                delete(VORuleRow).where(VORuleRow.vo == decision.vo, VORuleRow.pattern == rule.pattern)
            )
            session.add(
                VORuleRow(
                    id=rule.id,
                    vo=decision.vo,
                    pattern=rule.pattern,
                    effect=rule.effect,
                    reason=rule.reason,
                    decided_by=rule.by,
                    decided_at=rule.at,
                )
            )
            await _put_on_record(session, decision)
            return True

    async def remove_rule(self, rule_id: str, decision: Decision) -> bool:
        """False where the VO has no such rule. The pattern becomes the subject of the entry."""
        async with self._writing() as session:
            row = (
                await session.execute(
                    delete(VORuleRow)
                    .where(VORuleRow.id == rule_id, VORuleRow.vo == decision.vo)
                    .returning(VORuleRow.pattern, VORuleRow.effect)
                )
            ).first()
            if row is None:
                return False
            await _put_on_record(session, decision, subject=f"{row.effect}: {row.pattern}")
            return True

    # blocks

    async def blocks(self, vo: str) -> Sequence[StandingBlock]:
        """Those that are not over, by name."""
        async with self._reading() as session:
            return await _blocks(session, vo)

    async def put_block(self, block: Block, decision: Decision, most: int) -> bool:
        """Store a block, in place of one of the same person; false where the VO has ``most`` already."""
        async with self._writing() as session:
            others = select(func.count()).where(VOBlockRow.vo == decision.vo, VOBlockRow.user != block.user, _holds())
            if (await session.scalar(others) or 0) >= most:
                return False
            await session.execute(delete(VOBlockRow).where(VOBlockRow.vo == decision.vo, VOBlockRow.user == block.user))
            session.add(
                VOBlockRow(
                    vo=decision.vo,
                    user=block.user,
                    reason=block.reason,
                    until=block.until,
                    decided_by=decision.actor,
                    decided_at=datetime.now(UTC),
                )
            )
            await _put_on_record(session, decision)
            return True

    async def lift_block(self, user: str, decision: Decision) -> bool:
        """False where that person is not blocked."""
        async with self._writing() as session:
            lifted = await session.execute(
                delete(VOBlockRow)
                .where(VOBlockRow.vo == decision.vo, VOBlockRow.user == user, _holds())
                .returning(VOBlockRow.user)
            )
            if lifted.first() is None:
                return False
            await _put_on_record(session, decision)
            return True

    # banner and terms

    async def set_banner(self, banner: str | None, decision: Decision) -> None:
        """``None`` leaves the policy's."""
        await self._set_standing({"banner": banner}, decision)

    async def set_terms(self, terms: Terms | None, decision: Decision) -> None:
        """``None`` leaves the policy's."""
        version, text = (None, None) if terms is None else (terms.version, terms.text)
        await self._set_standing({"terms_version": version, "terms_text": text}, decision)

    async def _set_standing(self, values: dict[str, Any], decision: Decision) -> None:
        async with self._writing() as session:
            row = await session.get(VOStandingRow, decision.vo)
            if row is None:
                session.add(VOStandingRow(vo=decision.vo, **values))
            for name, value in values.items() if row is not None else ():
                setattr(row, name, value)
            await _put_on_record(session, decision)

    # events

    async def events(self, vo: str, limit: int) -> Sequence[StandingEvent]:
        """The last ones, by their start, latest first."""
        async with self._reading() as session:
            rows = await session.scalars(
                select(VOEventRow)
                .where(VOEventRow.vo == vo)
                .order_by(VOEventRow.starts_at.desc(), VOEventRow.id)
                .limit(limit)
            )
            return [_event(row) for row in rows]

    async def event(self, vo: str, event_id: str) -> StandingEvent | None:
        async with self._reading() as session:
            row = await session.scalar(select(VOEventRow).where(VOEventRow.id == event_id, VOEventRow.vo == vo))
            return None if row is None else _event(row)

    async def add_event(self, event: StandingEvent, decision: Decision, most: int) -> bool:
        """False where the VO has ``most`` already that are not over."""
        async with self._writing() as session:
            is_ahead = VOEventRow.ends_at > datetime.now(UTC)
            count = await session.scalar(select(func.count()).where(VOEventRow.vo == decision.vo, is_ahead))
            if (count or 0) >= most:
                return False
            prepared = event.event
            session.add(
                VOEventRow(
                    id=prepared.id,
                    vo=decision.vo,
                    title=prepared.title,
                    repo=prepared.repo,
                    urlpath=event.urlpath,
                    starts_at=prepared.starts_at,
                    ends_at=prepared.ends_at,
                    people=prepared.people,
                    version=event.version,
                    image_name=event.image_name,
                    build_id=event.build_id,
                    decided_by=event.by,
                    decided_at=event.at,
                )
            )
            await _put_on_record(session, decision)
            return True

    async def record_event_build(
        self, event_id: str, version: str, image_name: str, build_id: BuildId | None, decision: Decision
    ) -> bool:
        """What is built ahead for an event now; false where the VO has no such event."""
        async with self._writing() as session:
            changed = await session.execute(
                update(VOEventRow)
                .where(VOEventRow.id == event_id, VOEventRow.vo == decision.vo)
                .values(version=version, image_name=image_name, build_id=build_id)
                .returning(VOEventRow.id)
            )
            if changed.first() is None:
                return False
            await _put_on_record(session, decision)
            return True

    async def remove_event(self, event_id: str, decision: Decision) -> bool:
        """False where the VO has no such event. Its title becomes the subject of the entry."""
        async with self._writing() as session:
            row = (
                await session.execute(
                    delete(VOEventRow)
                    .where(VOEventRow.id == event_id, VOEventRow.vo == decision.vo)
                    .returning(VOEventRow.title)
                )
            ).first()
            if row is None:
                return False
            await _put_on_record(session, decision, subject=row.title)
            return True

    # the audit log

    async def put_on_record(self, decision: Decision) -> None:
        """A decision of which nothing else is stored: what it does happens elsewhere, and after this."""
        async with self._writing() as session:
            await _put_on_record(session, decision)

    async def audit(self, vo: str | None, before: int | None, limit: int) -> Sequence[AuditEntry]:
        """The last entries of one VO, or of all, newest first; with ``before`` those older than that one."""
        asked = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit)
        if vo is not None:
            asked = asked.where(AuditRow.vo == vo)
        if before is not None:
            asked = asked.where(AuditRow.id < before)
        async with self._reading() as session:
            rows = await session.scalars(asked)
            return [
                AuditEntry(row.id, row.at, Decision(row.vo, row.actor, Action(row.action), row.subject, row.reason))
                for row in rows
            ]


async def _put_on_record(session: AsyncSession, decision: Decision, subject: str | None = None) -> None:
    """Within the transaction of what was decided. Blocks that are over go with it: nobody needs them any more."""
    now = datetime.now(UTC)
    session.add(
        AuditRow(
            at=now,
            vo=decision.vo,
            actor=decision.actor,
            action=decision.action,
            subject=decision.subject if subject is None else subject,
            reason=decision.reason,
        )
    )
    await session.execute(delete(VOBlockRow).where(VOBlockRow.vo == decision.vo, VOBlockRow.until <= now))


def _holds() -> ColumnElement[bool]:
    return or_(VOBlockRow.until.is_(None), VOBlockRow.until > datetime.now(UTC))


async def _rules(session: AsyncSession, vo: str) -> list[RepositoryRule]:
    rows = await session.scalars(
        select(VORuleRow).where(VORuleRow.vo == vo).order_by(VORuleRow.pattern).limit(_MOST_STANDING)
    )
    return [
        RepositoryRule(row.id, row.pattern, Effect(row.effect), row.reason, row.decided_by, row.decided_at)
        for row in rows
    ]


async def _blocks(session: AsyncSession, vo: str) -> list[StandingBlock]:
    rows = await session.scalars(
        select(VOBlockRow).where(VOBlockRow.vo == vo, _holds()).order_by(VOBlockRow.user).limit(_MOST_STANDING)
    )
    return [StandingBlock(Block(row.user, row.reason, row.until), row.decided_by, row.decided_at) for row in rows]


def _terms(row: VOStandingRow | None) -> Terms | None:
    if row is None or row.terms_version is None or row.terms_text is None:
        return None
    return Terms(row.terms_version, row.terms_text)


def _event(row: VOEventRow) -> StandingEvent:
    return StandingEvent(
        PreparedEvent(row.id, row.title, row.repo, row.starts_at, row.ends_at, row.people),
        row.urlpath,
        row.decided_by,
        row.decided_at,
        row.version,
        row.image_name,
        None if row.build_id is None else BuildId(row.build_id),
    )
