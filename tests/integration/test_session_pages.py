"""A session on home and launch page: what it uses, why it ended, and the way to it from the hub's own home."""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import httpx
import psutil
import pytest

from demo.people import ADA, DMITRI
from tests.login_fixtures import Visitor
from tests.site import ApiClient, Site, Sites

pytestmark = [pytest.mark.needs("proxy", "git-server"), pytest.mark.timeout(300)]

HOME = "/services/replay/"


@dataclass
class Ada:
    """A person with a browser and a token."""

    site: Site
    client: ApiClient
    browser: Visitor

    def page(self, address: str = HOME) -> str:
        return " ".join(self.browser.open(address).text.split())

    def until_a_page_says(self, text: str, address: str = HOME) -> str:
        deadline = time.monotonic() + 60
        while text not in (page := self.page(address)):
            assert time.monotonic() < deadline, f"no page says “{text}”:\n{page}\n{self.site.log[-4000:]}"
            time.sleep(0.2)
        return page

    def report(self, client: ApiClient, whose: str = ADA.voperson_id) -> httpx.Response:
        url = f"{self.site.url}/hub/api/replay/sessions/{whose}"
        return httpx.get(url, headers={"Authorization": f"token {client.token}"}, timeout=30)


@pytest.fixture(scope="module")
def ada(sites: Sites) -> Iterator[Ada]:
    site = sites.start(extra_config="c.Spawner.poll_interval = 1")
    with Visitor(site) as browser:  # type: ignore[arg-type] # of a hub it asks only the url
        client = site.client(ADA)
        browser.log_in(ADA)
        yield Ada(site, client, browser)


@pytest.fixture
def launch(ada: Ada) -> Iterator[str]:
    yield ada.client.launch_and_wait(ada.site.repository("measured", {"README.md": "measured\n"}))["id"]
    ada.site.stop_server(ADA)


def server_process(site: Site, launch: str) -> psutil.Process:
    found = list[psutil.Process]()
    for one in site.processes():
        with suppress(psutil.NoSuchProcess):
            if one.environ().get("REPLAY_LAUNCH") == launch:
                found.append(one)
    return min(found, key=lambda one: one.create_time())


def test_what_a_session_uses_is_told_to_its_person_and_to_nobody_else(ada: Ada, launch: str) -> None:
    for address in (HOME, f"{HOME}launches/{launch}"):
        page = ada.until_a_page_says("MB used by all its processes, each of which may use 4 GB at most", address)
        assert "used; no limit" in page
    told = ada.report(ada.client).json()
    assert told["launch"] == launch
    assert told["usage"]["source"] == "process"
    assert told["resources"]["memory_limit"] == told["usage"]["memory_limit"] == 4 * 1024**3
    dmitri = ada.site.client(DMITRI)
    assert ada.report(dmitri).status_code == 404
    assert ada.report(dmitri, DMITRI.voperson_id).status_code == 404, "he has no session"
    nobody = httpx.get(f"{ada.site.url}/hub/api/replay/sessions/{ADA.voperson_id}", timeout=30)
    assert nobody.status_code == 403


def test_the_hubs_home_leads_to_replays_for_as_long_as_a_session_runs(ada: Ada, launch: str) -> None:
    page = ada.page("/hub/home")
    assert "Your server is a session of Replay." in page
    assert f'href="{HOME}">Go to Replay’s home</a>' in page
    assert "Stop My Server" in page, "the hub's own page stays"
    ada.site.stop_server(ADA)
    page = ada.page("/hub/home")
    assert "session of Replay" not in page
    assert "Start My Server" in " ".join(page.replace(">", "> ").split())


def test_why_a_session_ended_is_told_until_the_next_launch(ada: Ada, launch: str) -> None:
    server_process(ada.site, launch).kill()
    page = ada.until_a_page_says("Your last session ended")
    assert "The session&#39;s server was killed, as happens where the machine itself runs out of memory." in page
    assert "Launch it again" in page
    assert "server was killed" in ada.page(f"{HOME}launches/{launch}")
    assert ada.client.get(launch)["state"] == "ended"

    again = ada.client.launch_and_wait(ada.site.repository("measured", {"README.md": "measured\n"}))["id"]
    assert "Your last session ended" not in ada.page()
    ada.site.stop_server(ADA)
    page = ada.until_a_page_says("Nothing is running")
    assert "Your last session ended" not in page, "who stops a session knows why it ended"
    assert ada.client.get(again)["failure"] is None


def test_an_end_is_told_once_the_service_is_back(ada: Ada, launch: str) -> None:
    ada.site.service_process().suspend()
    service = ada.site.service_process()
    try:
        server_process(ada.site, launch).kill()
        deadline = time.monotonic() + 60
        while ada.site.server(ADA) is not None:
            assert time.monotonic() < deadline, ada.site.log[-4000:]
            time.sleep(0.1)
    finally:
        service.resume()
    assert "server was killed" in ada.until_a_page_says("Your last session ended")
