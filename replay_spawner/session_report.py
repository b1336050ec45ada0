"""What the hub tells of a session that runs: ``GET {hub}/api/replay/sessions/USER``, for the build service's pages.

The service asks with a token of its own, of the scope ``read:servers``; a person may ask of themselves. The figures of one
server are asked for at most every few seconds, however many ask.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.scopes import needs_scope
from tornado import web

from replay_build_service.schemas import FeatureReport, SessionReport, UsageModel
from replay_spawner.spawner import ReplayMixin
from replay_spawner.usage import Usage

REST_SECONDS = 5.0
"""How long figures are good enough for the next who ask."""


@dataclass
class _Figures:
    """The last figures of one server; one question at a time."""

    asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    launch: str = ""
    asked_at: float = 0.0
    usage: Usage | None = None


_known: WeakKeyDictionary[ReplayMixin, _Figures] = WeakKeyDictionary()


async def report_of(spawner: ReplayMixin) -> SessionReport | None:
    """What there is to say of a server; none where it is no launch's session, or does not run."""
    launch = spawner.session_launch
    if launch is None or not spawner.ready:
        return None
    usage = await _usage(spawner, launch)
    features: Sequence[FeatureReport] = getattr(spawner, "feature_reports", list[FeatureReport])()
    return SessionReport(
        launch=launch,
        resources=spawner.resources,
        usage=None if usage is None else _model(usage),
        features=list(features),
    )


async def _usage(spawner: ReplayMixin, launch: str) -> Usage | None:
    figures = _known.setdefault(spawner, _Figures())
    loop = asyncio.get_running_loop()
    async with figures.asking:
        if figures.launch != launch or loop.time() >= figures.asked_at + REST_SECONDS:
            try:
                figures.usage = await spawner.usage()
            except Exception:  # whatever an engine or a cluster answers to this must not hide what else is known
                spawner.log.exception("What launch %s uses could not be found out", launch)
                figures.usage = None
            figures.launch, figures.asked_at = launch, loop.time()
        return figures.usage


def _model(usage: Usage) -> UsageModel:
    return UsageModel(
        source=usage.source.value,
        memory_used=usage.memory_used,
        memory_limit=usage.memory_limit,
        cpu_used=usage.cpu_used,
        cpu_limit=usage.cpu_limit,
        oom_kills=usage.oom_kills,
    )


class SessionReportHandler(APIHandler):
    """404 for nobody and for no session, as for whom the token may not see."""

    @needs_scope("read:servers")
    async def get(self, user_name: str) -> None:
        user: Any = self.find_user(user_name)
        spawner: Any = None if user is None else user.spawner
        report = await report_of(spawner) if isinstance(spawner, ReplayMixin) else None
        if report is None:
            raise web.HTTPError(404, "No session of a launch runs.")
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.finish(report.model_dump_json())
