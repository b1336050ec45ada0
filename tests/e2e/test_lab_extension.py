"""The extension in a real JupyterLab: it tells what a person does and nothing else, and warns before the session's end.

JupyterLab runs as in a session, without a hub; the extension is laid out as the kubelet lays out a volume. The browser's clock
is three hours ahead of the server's, and is moved by the test where a minute is to pass.
"""

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from replay_spawner.lab import NAME, lab_files
from tests.login_fixtures import free_ports
from tests.site import until_it_answers

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page, Request

pytestmark = [pytest.mark.one_hub_version, pytest.mark.needs("browser", "pages"), pytest.mark.timeout(300)]

BROWSER_AHEAD = timedelta(hours=3)


class Lab:
    """A JupyterLab, and the two sections that the extension and the idle culler exchange."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.token = token
        self._client = httpx.Client(base_url=f"{url}api/config/", headers={"Authorization": f"token {token}"})

    def activity(self) -> dict[str, Any]:
        return self._client.get("replay_activity").raise_for_status().json()

    def says(self, **session: object) -> None:
        """What the idle culler writes."""
        self._client.put("replay_session", json=session).raise_for_status()

    def close(self) -> None:
        self._client.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    mounted = folder / "data" / "labextensions" / NAME
    (mounted / "..2026").mkdir(parents=True)
    (mounted / "..data").symlink_to("..2026")
    for name, content in lab_files().items():
        (mounted / "..2026" / name).write_bytes(content)
        (mounted / name).symlink_to(f"..data/{name}")
    settings = folder / ".jupyter" / "labconfig"
    settings.mkdir(parents=True)
    no_news = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (settings / "page_config.json").write_text(json.dumps(no_news))  # it would ask for a click
    (port,) = free_ports(1)
    token = secrets.token_hex(16)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "REPLAY_"))}
    environment |= {"HOME": str(folder), "JUPYTER_PATH": str(folder / "data"), "JUPYTER_TOKEN": token}
    options = [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--ServerApp.base_url=/user/ada/"]
    with (folder / "lab.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", *options],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}/user/ada/"
    made = Lab(url, token)
    try:
        until_it_answers(f"{url}api", process, folder / "lab.log")
        yield made
    finally:
        made.close()
        with suppress(psutil.NoSuchProcess):
            below = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            process.wait(30)
            psutil.wait_procs(below, timeout=10)


class Reports:
    """What a page told its server."""

    def __init__(self, page: "Page") -> None:
        self._told: list[Request] = []
        page.on("request", lambda request: self._told.append(request) if is_report(request) else None)

    @property
    def count(self) -> int:
        return len(self._told)


def is_report(request: "Request") -> bool:
    return request.method == "PATCH" and "/api/config/replay_activity" in request.url


@pytest.fixture
def page(lab: Lab, context: "BrowserContext") -> "Iterator[tuple[Page, Reports]]":
    """JupyterLab, opened by a person, in a browser whose clock is wrong."""
    lab.says()
    made = context.new_page()
    made.clock.install(time=datetime.now(UTC) + BROWSER_AHEAD)
    reports = Reports(made)
    with made.expect_response(lambda response: is_report(response.request), timeout=60_000) as told:
        made.goto(f"{lab.url}lab?token={lab.token}")
    assert told.value.status == 200
    made.locator(".jp-Launcher").first.wait_for(timeout=60_000)
    yield made, reports
    made.close()


def a_minute_passes(page: "Page") -> None:
    """Returns when the extension has asked what the session does."""
    with page.expect_response(re.compile(r"/api/config/replay_session"), timeout=20_000):
        page.clock.fast_forward(61_000)


def soon(minutes: float = 5) -> str:
    return (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()


def moved(activity: dict[str, Any]) -> float:
    """How long ago the person last did something, in seconds by the server's clock."""
    assert activity.keys() == {"person_at", "lab"}
    assert activity["lab"] is True
    return (datetime.now(UTC) - datetime.fromisoformat(activity["person_at"])).total_seconds()


def test_what_the_person_does_is_told_once_a_minute_and_nothing_else_is(lab: Lab, page: "tuple[Page, Reports]") -> None:
    tab, reports = page
    assert reports.count == 1, "opening JupyterLab is an action"
    assert -2 < moved(lab.activity()) < 60, "by the server's clock"

    a_minute_passes(tab)
    tab.evaluate("document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'a', bubbles: true}))")
    tab.mouse.move(300, 300)
    a_minute_passes(tab)
    a_minute_passes(tab)
    assert reports.count == 1, "neither the page's own questions nor what a script makes up are a person"

    before = lab.activity()["person_at"]
    with tab.expect_response(lambda response: is_report(response.request)):
        tab.keyboard.press("Shift")
    assert reports.count == 2
    assert lab.activity()["person_at"] > before

    tab.mouse.click(640, 880)
    tab.keyboard.press("Shift")
    assert reports.count == 2, "at most once a minute"
    with tab.expect_response(lambda response: is_report(response.request)):
        a_minute_passes(tab)
    assert reports.count == 3, "but not forgotten"
    a_minute_passes(tab)
    assert reports.count == 3


