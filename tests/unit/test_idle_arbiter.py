"""What the culler is answered of each server: with a hub that lets the arbiter in, and a service that may not answer."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest
from tornado import web

from replay_build_service.client import ServiceUnavailable
from replay_build_service.schemas import ActivityAnswer, ActivityReport
from replay_spawner.idle.arbiter import Arbiter, HubDoor
from replay_spawner.idle.reading import NoReading, SessionServer, http_client
from tests.unit.idle_cases import KERNEL, Jupyter, ago

pytestmark = pytest.mark.one_hub_version

LAUNCH = "a" * 32


class Service:
    """The build service, as the arbiter knows it."""

    def __init__(self) -> None:
        self.told: list[ActivityReport] = []
        self.kept_ago: float | None = None
        self.is_away = False

    async def activity(self, report: ActivityReport) -> ActivityAnswer:
        if self.is_away:
            raise ServiceUnavailable("away")
        self.told.append(report)
        return ActivityAnswer(kept_ago=self.kept_ago)


@dataclass
class Door:
    jupyter: Jupyter
    http: Any
    opened: int = 0

    async def open(self, server: str) -> SessionServer:
        self.opened += 1
        return SessionServer(self.http, self.jupyter.address, "narrow")


@cache
def started_ago(minutes: int) -> str:
    """The same each time that the culler asks for it."""
    return ago(minutes)


def model(*, started: object = 300, name: str = "ada", **more: Any) -> dict[str, Any]:
    return {
        "progress_url": f"/hub/api/users/{name}/server/progress",
        "started": started_ago(started) if isinstance(started, int) else started,
        "user_options": {"launch": LAUNCH},
        **more,
    }


@dataclass
class Bench:
    arbiter: Arbiter
    door: Door
    service: Service

    async def ends(self, *, traffic: float = 0, **more: Any) -> bool:
        return await self.arbiter.should_end(
            inactive=timedelta(minutes=traffic), inactive_limit=3600, server=model(**more)
        )


@asynccontextmanager
async def bench(jupyter: Jupyter) -> AsyncIterator[Bench]:
    async with jupyter.serving(), http_client() as http:
        door, service = Door(jupyter, http), Service()
        yield Bench(Arbiter(door, service), door, service)


def idle_for(minutes: float, **more: Any) -> Jupyter:
    return Jupyter({"api/kernels": [{**KERNEL, "last_activity": ago(minutes)}], **more})


async def test_an_idle_kernel_under_an_open_page_ends_after_a_warning() -> None:
    async with bench(idle_for(55)) as one:
        assert not await one.ends()
        (report,) = one.service.told
        assert (report.launch, report.limit, report.warning) == (LAUNCH, 3600, 600)
        assert 3298 <= report.active_ago < 3360
        assert not await one.ends()
        assert len(one.service.told) == 2, "each round says anew how long is left"
    async with bench(idle_for(61)) as one:
        assert await one.ends()


async def test_a_server_that_cannot_end_soon_is_not_asked() -> None:
    async with bench(idle_for(90)) as one:
        assert not await one.ends(started=10)
        assert (one.door.opened, one.service.told) == (0, [])


async def test_what_was_busy_is_not_asked_again_at_once() -> None:
    jupyter = Jupyter({"api/kernels": [{**KERNEL, "execution_state": "busy", "last_activity": ago(200)}]})
    async with bench(jupyter) as one:
        assert not await one.ends(traffic=200)
        assert not await one.ends(traffic=200)
        assert (one.door.opened, one.service.told) == (1, [])


async def test_a_person_who_stays_is_not_ended_and_the_warning_goes() -> None:
    jupyter = idle_for(70, **{"api/config/replay_activity": {"person_at": ago(65), "lab": True}})
    async with bench(jupyter) as one:
        one.service.kept_ago = 30
        assert not await one.ends()
        (shown,) = [json.loads(body) for method, _, body in jupyter.asked if method == "PATCH"]
        assert shown == {"ends_at": None, "limit": 3600, "service": "/services/replay/", "launch": LAUNCH}


async def test_jupyterlab_is_told_when_it_ends() -> None:
    jupyter = idle_for(70, **{"api/config/replay_activity": {"person_at": ago(55), "lab": True}})
    async with bench(jupyter) as one:
        assert not await one.ends()
        (shown,) = [json.loads(body) for method, _, body in jupyter.asked if method == "PATCH"]
        left = datetime.fromisoformat(shown["ends_at"]) - datetime.now(UTC)
        assert timedelta(minutes=4) < left < timedelta(minutes=6)


async def test_jupyterlab_learns_where_replays_home_is_before_any_end_is_near() -> None:
    jupyter = idle_for(5, **{"api/config/replay_activity": {"person_at": ago(5), "lab": True}})
    async with bench(jupyter) as one:
        assert not await one.ends()
        (shown,) = [json.loads(body) for method, _, body in jupyter.asked if method == "PATCH"]
        assert (shown["ends_at"], shown["service"]) == (None, "/services/replay/")
        assert one.service.told == []


async def test_a_home_that_cannot_be_written_changes_nothing() -> None:
    async def read_only(handler: web.RequestHandler) -> None:
        if handler.request.method == "PATCH":
            handler.send_error(500)
        else:
            handler.finish("{}")

    jupyter = idle_for(61, **{"api/config/replay_session": read_only})
    jupyter.answers["api/config/replay_activity"] = {"person_at": ago(61), "lab": True}
    async with bench(jupyter) as one:
        assert await one.ends()


async def test_a_service_that_is_away_changes_nothing() -> None:
    jupyter = idle_for(61)
    async with bench(jupyter) as one:
        one.service.is_away = True
        assert await one.ends()


async def test_a_server_that_talks_nonsense_for_ever_ends_by_its_traffic() -> None:
    async with bench(Jupyter({"api/kernels": b"RStudio"})) as one:
        assert not await one.ends(traffic=10)
        # It was seen used ten minutes before, by whatever clock, so there is nothing to ask for a while.
        assert one.door.opened == 1
    async with bench(Jupyter({"api/kernels": b"RStudio"})) as one:
        assert await one.ends(traffic=61)


async def test_an_ordinary_server_is_told_to_nobody() -> None:
    async with bench(idle_for(61)) as one:
        assert await one.ends(traffic=61, user_options={"profile": "big"})
        assert one.service.told == []


async def test_an_ordinary_server_lives_by_its_traffic_as_it_always_did() -> None:
    async with bench(idle_for(61)) as one:
        assert not await one.ends(traffic=1, user_options={"profile": "big"})
    async with bench(idle_for(61)) as one:
        assert await one.ends(traffic=1), "a session's own page may be forgotten"


@pytest.mark.parametrize("broken", [{"progress_url": "?"}, {"started": "?"}, {"started": None}])
async def test_what_the_hub_says_wrongly_ends_nothing(broken: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    async with bench(idle_for(90)) as one:
        assert not await one.ends(**broken)
    assert "Could not find out" in caplog.text


async def test_the_cullers_own_token_reaches_the_hub_alone() -> None:
    session, hub = idle_for(61), Jupyter()
    async with session.serving(), hub.serving(), http_client() as http:
        hub.answers["replay/users/ada@x/servers/one/reading"] = {"address": session.address, "token": "narrow"}
        door = HubDoor(hub.address, "mighty", http)
        opened = await door.open("ada%40x/servers/one")
        await opened.read()
        with pytest.raises(NoReading):
            await door.open("ada/server")
    assert {headers["Authorization"] for headers in hub.headers} == {"token mighty"}
    assert {headers["Authorization"] for headers in session.headers} == {"token narrow"}
