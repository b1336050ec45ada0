"""One server at a time, exact under races: whoever asks, from wherever, in whichever moment."""

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
import pytest

from demo.people import ADA
from tests.login_fixtures import Visitor
from tests.site import ORDINARY_SERVERS, ApiClient, Repo, Site, Sites

pytestmark = [pytest.mark.needs("proxy", "git-server"), pytest.mark.timeout(600), pytest.mark.one_hub_version]

# Servers that take their time while there is a file of that name.
CONFIG = f"""
{ORDINARY_SERVERS}
import asyncio as _asyncio, pathlib as _pathlib
from replay_spawner import ReplayLocalSpawner as _Local
class TakingItsTime(_Local):
    async def start(self):
        while _pathlib.Path("starts-are-held").exists():
            await _asyncio.sleep(0.02)
        return await super().start()
    async def stop(self, now=False):
        if _pathlib.Path("stops-take-3-seconds").exists():
            await _asyncio.sleep(3)
        await super().stop(now)
c.JupyterHub.spawner_class = TakingItsTime
c.JupyterHub.tornado_settings = {{"slow_spawn_timeout": 0, "slow_stop_timeout": 0}}
c.Spawner.http_timeout = 120
c.ReplayMixin.replay_sweep_seconds = 0.5
c.JupyterHub.services[0]["command"] += ["--ReplayBuildService.launches_per_minute=1000"]
c.ReplayMixin.replay_sweep_grace = 5
"""


