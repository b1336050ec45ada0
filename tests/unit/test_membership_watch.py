"""The watch over memberships with many people: JupyterHub's own database, and a clock that waits for nobody."""

from __future__ import annotations

import asyncio
import logging
import selectors
from collections import defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from jupyterhub import orm

from replay_auth.membership import MembershipSettings, MembershipWatch
from replay_auth.refreshing import Standing, Verdict
from tests.hub_people import hub_database

BOUND = 300.0


class _NoWaiting(selectors.DefaultSelector):
    """What would wait for so many seconds makes the clock that much later instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now += timeout or 0.0
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _NoWaiting()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


@dataclass
class Hub:
    """People of a hub; who decides about them and who stops their servers take their time."""

    answer_seconds: float = 0.3
    stop_seconds: float = 0.0
    lost: set[str] = field(default_factory=set)
    asked: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    told: dict[str, float] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    came_back: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.db = hub_database()
        self.http_server = object()
        self.users = _Users()
        self.log = logging.getLogger("test")

    def add(self, *names: str, server: bool = True) -> None:
        for name in names:
            user = orm.User(name=name)
            self.db.add(user)
            if server:
                self.db.add(orm.Spawner(user=user, name="", server=orm.Server()))
            else:
                self.db.flush()
                self.db.add(orm.APIToken(user=user, prefix=name, hashed=name, client_id="jupyterhub"))
        self.db.commit()

    def remove_server(self, name: str) -> None:
        user = orm.User.find(self.db, name)
        assert user
        self.db.delete(user.orm_spawners[""])
        self.db.commit()

    # As the refresher

    async def refresh(self, user: Any) -> Verdict:
        self.asked[user.name].append(now())
        await asyncio.sleep(self.answer_seconds)
        return Verdict(Standing.LOST if user.name in self.lost else Standing.MEMBER, 0.0, b"")

    async def has_ended(self, user: Any) -> bool:
        return user.name in self.lost

    def forget_all_but(self, names: set[str]) -> None:
        pass

    # As the one who stops servers

    async def stop(self, name: str, server: str) -> bool:
        self.told.setdefault(name, now())
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.stop_seconds)
            self.remove_server(name)
        finally:
            self.at_once -= 1
        return True

    def close(self) -> None:
        pass

    # The watch

    async def watch_for(self, seconds: float, during: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        async def leave(user: Any) -> None:
            self.left.append(user.name)

        watch = MembershipWatch(self, self, self, MembershipSettings(), self.log, when_left=leave)  # type: ignore[arg-type]
        watch.start()
        try:
            end = now() + seconds
            if during:
                await during()
            await asyncio.sleep(end - now())
        finally:
            await watch.stop()


class _Users:
    def __getitem__(self, orm_user: orm.User) -> Any:
        return SimpleNamespace(name=orm_user.name, orm_user=orm_user)


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture
def hub() -> Any:
    hub = Hub()
    yield hub
    hub.db.close()
    hub.db.get_bind().dispose()


def run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(work)


def gaps(hub: Hub) -> list[float]:
    return [after - before for times in hub.asked.values() for before, after in pairwise(times)]


def test_a_thousand_people_are_asked_about_within_the_part_of_the_bound_that_is_for_that(hub: Hub) -> None:
    people = [f"user{number}" for number in range(1000)]
    hub.add(*people, server=False)
    run(hub.watch_for(1.5 * BOUND))
    assert set(hub.asked) == set(people)
    assert max(times[0] for times in hub.asked.values()) < 0.2 * BOUND, "all of them soon after the hub's start"
    assert max(gaps(hub)) < 0.7 * BOUND
    assert min(len(times) for times in hub.asked.values()) >= 2


def test_those_about_whom_a_hub_asks_at_its_start_are_not_asked_about_all_at_once_ever_after(hub: Hub) -> None:
    hub.add(*(f"user{number}" for number in range(500)), server=False)
    run(hub.watch_for(2 * BOUND))
    seconds = [int(times[2]) // 10 for times in hub.asked.values()]
    most = max(seconds.count(ten) for ten in set(seconds))
    assert most < 150, "in ten seconds, where as many as 333 can be asked about"


def test_the_next_is_asked_about_when_one_is_answered(hub: Hub) -> None:
    hub.answer_seconds = 0.1
    hub.add(*(f"user{number}" for number in range(100)), server=False)
    run(hub.watch_for(8.0))
    begun = [times[0] for times in hub.asked.values()]
    assert len(begun) == 100
    assert max(begun) - min(begun) == pytest.approx(0.9)


def test_whoever_is_new_is_asked_about_at_once(hub: Hub) -> None:
    hub.add("ada")

    async def somebody_starts_a_server() -> None:
        await asyncio.sleep(0.5 * BOUND)
        hub.add("dmitri")

    run(hub.watch_for(0.6 * BOUND, somebody_starts_a_server))
    assert 0.5 * BOUND <= hub.asked["dmitri"][0] <= 0.5 * BOUND + 5.0


def test_where_everybody_loses_access_all_servers_are_told_to_stop_within_the_bound(hub: Hub) -> None:
    people = [f"user{number}" for number in range(1000)]
    hub.add(*people)
    hub.stop_seconds = 10.0  # the longest that a hub lets anybody wait
    lost_at = 0.0

    async def a_vo_ends() -> None:
        nonlocal lost_at
        await asyncio.sleep(0.5 * BOUND)
        lost_at = now()
        hub.lost |= set(people)

    run(hub.watch_for(1.5 * BOUND, a_vo_ends))
    assert set(hub.told) == set(people)
    assert max(hub.told.values()) - lost_at < BOUND
    assert hub.most_at_once <= 100


def test_servers_that_are_slow_to_stop_keep_nobody_from_being_asked_about(hub: Hub) -> None:
    hub.stop_seconds = 1000.0
    losers = [f"loser{number}" for number in range(150)]
    hub.add(*losers, "ada")
    hub.lost |= set(losers)
    run(hub.watch_for(1.5 * BOUND))
    assert hub.most_at_once == 100
    assert len(hub.told) == 100
    assert max(gaps(hub)) < 0.7 * BOUND
    assert len(hub.asked["ada"]) >= 2


def test_who_comes_back_while_their_server_waits_to_be_stopped_keeps_it(hub: Hub) -> None:
    hub.stop_seconds = 60.0
    hub.answer_seconds = 0.01
    losers = [f"loser{number}" for number in range(120)]
    hub.add(*losers)
    hub.lost |= set(losers)

    async def all_come_back() -> None:
        await asyncio.sleep(30.0)
        assert len(hub.told) == 100
        hub.lost.clear()

    run(hub.watch_for(BOUND, all_come_back))
    assert len(hub.told) == 100


def test_who_has_nothing_left_is_taken_leave_of_once(hub: Hub) -> None:
    hub.add("ada", "dmitri")

    async def ada_stops() -> None:
        await asyncio.sleep(20.0)
        hub.remove_server("ada")

    run(hub.watch_for(BOUND, ada_stops))
    assert hub.left == ["ada"]


def test_looks_that_are_late_are_told_of(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    hub.answer_seconds = 10.0
    hub.add(*(f"user{number}" for number in range(300)), server=False)
    run(hub.watch_for(2 * BOUND))
    (told,) = [record for record in caplog.records if "late" in record.getMessage()]
    assert "raise membership_concurrency" in told.getMessage()
