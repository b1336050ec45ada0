"""The watch over memberships while servers run: everybody who has something at the hub is asked about again and again.

A task in the hub's process. It begins with the hub's handlers and ends with the hub, which cancels it. What an answer means is
`replay_auth.refreshing`; how access ends is `replay_auth.ending`.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from dataclasses import dataclass
from logging import Logger
from typing import Any, Protocol

from jupyterhub import orm
from jupyterhub.utils import utcnow
from sqlalchemy import or_
from sqlalchemy.exc import SQLAlchemyError
from tornado.httpclient import HTTPClientError
from traitlets import Bool, Float, HasTraits, Integer

from replay_auth.ending import HubApp, ServerStopper
from replay_auth.refreshing import Refresher, Standing, Verdict
from replay_auth.stored import HubUser

STOP_AGAIN_SECONDS = 5.0
"""A server that was to stop and did not is asked again after that."""
_PART_FOR_LOOKING = 0.6
"""Of the bound: so much passes at most between two questions about a person. The rest is for answers and for stopping."""


class MembershipSettings(HasTraits):
    """How soon a lost membership ends access, and how long a doubt is borne."""

    membership_seconds = Float(
        300.0,
        min=1.0,
        config=True,
        help="""
        The bound, in seconds: so long after somebody has lost their last permitted VO they have no access any more, and
        their servers are told to stop. No server starts by a membership that was proved longer ago.

        What a service or a server remembers of the hub's answers comes on top (JupyterHub's ``HubAuth.cache_max_age``).
        """,
    )

    membership_grace = Float(
        3600.0,
        min=0.0,
        config=True,
        help="""
        For so many seconds a membership is believed that cannot be looked at, because the provider does not answer or the
        person has to log in again. Then their servers stop. No server starts meanwhile.
        """,
    )

    membership_concurrency = Integer(
        10, min=1, config=True, help="So many people are asked about at the same time, while nobody clicks."
    )

    membership_of_tokens = Bool(
        True,
        config=True,
        help="""
        Whether people without a server are watched, too, as long as they have a token of the hub, such as the one that a
        browser has for a service. Otherwise these are asked about when they use it.
        """,
    )


class WatchedHub(HubApp, Protocol):
    """As much of the hub's application as the watch needs."""

    users: Any
    http_server: Any


@dataclass(frozen=True, slots=True)
class Watched:
    """Somebody with servers or tokens."""

    user_id: int
    name: str
    servers: tuple[str, ...]
    """The names of those that run, start or stop; the ordinary one's is empty."""


