"""Events that managers prepare. Builds are real to the service; their builder is directed by the test."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from replay_build_service.db import Store
from replay_build_service.domain import (
    RunnableImage,
)
from replay_build_service.errors import BadLink, Conflict, NotFound, NotPermitted
from replay_build_service.links import Repository
from replay_build_service.managing import prepared
from replay_build_service.managing.prepared import EventWish, PreparedEvents
from replay_build_service.records import Action
from tests.unit.core_fakes import FakeProvider, House
from tests.unit.managing_cases import ONE, TWO, Vo, a_vo, audit

pytestmark = pytest.mark.hub_independent


@pytest.fixture
async def vo(store: Store) -> AsyncIterator[Vo]:
    async with a_vo(store) as made:
        yield made


def an_event(**changes: str) -> EventWish:
    now = datetime.now(UTC)
    made = EventWish(
        title="A course",
        repo="git/https%3A%2F%2Fgit.example.org%2Fcourse/HEAD",
        urlpath="lab/tree/index.ipynb",
        starts=f"{now + timedelta(days=1):%Y-%m-%dT%H:%M}",
        ends=f"{now + timedelta(days=2):%Y-%m-%dT%H:%M}",
        people="30",
    )
    return replace(made, **changes)


async def nothing_is_denied(vo: str, repository: Repository) -> None:
    assert isinstance(repository, Repository)


def no_ceiling(vo: str) -> None:
    """As where the policy does not limit builds."""


def preparing(house: House, provider: FakeProvider | None = None) -> PreparedEvents:
    return PreparedEvents(house.store, {"git": provider or FakeProvider()}, house.builds, nothing_is_denied, no_ceiling)


async def test_an_event_is_built_ahead_at_once(vo: Vo, store: Store) -> None:
    events = preparing(vo.house)
    event = await events.prepare(ONE, an_event())
    running = await vo.house.builder.next()
    assert vo.house.builder.jobs[0].resolved.version == "a" * 40
    state = await events.get(ONE, event.event.id)
    assert (state.is_built, state.build and state.build.requested_by) == (False, "mia")
    running.end(RunnableImage("venv@sha256:course", "/images/course"))
    assert state.build is not None
    await vo.house.builds.finished(state.build.id)
    assert (await events.get(ONE, event.event.id)).is_built
    (found,) = (await store.rulings_of("vo.one")).events
    assert (found.title, found.people, found.repo) == ("A course", 30, an_event().repo)
    assert (await store.rulings_of("vo.two")).events == ()
    assert [action for _, action, _ in await audit(store)] == [Action.PREPARE_EVENT, Action.BUILD_AHEAD]


async def test_a_commit_that_came_later_is_built_when_asked(vo: Vo) -> None:
    provider = FakeProvider()
    events = preparing(vo.house, provider)
    event = await events.prepare(ONE, an_event())
    provider.branches["HEAD"] = "b" * 40
    await events.build_ahead(ONE, event.event.id)
    state = await events.get(ONE, event.event.id)
    assert state.standing.version == "b" * 40
    await vo.house.builder.next(2)


async def test_an_event_is_of_one_vo(vo: Vo, store: Store) -> None:
    events = preparing(vo.house)
    event = await events.prepare(ONE, an_event())
    for attempt in (
        events.get(TWO, event.event.id),
        events.build_ahead(TWO, event.event.id),
        events.call_off(TWO, event.event.id),
    ):
        with pytest.raises(NotFound):
            await attempt
    assert list(await events.all(TWO)) == []
    await events.call_off(ONE, event.event.id)
    assert list(await events.all(ONE)) == []
    assert (await audit(store))[-1] == ("mia", Action.CALL_OFF_EVENT, "A course")


async def test_what_may_not_be_launched_is_not_built_ahead(vo: Vo, store: Store) -> None:
    async def all_is_denied(vo: str, repository: Repository) -> None:
        raise NotPermitted(f"{vo} denies {repository.short}.")

    events = PreparedEvents(vo.house.store, {"git": FakeProvider()}, vo.house.builds, all_is_denied, no_ceiling)
    with pytest.raises(NotPermitted):
        await events.prepare(ONE, an_event())
    assert await store.unfinished_builds() == []
    assert await audit(store) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"title": ""}, "The title is missing"),
        ({"people": "0"}, "a number from 1 to 5000"),
        ({"people": "many"}, "a number from 1 to 5000"),
        ({"starts": ""}, "The start should read like"),
        ({"ends": "2020-01-01T10:00"}, "is over already"),
        ({"ends": timedelta(hours=1)}, "must come after the start"),
        ({"ends": timedelta(days=40)}, "by at most 31 days"),
        ({"repo": "git/nothing/HEAD"}, "whole URL"),
        ({"repo": ""}, "no provider"),
        ({"urlpath": "//evil.example"}, "outside the session"),
    ],
)
async def test_an_event_that_cannot_be_meant_is_refused(
    vo: Vo, store: Store, changes: dict[str, str | timedelta], told: str
) -> None:
    # From the test's own moment on: the suite may have begun an hour ago.
    now = datetime.now(UTC)
    said = {
        name: value if isinstance(value, str) else f"{now + value:%Y-%m-%dT%H:%M}" for name, value in changes.items()
    }
    with pytest.raises(BadLink, match=told):
        await preparing(vo.house).prepare(ONE, an_event(**said))
    assert await store.unfinished_builds() == []
    assert await audit(store) == []


async def test_there_is_a_bound_to_the_events_ahead(vo: Vo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "MOST_EVENTS", 1)
    events = preparing(vo.house)
    await events.prepare(ONE, an_event())
    with pytest.raises(Conflict, match="1 events ahead"):
        await events.prepare(ONE, an_event())
    await events.prepare(TWO, an_event())
