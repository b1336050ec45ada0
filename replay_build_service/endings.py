"""The end of sessions that nobody uses: what their people are told before, and their word that it is to go on.

The hub's culler decides and ends them; its arbiter tells here what it found (`replay_spawner.idle`). Without its word nobody is
warned, and nothing ends here. Knows the store by its protocol.
"""

import logging
from datetime import UTC, datetime, timedelta
from typing import Protocol

from replay_build_service.domain import Launch, LaunchId, LaunchState
from replay_build_service.errors import Conflict
from replay_build_service.records import SessionEnd
from replay_build_service.schemas import ActivityReport

log = logging.getLogger(__name__)


class EndingStore(Protocol):
    """What endings ask of the database; see `replay_build_service.db.Store`."""

    async def record_use(
        self, launch_id: LaunchId, used_at: datetime, limit: timedelta, warning: timedelta
    ) -> SessionEnd | None: ...
    async def keep_session(self, launch_id: LaunchId) -> SessionEnd | None: ...
    async def session_end(self, launch_id: LaunchId) -> SessionEnd | None: ...


class Endings:
    """Of one service's sessions. All is in the database, so any number of processes say the same."""

    def __init__(self, store: EndingStore) -> None:
        self._store = store

    async def used(self, report: ActivityReport) -> float | None:
        """What the culler's arbiter found; seconds since the session's person asked to keep it, none where they did not."""
        now = datetime.now(UTC)
        end = await self._store.record_use(
            LaunchId(report.launch),
            now - timedelta(seconds=report.active_ago),
            timedelta(seconds=report.limit),
            timedelta(seconds=report.warning),
        )
        return None if end is None or end.kept_at is None else max(0.0, (now - end.kept_at).total_seconds())

    async def stay(self, launch: Launch) -> SessionEnd:
        """Its person wants the session to go on: that counts like any use of it. Raises `Conflict` where it does not run."""
        end = await self._store.keep_session(launch.id)
        if end is None:
            raise Conflict("This session does not run, so it cannot be kept. You can launch the same again.")
        log.info("Session %s of %r is kept by its person", launch.id, launch.user)
        return end

    async def near(self, launch: Launch | None) -> SessionEnd | None:
        """How a running session ends, where that is so near that its person is to be told; else none."""
        if launch is None or launch.state is not LaunchState.RUNNING:
            return None
        end = await self._store.session_end(launch.id)
        return end if end is not None and end.is_near(datetime.now(UTC)) else None
