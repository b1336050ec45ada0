"""What the managers of a VO see and do while the service runs: for their own VO, within the policy, and on record.

Whatever is asked here takes a `Manager`, which `admit` alone makes, and is done for that manager's VO. Who may see which
page is the business of `web`; what counts at a launch, that of `launches` and `policies`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from replay_build_service.domain import BuildId, Event, LaunchId, LaunchState, Person, build_stream
from replay_build_service.errors import NotFound
from replay_build_service.managing.admission import Manager, admit, managed_vos
from replay_build_service.managing.decisions import Decisions
from replay_build_service.managing.explaining import Explaining
from replay_build_service.managing.prepared import PreparedEvents
from replay_build_service.managing.sessions import Sessions
from replay_build_service.managing.usage import Usages
from replay_build_service.records import AuditEntry, RepositoryRule, Session, StandingBlock, VOBuild
from replay_build_service.rulings import VORulings

__all__ = ["Manager", "Managing", "ReadingStore"]

PAGE = 50
"""Rows of a page."""

LOG_LINES = 500
"""Of a build's log, on a page."""


class ReadingStore(Protocol):
    """What pages show as it is stored; see `replay_build_service.db.Store`."""

    async def rulings_of(self, vo: str) -> VORulings: ...
    async def repository_rules(self, vo: str) -> Sequence[RepositoryRule]: ...
    async def blocks(self, vo: str) -> Sequence[StandingBlock]: ...
    async def sessions(
        self, vo: str, states: Collection[LaunchState] | None, before: LaunchId | None, limit: int, user: str = ""
    ) -> Sequence[Session]: ...
    async def vo_builds(self, vo: str, before: BuildId | None, limit: int) -> Sequence[VOBuild]: ...
    async def vo_build(self, vo: str, build_id: BuildId) -> VOBuild | None: ...
    async def last_events(self, stream: str, limit: int) -> Sequence[Event]: ...
    async def audit(self, vo: str | None, before: int | None, limit: int) -> Sequence[AuditEntry]: ...


@dataclass(frozen=True, slots=True)
class Managing:
    """All of it, wired by ``app.py``."""

    vos: Collection[str]
    """The VOs that have a policy."""
    store: ReadingStore
    decisions: Decisions
    sessions: Sessions
    usages: Usages
    events: PreparedEvents
    explaining: Explaining
    accounting_site: str = ""
    """This site's name in EGI's configuration database (GOCDB); without one there are no accounting records."""
    accounting_service: str = ""
    """Tells apart several services of a site; may be empty."""

    def managed_by(self, person: Person, *, is_admin: bool) -> Sequence[str]:
        """The VOs that this person manages, sorted."""
        return managed_vos(person, self.vos, is_admin=is_admin)

    def admit(self, person: Person, vo: str, *, is_admin: bool) -> Manager:
        """Raises `NotPermitted`."""
        return admit(person, vo, self.vos, is_admin=is_admin)

    async def rules(self, manager: Manager) -> Sequence[RepositoryRule]:
        return await self.store.repository_rules(manager.vo)

    async def blocks(self, manager: Manager) -> Sequence[StandingBlock]:
        return await self.store.blocks(manager.vo)

    async def rulings(self, manager: Manager) -> VORulings:
        return await self.store.rulings_of(manager.vo)

    async def launches(self, manager: Manager, before: LaunchId | None, user: str) -> Sequence[Session]:
        """The VO's launches, newest first, at most `PAGE`."""
        return await self.store.sessions(manager.vo, None, before, PAGE, user)

    async def builds(self, manager: Manager, before: BuildId | None) -> Sequence[VOBuild]:
        """Builds that the VO's launches and events waited for, newest first, at most `PAGE`."""
        return await self.store.vo_builds(manager.vo, before, PAGE)

    async def build(self, manager: Manager, build_id: BuildId) -> VOBuild:
        """Raises `NotFound` for a build that no launch of the VO waited for."""
        found = await self.store.vo_build(manager.vo, build_id)
        if found is None:
            raise NotFound(f"No launch of {manager.vo} waited for such a build.")
        return found

    async def log_of(self, found: VOBuild) -> Sequence[Event]:
        """The last `LOG_LINES` of a build's log, in order."""
        return await self.store.last_events(build_stream(found.build.id), LOG_LINES)

    async def audit(self, manager: Manager, before: int | None) -> Sequence[AuditEntry]:
        """The VO's log, newest first, at most `PAGE`."""
        return await self.store.audit(manager.vo, before, PAGE)

    async def whole_audit(self, before: int | None) -> Sequence[AuditEntry]:
        """The log of all VOs: for administrators, which the caller has made sure of."""
        return await self.store.audit(None, before, PAGE)
