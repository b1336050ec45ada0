"""A page of somebody else's, open in the browser of a person who is logged in, starts nothing: opening is not agreeing.

The hostile page comes from another origin in two ways. From another port of the hub's own host the browser takes it for
the same site and sends the person's cookies along; from ``localhost`` it is another site.
"""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

import pytest

from demo.people import ADA, DMITRI
from tests.site import ORDINARY_SERVERS, Repo, Site, Sites

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = [pytest.mark.needs("browser", "proxy", "git-server"), pytest.mark.timeout(300)]


@dataclass
class Target:
    """A site where Ada is logged in, with a repository that is built and one that is not."""

    site: Site
    built: Repo
    unbuilt: Repo
    ended: str
    """A launch of the built one."""
    browser: "BrowserContext"
    """Ada's."""
    waiting: str = ""
    """A launch of Ada's own that she agreed to and that has not started yet: all that is missing is somebody to start it."""

    def url(self, path: str, **query: str) -> str:
        return f"{self.site.url}{path}" + (f"?{urlencode(query)}" if query else "")

    @property
    def server_api(self) -> str:
        return self.url(f"/hub/api/users/{quote(ADA.voperson_id)}/server")

    def record(self) -> list[tuple[object, ...]]:
        """All that a launch would leave: launches and builds on record, and what of them has been used."""
        launches = self.site.rows("SELECT id, state, consumed_at FROM launches ORDER BY id")
        return [*launches, *self.site.rows("SELECT id, status FROM builds ORDER BY id")]


class HostileSite:
    """Serves one page at a time, at whatever address."""

    def __init__(self) -> None:
        self.page = ""
        site = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.end_headers()
                self.wfile.write(site.page.encode())

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def url(self, host: str) -> str:
        # A page may read cookies of its own path: it takes that of what it attacks.
        return f"http://{host}:{self.server.server_port}/hub/spawn"


@pytest.fixture(scope="module")
def hostile() -> Iterator[HostileSite]:
    site = HostileSite()
    yield site
    site.server.shutdown()
    site.server.server_close()


@pytest.fixture(scope="module")
def prepared(sites: Sites, chromium: "Browser") -> Iterator[Target]:
    site = sites.start(extra_config=ORDINARY_SERVERS)
    site.client(DMITRI)
    built = site.repository("built", {"README.md": "built\n"})
    unbuilt = site.repository("unbuilt", {"README.md": "not built\n"})
    ended = site.client(ADA).launch_and_wait(built)["id"]
    site.stop_server(ADA)
    browser = chromium.new_context()
    browser.set_default_timeout(20_000)
    page = browser.new_page()
    # Logged in at the hub and at the service, with the XSRF cookies of both.
    page.goto(f"{site.url}/services/replay/")
    page.get_by_role("button", name=ADA.name).click()
    page.wait_for_url("**/services/replay/")
    page.goto(f"{site.url}/hub/token")
    page.close()
    yield Target(site, built, unbuilt, ended, browser)
    browser.close()


@pytest.fixture
def target(prepared: Target) -> Iterator[Target]:
    prepared.waiting = prepared.site.waiting_launch(ADA, like=prepared.ended)
    yield prepared
    for person in (ADA, DMITRI):
        prepared.site.stop_server(person)


@pytest.fixture(params=["127.0.0.1", "localhost"])
def host(request: pytest.FixtureRequest) -> str:
    return request.param


@dataclass
class Visit:
    """A visit to the hostile page: what the hub was asked for because of it, and where the person ended up."""

    page: "Page"
    asked: set[str]
    """Also what the browser keeps from the page afterwards."""
    answered: list[tuple[str, str, int]]