def test_the_end_is_told_ten_minutes_before_with_stay_and_download(
    lab: Lab, context: "BrowserContext", page: "tuple[Page, Reports]", picture: "Callable[[Page, str], None]"
) -> None:
    from playwright.sync_api import expect

    tab, reports = page
    warning = tab.get_by_role("alert").filter(has_text="This session ends at")
    told = {"service": "/services/replay/", "launch": "a1B2-c3", "limit": 3600.0}

    lab.says(ends_at=soon(minutes=12), **told)
    a_minute_passes(tab)
    expect(warning).to_have_count(0)

    ends = datetime.now(UTC) + timedelta(minutes=9)
    lab.says(ends_at=ends.isoformat(), **told)
    a_minute_passes(tab)
    expect(warning).to_be_visible()
    expect(warning).to_contain_text(
        re.compile(r"This session ends at \d\d:\d\d( [AP]M)?, an hour after it was last used\.")
    )
    warning.get_by_role("button", name="Stay").hover()  # once it has come to rest
    picture(tab, "lab-ending")

    before = reports.count
    with tab.expect_response(lambda response: is_report(response.request)):
        warning.get_by_role("button", name="Stay").click()
    expect(tab.get_by_role("alert").filter(has_text="The session stays.")).to_be_visible()
    expect(warning).to_have_count(0)
    assert reports.count == before + 1
    assert moved(lab.activity()) < 60
    a_minute_passes(tab)
    expect(warning).to_have_count(0)  # the culler has not looked yet, and what was answered is not asked again

    lab.says(ends_at=soon(), **told)
    a_minute_passes(tab)
    expect(warning).to_be_visible()
    with context.expect_page() as opened:
        warning.get_by_role("button", name="Download my work").click()
    assert opened.value.url == f"{lab.url.removesuffix('/user/ada/')}/services/replay/launches/a1B2-c3/work"
    opened.value.close()
    expect(warning).to_be_visible()  # and not gone from under the click, which tells that the session is used
    a_minute_passes(tab)
    expect(warning).to_have_count(0)

    lab.says(ends_at=soon(), **told)
    a_minute_passes(tab)
    expect(warning).to_be_visible()
    lab.says(ends_at=soon(minutes=60), **told)
    a_minute_passes(tab)
    expect(warning).to_have_count(0)


def test_a_stay_that_reaches_nobody_is_said(lab: Lab, page: "tuple[Page, Reports]") -> None:
    from playwright.sync_api import expect

    tab, _ = page
    a_minute_passes(tab)
    lab.says(ends_at=soon())
    a_minute_passes(tab)
    warning = tab.get_by_role("alert").filter(has_text="This session ends at")
    expect(warning).to_contain_text("because it is not used")
    expect(warning.get_by_role("button", name="Download my work")).to_have_count(0)
    tab.route(re.compile("/api/config/replay_activity"), lambda route: route.abort())
    warning.get_by_role("button", name="Stay").click()
    expect(tab.get_by_role("alert").filter(has_text="“Stay” did not reach")).to_be_visible()


def test_the_way_home_is_in_the_menu_and_no_section_leads_astray(
    lab: Lab, context: "BrowserContext", page: "tuple[Page, Reports]"
) -> None:
    from playwright.sync_api import expect

    tab, _ = page
    hub = lab.url.removesuffix("/user/ada/")
    for session, home in (
        ({"service": "/services/replay/"}, "/services/replay/"),
        ({"service": "//evil.example/", "launch": "../x", "ends_at": "soon", "limit": "long"}, "/hub/home"),
        ({"service": "javascript:alert(1)", "ends_at": 5, "limit": -1}, "/hub/home"),
    ):
        lab.says(**session)
        a_minute_passes(tab)
        expect(tab.get_by_role("alert").filter(has_text="This session ends at")).to_have_count(0)
        tab.get_by_role("menuitem", name="File", exact=True).click()
        with context.expect_page() as opened:
            tab.get_by_role("menuitem", name="Replay: home").click()
        assert opened.value.url == f"{hub}{home}"
        opened.value.close()