class MembershipWatch:
    """Asks about each person once in a while, and stops the servers of those who have no access any more."""

    def __init__(self, app: WatchedHub, refresher: Refresher, settings: MembershipSettings, log: Logger | Any) -> None:
        self._app = app
        self._refresher = refresher
        self._settings = settings
        self._log = log
        self._interval = settings.membership_seconds * _PART_FOR_LOOKING
        self._tick = max(0.1, min(5.0, self._interval / 10))
        self._stopper = ServerStopper(app)
        self._due: dict[int, float] = {}
        """When each person is asked about next, in seconds of `time.monotonic`."""
        self._ending: dict[str, float] = {}
        """Whose servers have to stop, by name, and when they are told so next."""
        self._busy: dict[int, asyncio.Task[None]] = {}
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.is_failing = False
        """Whether the last look at the hub's people did not succeed."""
        self.watched = 0
        """How many people it found."""

    def start(self) -> None:
        """From now on until the loop ends. The task is this object's; whoever has the object keeps it."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="replay-membership")

    async def stop(self) -> None:
        """End it, and what it has begun."""
        tasks = [task for task in (self._task, *self._busy.values()) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def end(self, name: str) -> None:
        """Stop this person's servers now; a verdict has said so."""
        self._ending.setdefault(name, 0.0)
        self._woken.set()

    async def _run(self) -> None:
        try:
            while True:
                await self._pause()
                if self._app.http_server is None:
                    continue  # The hub is still starting.
                try:
                    self._look()
                except Exception as error:  # noqa: BLE001 - whatever it was: the watch goes on, and says so
                    self.is_failing = True
                    self._recover(error)
                    self._log.exception("The hub's people could not be looked at; trying again")
                else:
                    self.is_failing = False
        finally:
            for task in self._busy.values():
                task.cancel()
            self._stopper.close()

    async def _pause(self) -> None:
        self._woken.clear()
        try:
            async with asyncio.timeout(self._tick):
                await self._woken.wait()
        except TimeoutError:
            pass

    def _look(self) -> None:
        """Begin what is due. No await: what is read of the database is one moment's."""
        people = {person.user_id: person for person in self._people()}
        self.watched = len(people)
        self._refresher.forget_all_but({person.name for person in people.values()})
        self._due = {user_id: due for user_id, due in self._due.items() if user_id in people}
        with_servers = {person.name for person in people.values() if person.servers}
        self._ending = {name: when for name, when in self._ending.items() if name in with_servers}
        now = time.monotonic()
        for person in people.values():
            # Spread by something that stays the same, so that a hub that starts does not ask about all at once.
            share = zlib.crc32(person.name.encode()) / 2**32
            self._due.setdefault(person.user_id, now + share * self._interval)
        due = [person for person in people.values() if person.user_id not in self._busy and self._when(person) <= now]
        free = self._settings.membership_concurrency - len(self._busy)
        for person in sorted(due, key=self._when)[: max(0, free)]:
            self._begin(person)

    def _when(self, person: Watched) -> float:
        return min(self._due[person.user_id], self._ending.get(person.name, float("inf")))

    def _begin(self, person: Watched) -> None:
        task = asyncio.get_running_loop().create_task(self._attend(person), name=f"membership of {person.name}")
        self._busy[person.user_id] = task
        task.add_done_callback(lambda _: self._busy.pop(person.user_id, None))

    async def _attend(self, person: Watched) -> None:
        """One person: ask, and stop their servers where that is to be. Never fails; the next round tries again."""
        self._due[person.user_id] = time.monotonic() + self._interval
        try:
            verdict = await self._verdict_on(person)
            if verdict is None or not is_over(verdict):
                # Who has come back meanwhile keeps their server.
                self._ending.pop(person.name, None)
                return
            self._ending[person.name] = time.monotonic() + STOP_AGAIN_SECONDS
            await asyncio.gather(*(self._stop_server(person.name, server) for server in person.servers))
        except Exception as error:  # noqa: BLE001 - one person's trouble is not the others'
            self._recover(error)
            self._log.exception("The membership of %s could not be attended to; trying again", person.name)
            self._due[person.user_id] = time.monotonic() + min(self._interval, STOP_AGAIN_SECONDS)

    async def _verdict_on(self, person: Watched) -> Verdict | None:
        orm_user = self._app.db.get(orm.User, person.user_id)
        if orm_user is None:
            return None
        user: HubUser = self._app.users[orm_user]
        return await self._refresher.refresh(user)

    async def _stop_server(self, name: str, server: str) -> None:
        try:
            is_gone = await self._stopper.stop(name, server)
        except (HTTPClientError, OSError) as error:  # a hub that is busy, or a spawner that fails
            self._log.error("The server %r of %s, who has no access any more, does not stop: %s", server, name, error)
            return
        state = "has stopped" if is_gone else "is stopping"
        self._log.warning("The server %r of %s, who has no access any more, %s", server, name, state)

    def _recover(self, error: Exception) -> None:
        if isinstance(error, SQLAlchemyError):
            self._app.db.rollback()

    def _people(self) -> list[Watched]:
        database = self._app.db
        servers: dict[int, list[str]] = {}
        names: dict[int, str] = {}
        running = (
            database.query(orm.User.id, orm.User.name, orm.Spawner.name)
            .join(orm.Spawner, orm.Spawner.user_id == orm.User.id)
            .filter(orm.Spawner.server_id.isnot(None))
        )
        for user_id, name, server in running:
            names[user_id] = name
            servers.setdefault(user_id, []).append(server)
        if self._settings.membership_of_tokens:
            is_live = or_(orm.APIToken.expires_at.is_(None), orm.APIToken.expires_at > utcnow(with_tz=False))
            with_tokens = (
                database.query(orm.User.id, orm.User.name)
                .join(orm.APIToken, orm.APIToken.user_id == orm.User.id)
                .filter(is_live)
                .distinct()
            )
            names.update((user_id, name) for user_id, name in with_tokens)
        return [Watched(user_id, name, tuple(servers.get(user_id, ()))) for user_id, name in names.items()]


def is_over(verdict: Verdict) -> bool:
    """Whether access ends by it."""
    return verdict.standing in {Standing.LOST, Standing.DOUBTED_TOO_LONG}