def visit(target: Target, hostile: HostileSite, host: str, body: str, *, leads_away: bool = False) -> Visit:
    """Open a hostile page and wait until all that it does has been answered.

    The page says ``finished()``; one that leads away is followed to wherever it leads.
    """
    hostile.page = (
        "<!DOCTYPE html><title>hostile</title>"
        "<script>let left = null; function expect(n) { left = n } function finished() { left -= 1 }</script>" + body
    )
    page = target.browser.new_page()
    asked: set[str] = set()
    answered: list[tuple[str, str, int]] = []
    page.on("request", lambda request: asked.add(request.url))
    page.on(
        "response",
        lambda response: (
            answered.append((response.request.method, response.url, response.status))
            if response.url.startswith(target.site.url)
            else None
        ),
    )
    page.goto(hostile.url(host), wait_until="commit" if leads_away else "load")
    if leads_away:
        page.wait_for_url(f"{target.site.url}/**")
        page.wait_for_load_state("load")
    else:
        page.wait_for_function("left === 0")
    return Visit(page, asked, answered)


def assert_nothing_started(target: Target, before: list[tuple[object, ...]]) -> None:
    assert target.record() == before, "a launch or a build is on record that nobody agreed to, or one was used"
    assert target.site.server(ADA) is None
    assert target.site.session_folders() == []


# forms


def form(action: str, fields: dict[str, str], *, enctype: str = "", into: str = "_self") -> str:
    inputs = "".join(
        f"<input type=hidden name='{name}' value='{value.replace(chr(39), '&#39;')}'>" for name, value in fields.items()
    )
    kind = f" enctype='{enctype}'" if enctype else ""
    return f"<form method=post action='{action}' target='{into}'{kind}>{inputs}</form><script>document.forms[0].submit()</script>"


def consent(target: Target) -> tuple[str, dict[str, str]]:
    fields = {"repo": target.unbuilt.spec, "version": target.unbuilt.commit, "vo": "vo.notebooks.egi.eu", "urlpath": ""}
    return target.url("/services/replay/launches"), fields


def consent_with_an_invented_token(target: Target) -> tuple[str, dict[str, str]]:
    action, fields = consent(target)
    return action, {**fields, "_xsrf": "2|1:0|10:1700000000|5:_xsrf|8:aW52ZW50ZWQ=|" + "0" * 64}


def api_launch(target: Target) -> tuple[str, dict[str, str]]:
    # As text/plain a form's body can be JSON: the name, “=” and the value make one text.
    return target.url("/services/replay/api/launches"), {
        json.dumps({"repo": target.unbuilt.spec})[:-1] + ', "urlpath": "': '"}'
    }


def spawn_form(target: Target) -> tuple[str, dict[str, str]]:
    return target.url("/hub/spawn"), {"repo": target.built.spec, "launch": target.waiting}


def spawn_api(target: Target) -> tuple[str, dict[str, str]]:
    return target.server_api, {json.dumps({"launch": target.waiting})[:-1] + ', "x": "': '"}'}


FORMS = [
    pytest.param(consent, "", id="consent"),
    pytest.param(consent_with_an_invented_token, "", id="consent with an invented token"),
    pytest.param(api_launch, "text/plain", id="service API"),
    pytest.param(spawn_form, "", id="hub spawn"),
    pytest.param(spawn_form, "multipart/form-data", id="hub spawn, multipart"),
    pytest.param(spawn_api, "text/plain", id="hub API"),
]


@pytest.mark.parametrize(("attack", "enctype"), FORMS)
def test_a_form_that_sends_itself_starts_nothing(
    target: Target,
    hostile: HostileSite,
    host: str,
    attack: Callable[[Target], tuple[str, dict[str, str]]],
    enctype: str,
) -> None:
    action, fields = attack(target)
    before = target.record()
    visited = visit(target, hostile, host, form(action, fields, enctype=enctype), leads_away=True)
    # Where the cookies of another site's page are held back, a spawn's form leads to the login.
    (status,) = [status for method, url, status in visited.answered if method == "POST" and url == action]
    assert status in {302, 403}
    assert_nothing_started(target, before)
    visited.page.close()


