"""What jupyterhub-idle-culler asks of each server, each round: is it to end now? For its ``cull_arbiter_hook``.

https://github.com/jupyterhub/jupyterhub-idle-culler. A server that was used lately is not asked, since it cannot end soon.
Times that are remembered are this process's; what others say comes as an age, so that no clock is compared with another.
"""

import asyncio
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from replay_build_service.client import ReplayClient, ServiceUnavailable
from replay_build_service.schemas import ActivityAnswer, ActivityReport
from replay_spawner.idle import terminals
from replay_spawner.idle.deciding import Known, Reading, idle_time, rest, warning_time
from replay_spawner.idle.reading import Answers, NoReading, SessionServer, http_client
from replay_spawner.plans import launch_in

log = logging.getLogger(__name__)

LOOK_SECONDS = 8.0
"""All that is asked of one server in one round: others wait for it."""

HUB_SECONDS = 10.0
FORGOTTEN_SECONDS = 24 * 3600.0
"""After so long without a word of it, what is remembered of a server goes."""

_PROGRESS = re.compile(r"/users/([^/]+)/(?:server|servers/([^/]+))/progress$")


class ActivityService(Protocol):
    """What is asked of the build service; see `replay_build_service.client.ReplayClient`."""

    async def activity(self, report: ActivityReport) -> ActivityAnswer: ...


class Door(Protocol):
    """Where a server is, and what opens it; raises `NoReading`."""

    async def open(self, server: str) -> SessionServer: ...


class _Opened(BaseModel):
    address: str
    token: str


class HubDoor:
    """The hub's door of `replay_spawner.idle.door`, with the culler's own token, which goes nowhere else."""

    def __init__(self, api_url: str, token: str, http: httpx.AsyncClient) -> None:
        self._api_url = api_url.rstrip("/")
        self._token = token
        self._http = http

    async def open(self, server: str) -> SessionServer:
        """``server`` as the hub's API names it: ``ada/server`` or ``ada/servers/one``. Raises `NoReading`."""
        try:
            answer = await self._http.post(
                f"{self._api_url}/replay/users/{server}/reading",
                headers={"Authorization": f"token {self._token}"},
                timeout=HUB_SECONDS,
            )
            answer.raise_for_status()
            opened = _Opened.model_validate_json(answer.content)
        except (httpx.HTTPError, ValidationError) as error:
            raise NoReading(f"The hub does not let it be asked: {error!r}"[:300]) from error
        return SessionServer(self._http, opened.address, opened.token)


@dataclass(slots=True)
class _Memory:
    """What earlier rounds found of one server; times of the loop's clock, in seconds."""

    used_at: float
    look_at: float
    seen_at: float
    warned: bool = False
    """The service, and JupyterLab, were told that its end is near."""
    lab_knows: bool = False
    """JupyterLab was told of the service, which its entry “Replay: home” leads to."""
    was_silent: bool = False
    ours: set[str] = field(default_factory=set[str])
    """Terminals that were opened to look, and not closed."""


