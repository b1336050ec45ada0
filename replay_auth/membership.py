"""The watch over memberships while servers run: everybody who has something at the hub is asked about again and again.

A task in the hub's process. It begins with the hub's handlers and ends with the hub, which cancels it. What an answer means is
`replay_auth.refreshing`; how access ends is `replay_auth.ending`. Asking and stopping have places of their own, so that
servers that are slow to stop keep nobody from being asked about.
"""

from __future__ import annotations

import asyncio
import heapq
import time
import zlib
from collections.abc import Awaitable, Callable
from logging import Logger
from typing import Any, Protocol

from jupyterhub import orm
from sqlalchemy.exc import SQLAlchemyError
from tornado.httpclient import HTTPClientError
from traitlets import Bool, Float, HasTraits, Integer

from replay_auth.ending import HubApp
from replay_auth.holdings import Watched, people_with_holdings
from replay_auth.refreshing import Standing, Verdict
from replay_auth.stops import ServerStops
from replay_auth.stored import HubUser

STOP_AGAIN_SECONDS = 5.0
"""A server that was to stop and did not is asked again after that."""
STOPS_AT_ONCE = 100
"""So many servers are stopped at the same time. The hub answers to each after 10 s at the latest (`slow_stop_timeout`)."""
_PART_FOR_LOOKING = 0.6
"""Of the bound: so much passes at most between two questions about a person. The rest is for answers and for stopping."""
_PART_TO_BE_LATE = 0.2
"""Of the bound: looks that are later than that are told of in the log. As much again is left for stopping."""


