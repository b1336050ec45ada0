"""The tables of what the managers of VOs decide, and the log of it. As in `tables`, each field about a person says what for and until when."""

from datetime import datetime

from sqlalchemy import Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from replay_build_service.db.tables import Base, Personal

_BLOCK = "until it is lifted, or over and another decision is made for the VO"
_RULE = "as long as the rule stands"
_EVENT = "as long as the record"


def _personal(purpose: str, retention: str) -> dict[str, Personal]:
    return {"personal": Personal(purpose, retention)}


class VOStandingRow(Base):
    """What there is once for a VO."""

    __tablename__ = "vo_standing"

    vo: Mapped[str] = mapped_column(String(255), primary_key=True)
    banner: Mapped[str | None] = mapped_column(Text)
    """In place of the policy's; NULL leaves the policy's."""
    terms_version: Mapped[str | None] = mapped_column(String(64))
    terms_text: Mapped[str | None] = mapped_column(Text)


class VORuleRow(Base):
    """A pattern of repositories that managers denied, or exempt from their denials."""

    __tablename__ = "vo_rules"
    __table_args__ = (Index("one_rule_per_pattern", "vo", "pattern", unique=True),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    vo: Mapped[str] = mapped_column(String(255))
    pattern: Mapped[str] = mapped_column(Text)
    effect: Mapped[str] = mapped_column(String(8))
    reason: Mapped[str] = mapped_column(Text)
    decided_by: Mapped[str] = mapped_column(
        String(255), info=_personal("which manager decided it, so that others can ask", _RULE)
    )
    decided_at: Mapped[datetime]


class VOBlockRow(Base):
    """A person who may not launch for a VO."""

    __tablename__ = "vo_blocks"

    vo: Mapped[str] = mapped_column(String(255), primary_key=True)
    user: Mapped[str] = mapped_column(
        String(255), primary_key=True, info=_personal("who may not launch for the VO", _BLOCK)
    )
    reason: Mapped[str] = mapped_column(
        Text, info=_personal("why, as a manager wrote it: told to the person and to managers", _BLOCK)
    )
    until: Mapped[datetime | None] = mapped_column(info=_personal("when the block ends by itself", _BLOCK))
    decided_by: Mapped[str] = mapped_column(
        String(255), info=_personal("which manager decided it, so that others can ask", _BLOCK)
    )
    decided_at: Mapped[datetime]


class VOEventRow(Base):
    """A course or a workshop that was prepared."""

    __tablename__ = "vo_events"
    __table_args__ = (Index("events_of_a_vo", "vo", "ends_at"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    vo: Mapped[str] = mapped_column(String(255))
    title: Mapped[str] = mapped_column(Text)
    repo: Mapped[str] = mapped_column(Text)
    urlpath: Mapped[str] = mapped_column(Text)
    starts_at: Mapped[datetime]
    ends_at: Mapped[datetime]
    people: Mapped[int]
    version: Mapped[str | None] = mapped_column(String(128))
    """The commit that was built ahead."""
    image_name: Mapped[str | None] = mapped_column(String(512))
    build_id: Mapped[str | None] = mapped_column(String(32))
    decided_by: Mapped[str] = mapped_column(
        String(255), info=_personal("which manager prepared it, so that others can ask", _EVENT)
    )
    decided_at: Mapped[datetime]


class AuditRow(Base):
    """What managers did. Rows are added and never changed: on SQLite the database itself refuses to."""

    __tablename__ = "audit"
    __table_args__ = (Index("audit_of_a_vo", "vo", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[datetime]
    vo: Mapped[str] = mapped_column(String(255))
    actor: Mapped[str] = mapped_column(
        String(255), info=_personal("which manager or administrator did it: to hold them to it", _EVENT)
    )
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(
        Text, info=_personal("what it was done to; names the person where that is one", _EVENT)
    )
    reason: Mapped[str] = mapped_column(Text, info=_personal("why, as the manager wrote it", _EVENT))