# what a page loads without a click


def addresses(target: Target) -> list[str]:
    """What a GET could be hoped to start something at."""
    spec = target.built.spec
    spawn = [
        {"opt-repo": spec},
        {"opt-launch": target.waiting},
        {"repo": spec},
        {"launch": target.waiting},
        {"opt-repo": spec, "next": "/hub/home"},
        {"opt-profile": "any", "launch": target.waiting},
        {"opt-launch": target.waiting, "opt-profile": "any"},
    ]
    service = "/services/replay"
    return [
        *(target.url("/hub/spawn", **query) for query in spawn),
        *(target.url(f"/hub/spawn/{quote(ADA.voperson_id)}", **query) for query in spawn[:4]),
        target.url(f"/v2/{spec}", labpath="index.ipynb"),
        target.url(f"/v2/{target.unbuilt.spec}"),
        target.url(f"{service}/v2/{target.unbuilt.spec}", launch="1", repo=spec, vo="vo.notebooks.egi.eu"),
        target.url(f"{service}/launches", repo=spec, version=target.built.commit, vo="vo.notebooks.egi.eu"),
        target.url(f"{service}/launches/{target.waiting}", action="replace", replace="1"),
        target.url(f"{service}/launches/{target.waiting}/choice", action="replace"),
        target.url(f"{service}/api/launches", repo=spec),
        target.url(f"{service}/servers/stop"),
        target.server_api + "?" + urlencode({"launch": target.waiting}),
    ]


IMAGES = "const load = url => { const it = new Image(); it.onload = it.onerror = finished; it.src = url }"
FRAMES = "const load = url => { const it = document.createElement('iframe'); it.onload = finished; it.src = url; document.body.append(it) }"
FETCHES = """const load = url => fetch(url, OPTIONS).then(it => it.text().catch(() => ''), () => '').then(finished)"""


@pytest.mark.parametrize(
    "loader",
    [
        pytest.param(IMAGES, id="images"),
        pytest.param(FRAMES, id="frames"),
        pytest.param(FETCHES.replace("OPTIONS", "{mode: 'no-cors', credentials: 'include'}"), id="fetch, no-cors"),
        pytest.param(FETCHES.replace("OPTIONS", "{mode: 'cors', credentials: 'include'}"), id="fetch, cors"),
    ],
)
def test_what_a_page_loads_starts_nothing(target: Target, hostile: HostileSite, host: str, loader: str) -> None:
    urls = addresses(target)
    before = target.record()
    visited = visit(
        target,
        hostile,
        host,
        f"<body><script>{loader}; const urls = {json.dumps(urls)}; expect(urls.length); urls.forEach(load)</script>",
    )
    assert visited.asked >= set(urls)
    assert f"launch={target.waiting}" in target.site.log, "the hub was really asked"
    assert_nothing_started(target, before)
    visited.page.close()


def test_posts_by_fetch_start_nothing(target: Target, hostile: HostileSite, host: str) -> None:
    consent_url, fields = consent(target)
    posts = [
        (consent_url, urlencode(fields), "application/x-www-form-urlencoded"),
        (target.url("/services/replay/api/launches"), json.dumps({"repo": target.unbuilt.spec}), "text/plain"),
        (target.url("/services/replay/api/launches"), json.dumps({"repo": target.unbuilt.spec}), "application/json"),
        (target.url("/hub/spawn"), urlencode({"repo": target.built.spec}), "application/x-www-form-urlencoded"),
        (target.url("/hub/spawn"), json.dumps({"launch": target.waiting}), "text/plain"),
        (target.server_api, json.dumps({"launch": target.waiting}), "text/plain"),
        (target.server_api, json.dumps({"repo": target.built.spec}), "text/plain"),
        (target.url(f"/services/replay/launches/{target.waiting}/choice"), "action=give-up", "text/plain"),
    ]
    script = f"""
        const posts = {json.dumps(posts)};
        expect(2 * posts.length);
        for (const mode of ["no-cors", "cors"]) for (const [url, body, type] of posts)
            fetch(url, {{method: "POST", credentials: "include", mode, body, headers: {{"Content-Type": type}}}}).then(finished, finished)
    """
    before = target.record()
    visited = visit(target, hostile, host, f"<body><script>{script}</script>")
    assert {url for method, url, _ in visited.answered if method == "POST"} == {url for url, _, _ in posts}
    assert {status for method, _, status in visited.answered if method == "POST"} <= {302, 403}
    assert_nothing_started(target, before)
    visited.page.close()