class Arbiter:
    """Decides for one culler."""

    def __init__(self, door: Door, service: ActivityService | None, home: str = "/services/replay/") -> None:
        """``service`` is where launches are told of; ``home`` its path, as people reach it."""
        self._door = door
        self._service = service
        self._home = home
        self._memories: dict[tuple[str, str], _Memory] = {}

    async def should_end(
        self, *, inactive: timedelta | None, inactive_limit: float, server: Mapping[str, Any], **_more: object
    ) -> bool:
        """Whether nobody has used that server for the limit; ``server`` is the hub's model of it.

        Never raises: a fault of ours must neither end a session nor keep the culler from others.
        """
        try:
            return await self._should_end(inactive, timedelta(seconds=inactive_limit), server)
        except Exception:
            # Whatever it is, the culler would give up on all servers of this person.
            log.exception("Could not find out whether server %r is used; it goes on", server.get("progress_url"))
            return False

    async def _should_end(self, traffic: timedelta | None, limit: timedelta, server: Mapping[str, Any]) -> bool:
        name, age = _name_of(server), _age_of(server)
        now = asyncio.get_running_loop().time()
        memory = self._memory_of((name, str(server.get("started"))), now - age.total_seconds(), now, limit)
        if now < memory.look_at:
            return False
        session, answers = await self._read(name, memory)
        remembered = timedelta(seconds=now - memory.used_at)
        launch = launch_in(server.get("user_options") or {})
        reading = None if answers is None else _reading(answers)
        known = Known(age, traffic, reading, remembered, is_session=launch is not None)
        idle = idle_time(known)
        is_near = idle >= limit - warning_time(limit)
        has_terminals = session is not None and answers is not None and answers.terminals
        if is_near and session and has_terminals and await self._runs_in_a_terminal(session, name, memory):
            idle, is_near = timedelta(), False
        if is_near or memory.warned:
            idle = min(idle, await self._tell_service(launch, idle, limit))
        has_news = is_near or memory.warned or not memory.lab_knows
        if has_news and session and answers is not None and answers.person is not None:
            ends_at = answers.at + limit - idle if idle >= limit - warning_time(limit) else None
            memory.lab_knows = await self._tell_lab(session, ends_at, limit, launch)
        memory.warned = is_near
        memory.used_at = now - idle.total_seconds()
        memory.look_at = now + rest(idle, limit).total_seconds()
        return idle >= limit

    def _memory_of(self, key: tuple[str, str], started_at: float, now: float, limit: timedelta) -> _Memory:
        memory = self._memories.get(key)
        if memory is None:
            old = now - FORGOTTEN_SECONDS
            self._memories = {one: kept for one, kept in self._memories.items() if kept.seen_at > old}
            first_look = now + rest(timedelta(seconds=now - started_at), limit).total_seconds()
            memory = self._memories[key] = _Memory(started_at, first_look, now)
        memory.seen_at = now
        return memory

    async def _read(self, name: str, memory: _Memory) -> tuple[SessionServer | None, Answers | None]:
        """What the server says; nothing where it says nothing that can be understood."""
        session = None
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                session = await self._door.open(name)
                if memory.ours:
                    await terminals.close(session, memory.ours)
                answers = await session.read(memory.ours)
        except (NoReading, TimeoutError) as error:
            level = logging.DEBUG if memory.was_silent else logging.INFO
            log.log(level, "Server %r tells nothing of its use, so its traffic decides: %s", name, error)
            memory.was_silent = True
            return session, None
        memory.was_silent = False
        return session, answers

    async def _runs_in_a_terminal(self, session: SessionServer, name: str, memory: _Memory) -> bool:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                return await terminals.has_foreground(session, memory.ours)
        except (NoReading, TimeoutError) as error:
            log.warning("Server %r has a terminal of which is not known whether something runs in it: %s", name, error)
            return False

    async def _tell_service(self, launch: str | None, idle: timedelta, limit: timedelta) -> timedelta:
        """How long ago the person asked to keep it, if the service knows; it warns them on its pages."""
        if launch is None or self._service is None:
            return idle
        report = ActivityReport(
            launch=launch,
            active_ago=idle.total_seconds(),
            limit=limit.total_seconds(),
            warning=warning_time(limit).total_seconds(),
        )
        try:
            answer = await self._service.activity(report)
        except ServiceUnavailable as error:
            log.warning("Replay's build service was not told of the near end of launch %s: %s", launch, error)
            return idle
        return idle if answer.kept_ago is None else timedelta(seconds=answer.kept_ago)

    async def _tell_lab(
        self, session: SessionServer, ends_at: datetime | None, limit: timedelta, launch: str | None
    ) -> bool:
        """For our extension in JupyterLab, which has told of its person before; whether it could be told."""
        try:
            await session.show(ends_at, limit, self._home, launch)
        except NoReading as error:
            log.info("A session's JupyterLab was not told of its end: %s", error)
            return False
        return True


async def cull_arbiter_hook(**told: Any) -> bool:
    """A function, since the culler copies what its configuration holds, and an arbiter has connections."""
    return await arbiter_of_this_process().should_end(**told)


@cache
def arbiter_of_this_process() -> Arbiter:
    """As `replay_spawner.idle.culler_service` sets the culler's environment. Raises `KeyError` for what is missing there."""
    http = http_client()
    door = HubDoor(os.environ["JUPYTERHUB_API_URL"], os.environ["JUPYTERHUB_API_TOKEN"], http)
    url, token_file = os.environ.get("REPLAY_SERVICE_URL", ""), os.environ.get("REPLAY_TOKEN_FILE", "")
    service = ReplayClient(url, Path(token_file)) if url and token_file else None
    return Arbiter(door, service, f"{os.environ.get('JUPYTERHUB_BASE_URL', '/')}services/replay/")


def _name_of(server: Mapping[str, Any]) -> str:
    """Person and server as the hub's API names them; the culler does not say whose a server is, but this address does."""
    match = _PROGRESS.search(str(server["progress_url"]))
    if match is None:
        raise ValueError(f"The hub names a server as none is named: {server['progress_url']!r}")
    user, named = match.groups()
    return f"{user}/servers/{quote(named, safe='%')}" if named else f"{user}/server"


def _age_of(server: Mapping[str, Any]) -> timedelta:
    started = datetime.fromisoformat(str(server["started"]))
    return max(timedelta(), datetime.now(UTC) - (started if started.tzinfo else started.replace(tzinfo=UTC)))


def _reading(answers: Answers) -> Reading:
    return Reading(
        is_busy=answers.is_busy,
        kernels=tuple(map(answers.age, answers.kernels)),
        terminals=tuple(map(answers.age, answers.terminals)),
        saved=tuple(map(answers.age, answers.saved)),
        person=None if answers.person is None else answers.age(answers.person),
        has_apps=answers.has_apps,
    )