class MembershipSettings(HasTraits):
    """How soon a lost membership ends access, and how long a doubt is borne."""

    membership_seconds = Float(
        300.0,
        min=1.0,
        config=True,
        help="""
        The bound, in seconds: so long after somebody has lost their last permitted VO they have no access any more, and
        their servers are told to stop. No server starts by a membership that was proved longer ago than three fifths of it.

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
        10,
        min=1,
        config=True,
        help="""
        So many people are asked about at the same time, while nobody clicks; the next one when one is answered. Too few
        for the people there are is told of in the hub's log and at ``/hub/replay/membership``.
        """,
    )

    membership_of_tokens = Bool(
        True,
        config=True,
        help="""
        Whether people without a server are watched, too, as long as they have a token of the hub, such as the one that a
        browser has for a service. Otherwise these are asked about when they use it.
        """,
    )

    @property
    def looking_seconds(self) -> float:
        """So old may a proof become before it is asked for again."""
        return self.membership_seconds * _PART_FOR_LOOKING


class WatchedHub(HubApp, Protocol):
    """As much of the hub's application as the watch needs."""

    users: Any
    http_server: Any


class Judge(Protocol):
    """Who decides about memberships: `replay_auth.refreshing.Refresher`."""

    async def refresh(self, user: HubUser) -> Verdict: ...
    async def has_ended(self, user: HubUser) -> bool: ...
    def forget_all_but(self, names: set[str]) -> None: ...


class Stopper(Protocol):
    """Who stops servers: `replay_auth.ending.ServerStopper`."""

    async def stop(self, username: str, server_name: str) -> bool: ...
    def close(self) -> None: ...


class MembershipWatch:
    """Asks about each person once in a while, and stops the servers of those who have no access any more.

    ``when_left`` is awaited for somebody who has nothing at the hub any more.
    """

    def __init__(
        self,
        app: WatchedHub,
        refresher: Judge,
        stopper: Stopper,
        settings: MembershipSettings,
        log: Logger | Any,
        *,
        when_left: Callable[[HubUser], Awaitable[None]],
    ) -> None:
        self._app = app
        self._refresher = refresher
        self._settings = settings
        self._log = log
        self._when_left = when_left
        self._interval = settings.looking_seconds
        self._tick = max(0.1, min(5.0, self._interval / 10))
        self._stopper = stopper
        self._stops = ServerStops(self._stop_server, most=STOPS_AT_ONCE)
        self._people: dict[int, Watched] = {}
        """As the last look found them."""
        self._new: set[int] = set()
        """Who of them has not been asked about yet."""
        self._left: set[int] = set()
        """Who was among them and is not any more, until that is attended to."""
        self._due: dict[int, float] = {}
        """When each person is asked about next, in seconds of the loop."""
        self._queue: list[tuple[float, int]] = []
        """When whom: a heap of those whom the last look found, and whom nobody has attended to since."""
        self._ending: dict[int, float] = {}
        """Whose servers have to stop, and when they are told so next."""
        self._busy: dict[int, asyncio.Task[None]] = {}
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_late = False
        self.is_failing = False
        """Whether the last look at the hub's people did not succeed."""

    def start(self) -> None:
        """From now on until the loop ends. The task is this object's; whoever has the object keeps it."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="replay-membership")

    async def stop(self) -> None:
        """End it, and what it has begun."""
        self._queue.clear()
        tasks = [*self._stops.cancel(), *self._busy.values()]
        if self._task:
            tasks.append(self._task)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def end(self, user: HubUser) -> None:
        """Stop this person's servers now; a verdict has said so."""
        self._ending.setdefault(user.orm_user.id, self._now())
        self._woken.set()

    @property
    def watched(self) -> int:
        """How many people have a server or a token."""
        return len(self._people)

    @property
    def seconds_late(self) -> float:
        """For how long whoever has waited longest should have been asked about."""
        return max(0.0, self._now() - self._queue[0][0]) if self._queue else 0.0

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
            self._queue.clear()
            self._stops.cancel()
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
        """Find who has what, and begin what is due. No await: what is read of the database is one moment's."""
        self._tell_of_lateness()
        people = {person.user_id: person for person in self._found()}
        self._left = (self._left | self._people.keys()) - people.keys()
        self._new = (self._new | (people.keys() - self._people.keys())) & people.keys()
        self._people = people
        self._refresher.forget_all_but({person.name for person in people.values()})
        self._due = {user_id: due for user_id, due in self._due.items() if user_id in people}
        ending = self._ending.items()
        self._ending = {user_id: when for user_id, when in ending if user_id in people and people[user_id].servers}
        now = self._now()
        queue = [(self._when(user_id, now), user_id) for user_id in people.keys() - self._busy.keys()]
        self._queue = queue + [(now, user_id) for user_id in self._left - self._busy.keys()]
        heapq.heapify(self._queue)
        self._fill()

    def _when(self, user_id: int, now: float) -> float:
        # Who is new is asked about at once: what is known of them may be as old as it may become.
        due = self._due.setdefault(user_id, now)
        if user_id not in self._ending or self._stops.are_asked_for(user_id):
            return due
        return min(due, self._ending[user_id])

    def _fill(self) -> None:
        """Attend to those who are due, as many at a time as may be."""
        now = self._now()
        while self._queue and self._queue[0][0] <= now and len(self._busy) < self._settings.membership_concurrency:
            _, user_id = heapq.heappop(self._queue)
            task = asyncio.get_running_loop().create_task(self._attend(user_id), name=f"membership of user {user_id}")
            self._busy[user_id] = task
            task.add_done_callback(lambda _, user_id=user_id: self._attended(user_id))

    def _attended(self, user_id: int) -> None:
        self._busy.pop(user_id, None)
        self._fill()

    async def _attend(self, user_id: int) -> None:
        """One person: ask, and have their servers stopped where that is to be. Never fails; the next round tries again."""
        person = self._people.get(user_id)
        try:
            if person is None:
                self._left.discard(user_id)
                if user := self._user(user_id):
                    await self._when_left(user)
            else:
                await self._ask_about(person)
        except Exception as error:  # noqa: BLE001 - one person's trouble is not the others'
            self._recover(error)
            self._log.exception("User %s could not be attended to", person.name if person else user_id)
            self._due[user_id] = self._now() + min(self._interval, STOP_AGAIN_SECONDS)

    async def _ask_about(self, person: Watched) -> None:
        self._due[person.user_id] = self._now() + self._until_next(person)
        user = self._user(person.user_id)
        verdict = await self._refresher.refresh(user) if user else None
        if verdict is None or not is_over(verdict):
            # Who has come back meanwhile keeps their server.
            self._ending.pop(person.user_id, None)
            if verdict and verdict.until is not None:
                # A doubt ends when it is to end, and not at the next look after that.
                left = max(0.0, verdict.until - time.time())
                self._due[person.user_id] = min(self._due[person.user_id], self._now() + left)
            return
        self._ending[person.user_id] = self._now() + STOP_AGAIN_SECONDS
        # With those that came since the last look, if there has been one since.
        for server in self._people.get(person.user_id, person).servers:
            self._stops.ask_for(person.user_id, server)

    def _until_next(self, person: Watched) -> float:
        if person.user_id not in self._new:
            return self._interval
        # Once, so that those about whom a hub has asked at its start are not asked about all at once ever after.
        self._new.discard(person.user_id)
        return self._interval * (0.5 + zlib.crc32(person.name.encode()) / 2**33)

    async def _stop_server(self, user_id: int, server: str) -> None:
        """Tell one server to stop, unless its person has come back while it waited for a place. Never fails."""
        try:
            user = self._user(user_id)
            if user is None:
                return
            if not await self._refresher.has_ended(user):
                self._due[user_id] = self._now()
                self._woken.set()
                return
            is_gone = await self._stopper.stop(user.name, server)
            state = "has stopped" if is_gone else "is stopping"
            self._log.warning("The server %r of %s, who has no access any more, %s", server, user.name, state)
        except (HTTPClientError, OSError) as error:  # a hub that is busy, or a spawner that fails
            self._log.error(
                "The server %r of user %s, who has no access any more, does not stop: %s", server, user_id, error
            )
        except Exception as error:  # noqa: BLE001 - one server's trouble is not the others'
            self._recover(error)
            self._log.exception("The server %r of user %s could not be stopped; trying again", server, user_id)
        finally:
            if user_id in self._ending:
                self._ending[user_id] = self._now() + STOP_AGAIN_SECONDS

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _user(self, user_id: int) -> HubUser | None:
        orm_user = self._app.db.get(orm.User, user_id)
        return None if orm_user is None else self._app.users[orm_user]

    def _recover(self, error: Exception) -> None:
        if isinstance(error, SQLAlchemyError):
            self._app.db.rollback()

    def _found(self) -> list[Watched]:
        return people_with_holdings(self._app.db, of_tokens=self._settings.membership_of_tokens)

    def _tell_of_lateness(self) -> None:
        late = self.seconds_late
        if self._is_late != (late > self._settings.membership_seconds * _PART_TO_BE_LATE):
            self._is_late = not self._is_late
            if self._is_late:
                self._log.warning(
                    "Asking about memberships is %.0f s late, with %s people at a time: raise membership_concurrency, "
                    "or membership_seconds",
                    late,
                    self._settings.membership_concurrency,
                )
            else:
                self._log.info("Asking about memberships is not late any more")


def is_over(verdict: Verdict) -> bool:
    """Whether access ends by it."""
    return verdict.standing in {Standing.LOST, Standing.DOUBTED_TOO_LONG}