@dataclass
class House:
    """A site with two repositories that are built, and Ada's program."""

    site: Site
    ada: ApiClient
    one: Repo
    other: Repo

    @contextmanager
    def where(self, name: str) -> Iterator[Callable[[], None]]:
        """While a file of that name is in the hub's folder; what is yielded removes it before."""
        file = self.site.folder / name
        file.touch()
        try:
            yield lambda: file.unlink(missing_ok=True)
        finally:
            file.unlink(missing_ok=True)

    def launches(self, *states: str) -> list[str]:
        """Ada's launches that are on record in these states."""
        rows = self.site.rows('SELECT id, state FROM launches WHERE "user" = ?', ADA.voperson_id)
        return [launch for launch, state in rows if state in states]

    def until(self, is_so: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + 150
        while not is_so():
            assert time.monotonic() < deadline, f"still not so: {what}\n{self.site.log[-4000:]}"
            time.sleep(0.02)

    def pending(self) -> str | None:
        server = self.site.server(ADA)
        return None if server is None else server["pending"]

    def settled(self, *launches: str) -> dict[str, str]:
        """How launches stand once none of hers is on its way."""
        self.until(lambda: not self.launches("building", "starting") and self.pending() is None, "all has settled")
        found = {launch: self.ada.get(launch) for launch in launches}
        if told := [one["failure"] for one in found.values() if one["failure"]]:
            print(told)
        return {launch: one["state"] for launch, one in found.items()}

    def assert_one_server(self, launch: str | None) -> None:
        """It is that launch's (none for an ordinary one), by the hub, by the record and by the processes there are."""
        server = self.site.server(ADA)
        assert server is not None
        assert (server["ready"], server["user_options"].get("launch")) == (True, launch)
        assert self.launches("building", "starting", "running") == ([launch] if launch else [])
        assert self.site.session_folders() == ([launch] if launch else [])
        assert len(self.servers()) == 1

    def servers(self) -> list[psutil.Process]:
        """All that are Ada's, a launch's or ordinary."""
        found = []
        for process in self.site.processes():
            try:
                mine = process.environ().get("JUPYTERHUB_USER") == ADA.voperson_id
                if mine and process.ppid() in {self.site.hub_process().pid, 1}:
                    found.append(process)
            except psutil.Error:
                pass
        return found


@pytest.fixture(scope="module")
def house(sites: Sites) -> House:
    site = sites.start(extra_config=CONFIG)
    ada = site.client(ADA)
    one, other = (site.repository(name, {f"{name}.txt": name}) for name in ("one", "other"))
    for repo in (one, other):
        ada.launch_and_wait(repo)
        site.stop_server(ADA)
    return House(site, ada, one, other)


@pytest.fixture(autouse=True)
def no_server_stays(house: House) -> Iterator[None]:
    yield
    house.settled()
    house.site.stop_server(ADA)
    for launch in house.launches("choosing", "running"):
        house.ada.http.delete(f"api/launches/{launch}")
    assert house.site.session_folders() == []
    assert "leftovers of sessions" not in house.site.log, "each server's end has removed what was its own"


async def at_once(house: House, *bodies: dict[str, Any]) -> list[dict[str, Any]]:
    """POST launches to the service's API in the same moment; what it answers."""
    headers = {"Authorization": f"token {house.ada.token}"}
    async with httpx.AsyncClient(base_url=str(house.ada.http.base_url), headers=headers, timeout=60) as http:
        # Each over a connection that is there already.
        await asyncio.gather(*(http.get("health") for _ in bodies))
        answers = await asyncio.gather(*(http.post("api/launches", json=body) for body in bodies))
    assert {answer.status_code for answer in answers} == {201}, [answer.text for answer in answers]
    return [answer.json() for answer in answers]


class Tab(Visitor):
    """Ada's browser."""

    def __init__(self, house: House) -> None:
        super().__init__(house.site)  # type: ignore[arg-type] - of a hub it asks only the url
        self.log_in(ADA)

    def post(self, path: str, page: httpx.Response, **fields: str) -> httpx.Response:
        xsrf = re.findall(r'name="_xsrf" value="([^"]+)"', page.text)[0]
        return self.open_form(f"/services/replay/{path}", {"_xsrf": xsrf, **fields})

    def launch(self, page: httpx.Response, repo: Repo, **more: str) -> httpx.Response:
        return self.post("launches", page, repo=repo.spec, version=repo.commit, **more)


async def test_whoever_asks_for_the_same_at_once_shares_one_launch(house: House) -> None:
    """Two tabs, two devices, API and page."""
    with Tab(house) as tab:
        page = tab.open(f"/services/replay/v2/{house.one.spec}")
        by_page, by_api = await asyncio.gather(
            asyncio.to_thread(tab.launch, page, house.one), at_once(house, *[{"repo": house.one.spec}] * 5)
        )
    launches = {launch["id"] for launch in by_api} | {by_page.url.path.rpartition("/")[2]}
    (launch,) = launches
    assert house.settled(launch) == {launch: "running"}
    house.assert_one_server(launch)


async def test_of_different_launches_in_one_moment_one_has_the_server_and_the_others_are_asked(house: House) -> None:
    wishes = [house.one, house.other] * 3
    bodies = [{"repo": repo.spec, "urlpath": f"tree/{number}"} for number, repo in enumerate(wishes)]
    made = await at_once(house, *bodies)
    states = house.settled(*(launch["id"] for launch in made))
    assert len(states) == len(wishes)
    assert sorted(states.values()) == ["choosing"] * 5 + ["running"]
    (winner,) = [launch for launch, state in states.items() if state == "running"]
    house.assert_one_server(winner)
    repo = dict(zip((launch["id"] for launch in made), wishes, strict=True))
    loser = next(launch for launch, state in states.items() if state == "choosing" and repo[launch] != repo[winner])
    with Tab(house) as tab:
        assert "You can have one server at a time." in tab.open(f"/services/replay/launches/{loser}").text


async def test_of_two_tabs_that_replace_one_does_and_the_other_is_told(house: House) -> None:
    running = house.ada.launch_and_wait(house.one)["id"]
    losers = [launch["id"] for launch in await at_once(house, *[{"repo": house.other.spec, "urlpath": f"tree/{n}"} for n in (1, 2)])]  # fmt: skip
    with ExitStack() as stack:
        tabs = [stack.enter_context(Tab(house)) for _ in losers]
        pages = [tab.open(f"/services/replay/launches/{launch}") for tab, launch in zip(tabs, losers, strict=True)]
        answers = await asyncio.gather(
            *(
                asyncio.to_thread(tab.post, f"launches/{launch}/choice", page, action="replace", instead_of=running)
                for tab, launch, page in zip(tabs, losers, pages, strict=True)
            )
        )
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    assert "Something else has taken your server meanwhile" in max(answers, key=lambda one: one.status_code).text
    states = house.settled(running, *losers)
    assert (states[running], sorted(states[launch] for launch in losers)) == ("ended", ["choosing", "running"])
    house.assert_one_server(next(launch for launch in losers if states[launch] == "running"))


def test_a_launch_while_the_last_server_is_still_stopping_waits_for_that(house: House) -> None:
    for was in (house.one, None):
        with house.where("stops-take-3-seconds"):
            if was is None:
                assert house.site.ask_for_server(ADA).status_code in {201, 202}
                house.until(lambda: (house.site.server(ADA) or {}).get("ready"), "the ordinary server runs")
            else:
                first = house.ada.launch_and_wait(was)["id"]
            house.site.admin("DELETE", f"/users/{ADA.voperson_id}/server")
            assert house.pending() == "stop"
            second = house.ada.launch(house.one).json()["id"]
            told = [event["message"] for _, event in house.ada.events(second)]
            assert "Waiting for your last server to stop." in told
        assert house.settled(second) == {second: "running"}
        if was is not None:
            assert house.ada.get(first)["state"] == "ended"
        house.assert_one_server(second)
        house.site.stop_server(ADA)


def test_a_launch_while_another_starts_asks_and_what_starts_is_not_given_up(house: House) -> None:
    with house.where("starts-are-held") as go_on, Tab(house) as tab:
        first = house.ada.launch(house.one).json()["id"]
        house.until(lambda: house.pending() == "spawn", "the first one starts")
        second = house.ada.launch(house.other).json()
        assert second["state"] == "choosing"
        page = tab.open(f"/services/replay/launches/{second['id']}")
        refused = tab.post(f"launches/{second['id']}/choice", page, action="replace", instead_of=first)
        assert refused.status_code == 409
        assert "just starting" in refused.text
        # The hub's own ways to a server, meanwhile: its button, and its API with another launch.
        assert "spawn-pending" in str(tab.start_server().url)
        assert house.site.ask_for_server(ADA, {"launch": second["id"]}).status_code == 202
        go_on()
        assert house.settled(first, second["id"]) == {first: "running", second["id"]: "choosing"}
        house.assert_one_server(first)
        tab.post(f"launches/{second['id']}/choice", page, action="replace", instead_of=first)
    assert house.settled(first, second["id"]) == {first: "ended", second["id"]: "running"}
    house.assert_one_server(second["id"])


def test_a_launch_while_an_ordinary_server_starts_asks(house: House) -> None:
    with house.where("starts-are-held") as go_on:
        assert house.site.ask_for_server(ADA).status_code == 202
        launch = house.ada.launch(house.one).json()
        assert launch["state"] == "choosing"
        # A launch that waits for a choice is not to be had by the hub's own API either.
        assert house.site.ask_for_server(ADA, {"launch": launch["id"]}).status_code == 202
        go_on()
        house.until(lambda: house.pending() is None, "the ordinary server runs")
    assert house.settled(launch["id"]) == {launch["id"]: "choosing"}
    house.assert_one_server(None)


async def test_a_launch_and_the_hubs_own_button_in_one_moment_are_one_server(house: House) -> None:
    """Whoever comes first; the other one is told."""
    outcomes = set()
    for lead in (0.0, 0.005, 0.015, 0.03, 0.06):

        async def button(lead: float = lead) -> httpx.Response:
            await asyncio.sleep(lead)
            return await asyncio.to_thread(house.site.ask_for_server, ADA)

        pressed, (launch,) = await asyncio.gather(button(), at_once(house, {"repo": house.one.spec}))
        # JupyterHub itself answers 500 to whichever of two requests comes second while it looks after the login.
        assert pressed.status_code in {201, 202, 400, 500}
        state = house.settled(launch["id"])[launch["id"]]
        outcomes.add(state)
        house.assert_one_server(launch["id"] if state == "running" else None)
        if state == "failed":
            assert house.ada.get(launch["id"])["failure"].startswith("Another server of yours was started meanwhile.")
        else:
            assert state in {"running", "choosing"}
        house.site.stop_server(ADA)
        for waiting in house.launches("choosing"):
            house.ada.http.delete(f"api/launches/{waiting}")
    assert outcomes <= {"running", "choosing", "failed"}
