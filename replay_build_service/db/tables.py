"""The tables, and for each stored field about a person its purpose and how long it is kept.

``info={"personal": Personal(...)}`` on a column is the one place where that is written;
``docs/personal-data.md`` is made from it.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import BigInteger, DateTime, Dialect, Index, String, Text, TypeDecorator
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


@dataclass(frozen=True, slots=True)
class Personal:
    """A field about a person: what it is kept for, and until when."""

    purpose: str
    retention: str


_WITH_RECORD = "as long as the record"
_WHILE_IT_RUNS = "until the session has ended"
_UNTIL_ANOTHER = "until the person chooses another"


def _personal(purpose: str, retention: str = _WITH_RECORD) -> dict[str, Personal]:
    return {"personal": Personal(purpose, retention)}


class UTCDateTime(TypeDecorator[datetime]):
    """A point in time with its zone: stored as UTC without one, since SQLite keeps none."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: UTCDateTime()}


class ResolvedColumns:
    """A resolved ref, as builds and launches keep it."""

    provider: Mapped[str] = mapped_column(String(32))
    locator: Mapped[str] = mapped_column(Text)
    ref: Mapped[str] = mapped_column(Text)
    repository: Mapped[str] = mapped_column(
        Text,
        info=_personal(
            "which repository a person opened (with the address and commit beside it): to build and run it, and to know "
            "what its link led to while its source does not answer"
        ),
    )
    fetch_url: Mapped[str] = mapped_column(Text)
    version: Mapped[str] = mapped_column(String(128))


class ImageRow(Base):
    """An image that was made and can be run."""

    __tablename__ = "images"

    name: Mapped[str] = mapped_column(String(512), primary_key=True)
    reference: Mapped[str] = mapped_column(Text)
    location: Mapped[str] = mapped_column(Text)
    build_id: Mapped[str] = mapped_column(String(32))
    created_at: Mapped[datetime]