# where a link leads


SPAWNS = [
    pytest.param(lambda target: {"opt-repo": target.built.spec, "opt-urlpath": "lab"}, id="opt-repo"),
    pytest.param(lambda target: {"repo": target.built.spec}, id="repo"),
]


@pytest.mark.parametrize("query", SPAWNS)
def test_a_spawn_that_names_a_repository_leads_to_the_page_that_asks(
    target: Target, hostile: HostileSite, host: str, query: Callable[[Target], dict[str, str]]
) -> None:
    from playwright.sync_api import expect

    before = target.record()
    url = target.url("/hub/spawn", **query(target))
    visited = visit(target, hostile, host, f"<script>location = {json.dumps(url)}</script>", leads_away=True)
    visited.page.wait_for_url("**/services/replay/v2/**")
    expect(visited.page.get_by_text(target.built.commit[:10]).first).to_be_visible()
    expect(visited.page.get_by_role("button").first).to_be_visible()
    assert_nothing_started(target, before)
    visited.page.close()


@pytest.mark.parametrize("name", ["opt-launch", "launch"])
def test_a_spawn_that_names_a_launch_leads_to_that_launchs_page(
    target: Target, hostile: HostileSite, host: str, name: str
) -> None:
    before = target.record()
    url = target.url("/hub/spawn", **{name: target.waiting})
    visited = visit(target, hostile, host, f"<script>location = {json.dumps(url)}</script>", leads_away=True)
    visited.page.wait_for_url(f"**/services/replay/launches/{target.waiting}")
    assert_nothing_started(target, before)
    visited.page.close()


def test_a_link_leads_to_the_page_that_asks(target: Target, hostile: HostileSite, host: str) -> None:
    from playwright.sync_api import expect

    before = target.record()
    url = target.url(f"/v2/{target.unbuilt.spec}", labpath="index.ipynb")
    visited = visit(target, hostile, host, f"<script>location = {json.dumps(url)}</script>", leads_away=True)
    expect(visited.page.get_by_role("button", name="Build and launch")).to_be_visible()
    assert_nothing_started(target, before)
    visited.page.close()


# the spawn that any page can make happen on a hub with ordinary servers


def test_a_plain_spawn_gives_the_hubs_ordinary_server_and_no_launch(
    target: Target, hostile: HostileSite, host: str
) -> None:
    """By JupyterHub's own design; what is at stake is that it stays ordinary, whatever was asked for before.

    Here Ada once asked the hub for a repository straight away and was refused, since it was not built. Now it is.
    """
    later = target.site.repository(f"later-{host.replace('.', '-')}", {"README.md": "built later\n"})
    target.site.ask_for_server(ADA, {"repo": later.spec})
    progress = target.site.admin("GET", f"/users/{ADA.voperson_id}/server/progress").text
    assert "not built yet" in progress
    target.site.client(DMITRI).launch_and_wait(later)
    before = target.record()
    url = target.url("/hub/spawn")
    visited = visit(target, hostile, host, f"<script>location = {json.dumps(url)}</script>", leads_away=True)
    visited.page.wait_for_url("**/user/**")
    told = target.site.ordinary_server(ADA)
    assert [name for name in told["environment"] if name.startswith("REPLAY_")] == []
    assert target.record() == before
    visited.page.close()
