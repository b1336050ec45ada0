"""What is kept of sessions, and of what the managers of a VO decided. Values, and what the core asks of the store.

Standard library and the domain only. `rulings` has what counts now; here is who decided it, when and why.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from replay_build_service.domain import Build, BuildId, Launch
from replay_build_service.rulings import Block, PreparedEvent


class Action(StrEnum):
    """What a manager can do. A closed set: the audit log says which."""

    STOP_SESSION = "stop a session"
    STOP_FAILED = "stop a session: not done"
    DENY_REPOSITORY = "deny repositories"
    ALLOW_REPOSITORY = "allow repositories"
    REMOVE_RULE = "remove a rule"
    BLOCK_PERSON = "block a person"
    LIFT_BLOCK = "lift a block"
    SET_BANNER = "set the banner"
    SET_TERMS = "set the terms of use"
    PREPARE_EVENT = "prepare an event"
    BUILD_AHEAD = "build ahead for an event"
    CALL_OFF_EVENT = "call off an event"


@dataclass(frozen=True, slots=True)
class Decision:
    """Who decided what, on what and why: the audit entry that is stored in the transaction of what it tells."""

    vo: str
    actor: str
    """The manager's or the administrator's name."""
    action: Action
    subject: str
    """The person, pattern, session or event that it is about."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A decision as it is on record. ``id`` grows with each."""

    id: int
    at: datetime
    decision: Decision


class Effect(StrEnum):
    """What a rule about repositories does."""

    DENY = "deny"
    ALLOW = "allow"


@dataclass(frozen=True, slots=True)
class RepositoryRule:
    """One pattern that managers denied, or exempt from their denials."""

    id: str
    pattern: str
    effect: Effect
    reason: str
    by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class StandingBlock:
    """A block, with who set it and when."""

    block: Block
    by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class StandingEvent:
    """An event, with what was built for it ahead."""

    event: PreparedEvent
    urlpath: str
    """What its links open in the session; may be empty."""
    by: str
    at: datetime
    version: str | None = None
    """The commit that was built ahead, or is being built; ``None`` before the first attempt."""
    image_name: str | None = None
    build_id: BuildId | None = None
    """None where the image was there already."""


@dataclass(frozen=True, slots=True)
class Session:
    """A launch with what was reserved for its server."""

    launch: Launch
    memory: int | None = None
    """Bytes that were reserved for it: the guarantee, or the limit where there is no guarantee. ``None`` is not recorded."""
    cores: float | None = None
    """As ``memory``."""
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class SessionEnd:
    """When a session that runs was last used, as the hub's culler found, and what its person said to that."""

    used_at: datetime | None = None
    limit: timedelta | None = None
    """So long after its last use it ends."""
    warning: timedelta = timedelta()
    """So long before that its person is told."""
    kept_at: datetime | None = None
    """When its person asked for it to go on."""

    @property
    def ends_at(self) -> datetime | None:
        """When it ends if nobody uses it; none where that is not known."""
        if self.used_at is None or self.limit is None:
            return None
        return max(self.used_at, self.kept_at or self.used_at) + self.limit

    def is_near(self, now: datetime) -> bool:
        """Whether its person is to be told by now."""
        return self.ends_at is not None and self.ends_at - self.warning <= now


@dataclass(frozen=True, slots=True)
class UsedSession:
    """As much of a session as usage is counted from."""

    id: str
    user: str
    repository: str
    image: str
    running_at: datetime
    ended_at: datetime | None
    memory: int | None
    cores: float | None
    gpus: int


@dataclass(frozen=True, slots=True)
class VOBuild:
    """A build that launches of one VO waited for, and who of that VO they were."""

    build: Build
    people: tuple[str, ...]
    """At most ten names, sorted."""