class BuildRow(ResolvedColumns, Base):
    """One attempt to make one image."""

    __tablename__ = "builds"
    __table_args__ = (Index("one_active_build_per_image", "image_name", "active", unique=True),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    image_name: Mapped[str] = mapped_column(String(512), index=True)
    active: Mapped[bool | None]
    """True until the build is final, then NULL: so that the unique index allows one active build of an image."""
    status: Mapped[str] = mapped_column(String(16), index=True)
    recipe: Mapped[str] = mapped_column(Text)
    requested_by: Mapped[str] = mapped_column(
        String(255),
        info=_personal("who asked for a build first, to answer questions about it"),
    )
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    image_reference: Mapped[str | None] = mapped_column(Text)
    image_location: Mapped[str | None] = mapped_column(Text)
    failure_reason: Mapped[str | None] = mapped_column(String(32))
    failure_message: Mapped[str | None] = mapped_column(Text)
    lease_owner: Mapped[str | None] = mapped_column(String(255))
    lease_until: Mapped[datetime | None]


class StreamRow(Base):
    """How far a stream of events has come."""

    __tablename__ = "streams"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    last_sequence: Mapped[int] = mapped_column(default=0)
    position: Mapped[int] = mapped_column(BigInteger, default=0)
    """Where to read on in the builder's own log."""
    finished: Mapped[bool] = mapped_column(default=False)


class EventRow(Base):
    """A phase or a line of a log."""

    __tablename__ = "events"

    stream: Mapped[str] = mapped_column(String(64), primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(8))
    phase: Mapped[str] = mapped_column(String(16))
    text: Mapped[str] = mapped_column(
        Text,
        info=_personal(
            "the log of a build, as the repository printed it; in a launch's own events also the session's path, which names the person"
        ),
    )
    at: Mapped[datetime]


class LaunchRow(ResolvedColumns, Base):
    """One person's wish to run one image."""

    __tablename__ = "launches"
    __table_args__ = (
        Index("launches_of_a_person", "user", "created_at"),
        Index("launches_of_a_vo", "vo", "created_at"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    user: Mapped[str] = mapped_column(
        String(255),
        info=_personal("whose launch it is: access, one server at a time, “my last launches”"),
    )
    server_name: Mapped[str] = mapped_column(
        String(255), info=_personal("which of the person's servers it is for, by the name they gave it")
    )
    image_name: Mapped[str] = mapped_column(String(512))
    image_reference: Mapped[str | None] = mapped_column(Text)
    image_location: Mapped[str | None] = mapped_column(Text)
    build_id: Mapped[str | None] = mapped_column(String(32), index=True)
    vo: Mapped[str] = mapped_column(
        String(255),
        info=_personal("for which virtual organisation it runs: policy and accounting"),
    )
    urlpath: Mapped[str] = mapped_column(Text, info=_personal("what to open in the session"))
    state: Mapped[str] = mapped_column(String(16), index=True)
    created_at: Mapped[datetime] = mapped_column(info=_personal("when it was asked for: “my last launches”, freshness"))
    starting_at: Mapped[datetime | None]
    """When its image was there and the hub was asked; from then on it is fresh for a while."""
    consumed_at: Mapped[datetime | None] = mapped_column(
        info=_personal("when its server was started: a launch is used once")
    )
    running_at: Mapped[datetime | None] = mapped_column(
        info=_personal("when its server answered: usage by person and month is counted from here to its end")
    )
    memory_reserved: Mapped[int | None] = mapped_column(BigInteger)
    """Bytes, as the policy had it when the server was started: the guarantee, or the limit where there is none."""
    cores_reserved: Mapped[float | None]
    """As above, in cores."""
    gpus_reserved: Mapped[int | None]
    features: Mapped[str | None] = mapped_column(
        Text, info=_personal("what the person chose for the session beside its image, so that it gets that and no more")
    )
    """Names, as a list in JSON."""
    content: Mapped[str | None] = mapped_column(
        Text, info=_personal("which second repository's files the person had brought into the session")
    )
    """As the columns of what was resolved, by name, as an object in JSON."""
    maximum_age: Mapped[float | None]
    """Seconds that its session may run, as the policy had it when the server was started."""
    ended_at: Mapped[datetime | None] = mapped_column(info=_personal("when it was over"))
    failure: Mapped[str | None] = mapped_column(
        Text, info=_personal("why it failed or its session ended, as the person was told")
    )


class ActiveServerRow(Base):
    """The launch that holds a person's server of that name. One row, changed by compare-and-set only."""

    __tablename__ = "active_servers"

    user: Mapped[str] = mapped_column(
        String(255),
        primary_key=True,
        info=_personal("one server at a time", "until another launch takes its place"),
    )
    server_name: Mapped[str] = mapped_column(
        String(255), primary_key=True, info=_personal("one server at a time", "until another launch takes its place")
    )
    launch_id: Mapped[str] = mapped_column(String(32))


class SessionEndRow(Base):
    """When a session that runs was last used: kept once its end is near, or its person has asked for it to go on."""

    __tablename__ = "session_ends"

    launch_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    used_at: Mapped[datetime | None] = mapped_column(
        info=_personal(
            "when the session was last used: its person is warned before it ends for want of that", _WHILE_IT_RUNS
        )
    )
    limit_seconds: Mapped[float | None]
    """So long after that it ends."""
    warning_seconds: Mapped[float | None]
    """So long before its end its person is told."""
    kept_at: Mapped[datetime | None] = mapped_column(
        info=_personal("when they asked for it to go on, which counts as a use", _WHILE_IT_RUNS)
    )


class VOChoiceRow(Base):
    """For which VO a person launched last."""

    __tablename__ = "vo_choices"

    user: Mapped[str] = mapped_column(
        String(255),
        primary_key=True,
        info=_personal("whose choice of a virtual organisation it is: offered first next time", _UNTIL_ANOTHER),
    )
    vo: Mapped[str] = mapped_column(String(255), info=_personal("the virtual organisation chosen last", _UNTIL_ANOTHER))


class TermsAgreedRow(Base):
    """That a person agreed to a version of a VO's terms of use."""

    __tablename__ = "terms_agreed"

    user: Mapped[str] = mapped_column(
        String(255), primary_key=True, info=_personal("who agreed to the terms of use of a virtual organisation")
    )
    vo: Mapped[str] = mapped_column(String(255), primary_key=True, info=_personal("of which one"))
    version: Mapped[str] = mapped_column(
        String(255), primary_key=True, info=_personal("to which version: asked once for each")
    )
    agreed_at: Mapped[datetime] = mapped_column(info=_personal("when they agreed, as proof"))
