"""The policy is the administrators' ceiling: whatever a manager sends with the forms that there are, it holds as it was."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from replay_build_service.domain import LaunchState, Person, launch_stream
from replay_build_service.errors import LimitReached, NotPermitted
from replay_build_service.policy_values import GPUs, Limits, RepositoryPattern, Resources, VOPolicy
from replay_build_service.web.auth import RateLimit
from replay_build_service.wishes import Planned, Wish
from tests.unit.core_fakes import image
from tests.unit.managers_web import ADA as ADA_ASKS
from tests.unit.managers_web import FORMS, MIA, Web, below, open_web

ADA, BORIS = Person("ada", frozenset({"vo.one"})), Person("boris", frozenset({"vo.one"}))


def link(name: str) -> str:
    return f"git/https%3A%2F%2Fgit.example.org%2F{name}/HEAD"


def event(name: str) -> dict[str, str]:
    """One that is on now."""
    starts = datetime.now(UTC) - timedelta(hours=1)
    return {**FORMS["events"], "link": link(name), "starts": f"{starts:%Y-%m-%dT%H:%M}"}


@asynccontextmanager
async def managed(folder: Path, monkeypatch: pytest.MonkeyPatch, **policy: Any) -> AsyncGenerator[Web]:
    """A VO with this policy, whose manager has allowed all that its forms can, with an event that is on and built."""
    ceiling = replace(VOPolicy("vo.one", Resources()), **policy)
    async with open_web(folder, monkeypatch, [ceiling]) as web:
        for path, fields in (
            ("rules", {"effect": "allow", "pattern": "**", "reason": "all of it"}),
            ("rules", {"effect": "allow", "pattern": "git.example.org/**", "reason": "all of it"}),
            ("banner", {"action": "own", "text": "Use as much as you like."}),
            ("events", event("hello")),
        ):
            await web.post(below(path), MIA, **fields)
        for build in await web.store.unfinished_builds():
            (await web.house.builder.next()).end(image())
            await web.house.builds.finished(build.id)
        yield web


async def started(web: Web, person: Person) -> Planned:
    """The plan that the spawner gets for this person's launch."""
    plans: list[Planned] = []
    plan = web.house.launches.plan

    async def spawn(user: str, server_name: str, launch_id: Any) -> None:
        plans.append(await plan(launch_id, user, server_name, person.groups))

    web.house.hub.spawn = spawn
    launch = await web.house.launches.create(person, Wish(link("hello")))
    await web.house.texts(launch_stream(launch.id))
    (planned,) = plans
    return planned


async def test_resources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resources = Resources(1 << 30, 2 << 30, 0.5, 1.0, GPUs("nvidia.com/gpu", 1))
    async with managed(tmp_path, monkeypatch, resources=resources) as web:
        assert (await started(web, ADA)).policy.resources == resources


async def test_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with managed(tmp_path, monkeypatch, maximum_age=timedelta(hours=2)) as web:
        launch = (await started(web, ADA)).launch
        found = await web.store.get_launch(launch.id)
        assert found is not None
        assert found.running_at is not None
        assert found.ends_by == found.running_at + timedelta(hours=2)


@pytest.mark.parametrize(
    "limits", [Limits(servers=1), Limits(servers_per_repository=1)], ids=["of a VO", "of a repository"]
)
async def test_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: Limits) -> None:
    async with managed(tmp_path, monkeypatch, limits=limits) as web:
        await started(web, ADA)
        with pytest.raises(LimitReached):
            await web.house.launches.create(BORIS, Wish(link("hello")))


async def test_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with managed(tmp_path, monkeypatch, limits=Limits(builds_per_person=1)) as web:
        first = await web.post(below("events"), MIA, **event("one"))
        assert first.status_code == 303
        second = await web.post(below("events"), MIA, **event("two"))
        assert second.status_code >= 400
        assert "1 build that you asked for is under way" in second.text
        assert len(await web.store.unfinished_builds()) == 1
        waiting = next(one for one in await web.store.events("vo.one", 10) if one.event.repo == link("two"))
        again = await web.post(below(f"events/{waiting.event.id}/build"), MIA)
        assert (again.status_code, len(await web.store.unfinished_builds())) == (409, 1)
        # What runs already is joined, and another manager's builds are that one's.
        assert (await web.post(below("events"), MIA, **event("one"))).status_code == 303
        assert (await web.post(below("events"), {**MIA, "X-Person": "nora"}, **event("two"))).status_code == 303


@pytest.mark.parametrize("part", ["denied", "allowed"])
async def test_repositories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    pattern = "git.example.org/hello" if part == "denied" else "git.example.org/another"
    async with managed(tmp_path, monkeypatch, **{part: (RepositoryPattern.parse(pattern),)}) as web:
        assert await web.store.unfinished_builds() == [], "nor is an event of it built"
        with pytest.raises(NotPermitted, match=r"The policy of vo\.one"):
            await web.house.launches.create(ADA, Wish(link("hello")))
        assert await web.store.launches_in(set(LaunchState)) == []


async def test_an_event_lifts_the_limits_of_rates_for_its_own_repository_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with managed(tmp_path, monkeypatch) as web:
        web.site.launch_limit, web.site.internal_token = RateLimit(1, 60), "secret"

        async def launched(name: str) -> int:
            answer = await web.http.post("api/launches", headers=ADA_ASKS, json={"repo": link(name)})
            return answer.status_code

        assert await launched("hello") == 201
        assert await launched("hello") == 201, "over the limit, of the event"
        assert await launched("another") == 429
        assert await launched("hello.git") == 201, "the same repository"
