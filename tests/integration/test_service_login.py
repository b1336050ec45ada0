"""Who may ask the build service for what: its login through the hub, tokens, XSRF, limits, and each route to nobody."""

import base64
import json
import secrets
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, quote, urljoin, urlsplit

import httpx
import pytest
from tornado.web import create_signed_value

from demo.people import ADA, CHIARA, DMITRI, Person
from replay_build_service.web import make_application
from replay_build_service.web.auth import StatelessHubOAuth
from tests.login_fixtures import Visitor
from tests.site import DEAD_SERVICES_ARE_STARTED_SOON, Repo, Site, Sites, stopped

pytestmark = pytest.mark.needs("proxy", "git-server")

HOME = "/services/replay/"
CLIENT = "service-replay"
MOST_COOKIE = 4096
"""Bytes of one cookie with its name and attributes that every browser keeps (RFC 6265, 6.1)."""


@pytest.fixture(scope="module")
def site(sites: Sites) -> Site:
    made = sites.start(extra_config=DEAD_SERVICES_ARE_STARTED_SOON)
    for person in (ADA, CHIARA, DMITRI):
        made.client(person)
    return made


@pytest.fixture(scope="module")
def repo(site: Site) -> Repo:
    return site.repository("plain", {"README.md": "never built here\n"})


class Browser(Visitor):
    """A visitor of whom single steps and cookies are looked at."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)  # type: ignore[arg-type] # of a hub it asks only the url
        self.site = site

    @property
    def http(self) -> httpx.Client:
        return self._client

    def step(self, url: str) -> httpx.Response:
        """One request, no redirect."""
        return self.http.get(urljoin(self.site.url, url), follow_redirects=False)

    @property
    def state_cookies(self) -> list[str]:
        return [cookie.value or "" for cookie in self.http.cookies.jar if "oauth-state" in cookie.name]

    @property
    def xsrf(self) -> str:
        """The service's XSRF token, as its pages have it in their forms."""
        (found,) = [cookie.value for cookie in self.http.cookies.jar if cookie.name == "_xsrf" and cookie.path == HOME]
        assert found
        return found


@pytest.fixture
def browser(site: Site) -> Iterator[Browser]:
    with Browser(site) as made:
        yield made


@pytest.fixture
def ada(browser: Browser) -> Browser:
    """Ada, logged in at the hub and at the service."""
    browser.log_in(ADA)
    assert browser.open(HOME).status_code == 200
    return browser


def state_in(url: str) -> str:
    (state,) = parse_qs(urlsplit(url).query)["state"]
    return state


# the login under way


def test_a_login_under_way_survives_the_death_of_the_service(site: Site, browser: Browser, repo: Repo) -> None:
    browser.log_in(ADA)
    wanted = f"{HOME}v2/{repo.spec}?labpath=a%20folder%2Findex.ipynb"
    assert "%2F" in repo.spec
    to_the_hub = browser.step(wanted).headers["Location"]

    service = site.service_process()
    service.kill()
    service.wait(10)
    site.until_it_answers(f"{site.url}{HOME}health")
    assert site.service_process().pid != service.pid

    back = browser.step(to_the_hub).headers["Location"]
    assert urlsplit(back).path == f"{HOME}oauth_callback"
    landed = browser.step(back)
    assert landed.status_code == 302
    assert landed.headers["Location"] == wanted, "encoded slashes stay encoded"
    page = browser.open(wanted)
    assert page.status_code == 200
    assert repo.commit[:10] in page.text
    assert browser.state_cookies == [], "nothing of the login stays"


def test_the_state_of_a_login_tells_nobody_anything(site: Site, browser: Browser, repo: Repo) -> None:
    browser.log_in(ADA)
    seen = []
    for _ in range(2):
        to_the_hub = browser.step(f"{HOME}v2/{repo.spec}").headers["Location"]
        state = state_in(to_the_hub)
        opened = base64.urlsafe_b64decode(state + "===")
        for text in (state.encode(), opened, to_the_hub.encode()):
            # Long enough not to come about by chance in what is random.
            assert b"verifier" not in text
            assert b"/v2/" not in text
            assert repo.name.encode() not in text
        seen.append(state)
    assert seen[0] != seen[1]


@pytest.mark.parametrize("length", [100, 600, 3000])
def test_each_cookie_of_a_login_is_one_that_a_browser_keeps(browser: Browser, length: int) -> None:
    """From nobody to the service, through the hub and Check-in: each puts what it was given into a cookie of its own."""
    link = f"{HOME}v2/gh/o/r/{secrets.token_hex(length // 2)}"
    page = browser.choose(browser.open(link), ADA)
    cookies = [cookie for step in [*page.history, page] for cookie in step.headers.get_list("set-cookie")]
    assert len(cookies) >= 4
    assert max(len(cookie) for cookie in cookies) <= MOST_COOKIE
    assert page.url.path in {link, HOME}
    # A link of any usual length is where one lands; one that is too long to be kept leads home.
    assert page.url.path == (link if length < 1000 else HOME)


def sealed(site: Site, *, age: int, next_url: str) -> str:
    """A state as the service itself made it ``age`` seconds ago."""
    auth = StatelessHubOAuth(api_token="none", api_url="http://127.0.0.1:9/", oauth_client_id=CLIENT)
    auth.set_secret(bytes.fromhex((site.state / "cookie_secret").read_text()))
    fresh = auth.generate_state(next_url)
    return auth._box.encrypt_at_time(auth._box.decrypt(fresh), int(time.time()) - age).decode()


def expired(site: Site) -> str:
    return sealed(site, age=601, next_url=HOME)


def foreign(site: Site) -> str:
    auth = StatelessHubOAuth(api_token="none", api_url="http://127.0.0.1:9/", oauth_client_id=CLIENT)
    auth.set_secret(secrets.token_bytes(32))
    return auth.generate_state(HOME)


def forged(site: Site) -> str:
    return base64.urlsafe_b64encode(json.dumps({"next_url": "https://evil.example/"}).encode()).decode()


def nonsense(site: Site) -> str:
    return "\u2603 %00 =="


@pytest.mark.parametrize("made", [expired, foreign, forged, nonsense], ids=lambda made: made.__name__)
@pytest.mark.parametrize("is_logged_in", [False, True], ids=["anonymous", "logged in"])
def test_a_login_that_was_not_begun_here_or_long_ago_ends_in_a_sentence(
    site: Site, browser: Browser, made: Any, is_logged_in: bool
) -> None:
    browser.log_in(ADA)
    if is_logged_in:
        browser.open(HOME)
    state = made(site)
    secret = bytes.fromhex((site.state / "cookie_secret").read_text())
    with_cookie = create_signed_value(secret, f"{CLIENT}-oauth-state", state).decode("ascii", "replace")
    browser.http.cookies.set(f"{CLIENT}-oauth-state", with_cookie, domain="127.0.0.1", path=HOME)
    answer = browser.step(f"{HOME}oauth_callback?code=invented&state={quote(state)}")
    assert answer.status_code == 403
    assert "Open the link again to log in." in answer.text
    assert "evil.example" not in answer.text
    assert "Traceback" not in answer.text


def test_a_login_of_somebody_elses_browser_is_not_taken_over(site: Site, browser: Browser) -> None:
    """Whoever lets another open the end of their own login would have them work in the wrong account."""
    with Browser(site) as other:
        other.log_in(DMITRI)
        to_the_hub = other.step(HOME).headers["Location"]
        back = other.step(to_the_hub).headers["Location"]
    browser.log_in(ADA)
    answer = browser.step(back)
    assert answer.status_code == 403
    assert "Try logging in again" in answer.text
    assert ADA.name not in answer.text


def test_the_hubs_refusal_of_a_login_is_told_in_our_own_words(browser: Browser) -> None:
    answer = browser.step(f"{HOME}oauth_callback?error=access_denied&error_description=Call+0900-1234")
    assert answer.status_code == 400
    assert "The hub did not log you in. Open the link again to log in." in answer.text
    assert "0900" not in answer.text


# XSRF


def posts(repo: Repo) -> dict[str, dict[str, str]]:
    launch = "0" * 32
    return {
        "launches": {"repo": repo.spec, "version": repo.commit, "vo": "vo.notebooks.egi.eu"},
        f"launches/{launch}/choice": {"action": "replace"},
        "servers/stop": {},
        "api/launches": {"repo": repo.spec},
    }


@pytest.mark.parametrize("token", ["none", "invented", "somebody else's", "the hub's"])
def test_a_cookie_alone_starts_and_stops_nothing(site: Site, ada: Browser, repo: Repo, token: str) -> None:
    match token:
        case "none":
            given: dict[str, str] = {}
        case "invented":
            given = {"_xsrf": secrets.token_urlsafe(64)}
        case "somebody else's":
            with Browser(site) as other:
                other.log_in(DMITRI)
                other.open(HOME)
                given = {"_xsrf": other.xsrf}
        case _:
            ada.open("/hub/token")
            (hubs,) = [
                cookie.value for cookie in ada.http.cookies.jar if cookie.name == "_xsrf" and cookie.path == "/hub/"
            ]
            given = {"_xsrf": hubs or ""}
    for path, fields in posts(repo).items():
        for answer in (
            ada.http.post(f"{site.url}{HOME}{path}", data=fields | given, follow_redirects=False),
            ada.http.post(
                f"{site.url}{HOME}{path}",
                json=fields,
                headers={"X-XSRFToken": given.get("_xsrf", "")},
                follow_redirects=False,
            ),
        ):
            assert answer.status_code == 403, f"{path}: {answer.status_code}"
    assert ada.http.delete(f"{site.url}{HOME}api/launches/{'0' * 32}").status_code == 403
    assert site.rows("SELECT count(*) FROM launches WHERE repository LIKE '%plain%'") == [(0,)]


def test_with_the_pages_own_token_a_form_is_taken(site: Site, ada: Browser) -> None:
    fields = {"repo": "gh/only-half-a-spec", "version": "0" * 40, "_xsrf": ada.xsrf}
    answer = ada.http.post(f"{site.url}{HOME}launches", data=fields, headers={"Sec-Fetch-Site": "same-origin"})
    assert answer.status_code == 400, "it is the link now that is wrong"


# tokens


def token_for(site: Site, person: Person, scopes: list[str]) -> str:
    made = site.admin("POST", f"/users/{person.voperson_id}/tokens", json={"note": "test", "scopes": scopes})
    assert made.status_code == 201, made.text
    return made.json()["token"]


def launch_with(site: Site, authorization: str) -> httpx.Response:
    return httpx.post(
        f"{site.url}{HOME}api/launches",
        json={"repo": "gh/half", "vo": "vo.notebooks.egi.eu"},
        headers={"Authorization": authorization},
        timeout=30,
    )


def test_a_persons_token_needs_no_xsrf_token(site: Site) -> None:
    answer = launch_with(site, f"token {token_for(site, ADA, ['inherit'])}")
    assert answer.status_code == 400
    assert answer.json()["error"] == "bad_request", "it is the link that is wrong"


def test_a_token_for_this_service_alone_is_enough(site: Site) -> None:
    answer = launch_with(site, f"token {token_for(site, ADA, ['access:services!service=replay'])}")
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("whose", "said"),
    [
        ("another service's", "This is for people."),
        ("without access to this service", "You may not use Replay on this hub."),
        ("invented", "Log in, or send a token of the hub"),
        ("none", "Log in, or send a token of the hub"),
        ("in the wrong scheme", "Log in, or send a token of the hub"),
    ],
)
def test_other_tokens_launch_nothing(site: Site, whose: str, said: str) -> None:
    authorization = {
        "another service's": lambda: f"token {site.admin_token}",
        "without access to this service": lambda: f"token {token_for(site, ADA, ['read:users:name!user'])}",
        "invented": lambda: f"token {secrets.token_hex(16)}",
        "none": lambda: "",
        "in the wrong scheme": lambda: f"Basic {token_for(site, ADA, ['inherit'])}",
    }[whose]()
    answer = launch_with(site, authorization)
    assert answer.status_code == 403
    assert said in answer.json()["message"]


def test_a_token_in_an_address_is_no_login(site: Site) -> None:
    """Addresses are in logs and in the histories of browsers."""
    token = token_for(site, ADA, ["inherit"])
    assert httpx.get(f"{site.url}{HOME}api/launches/{'0' * 32}?token={token}").status_code == 403


# limits


def test_who_launches_too_often_is_told_how_long_to_wait(site: Site) -> None:
    token = token_for(site, CHIARA, ["inherit"])
    answers = [launch_with(site, f"token {token}") for _ in range(31)]
    assert [answer.status_code for answer in answers] == [400] * 30 + [429]
    wait = answers[-1].json()["message"].removeprefix("Too many requests from you. Try again in ")
    assert 1 <= int(wait.removesuffix(" seconds.")) <= 60
    assert launch_with(site, f"token {token_for(site, ADA, ['inherit'])}").status_code == 400, "others are not held up"


def test_who_opens_links_too_often_is_told_how_long_to_wait(site: Site, browser: Browser) -> None:
    browser.log_in(DMITRI)
    browser.open(HOME)
    statuses = [browser.open(f"{HOME}v2/gh/half").status_code for _ in range(120)]
    assert set(statuses) == {400}
    page = browser.open(f"{HOME}v2/gh/half")
    assert page.status_code == 429
    assert "Try again in" in page.text
    assert browser.open(HOME).status_code == 200


# somebody else's


def test_a_launch_of_somebody_elses_is_as_one_that_never_was(site: Site) -> None:
    refused = site.repository("refused", {"Dockerfile": "FROM scratch\n"})
    ada, dmitri = site.client(ADA), site.client(DMITRI)
    launch = ada.launch(refused).json()["id"]
    assert [event["phase"] for _, event in ada.events(launch)][-1] == "failed"

    def answers(launch_id: str) -> list[tuple[int, str]]:
        asked = [
            dmitri.http.get(f"api/launches/{launch_id}"),
            dmitri.http.get(f"api/launches/{launch_id}/events"),
            dmitri.http.delete(f"api/launches/{launch_id}"),
            dmitri.http.get(f"launches/{launch_id}"),
            dmitri.http.post(f"launches/{launch_id}/choice", data={"action": "give-up"}),
            dmitri.http.get(f"launches/{launch_id}/work"),
        ]
        return [
            (answer.status_code, answer.json()["message"])
            for answer in asked
            if "json" in answer.headers["Content-Type"]
        ] + [(answer.status_code, "") for answer in asked]

    assert answers(launch) == answers("0" * 32)
    assert {status for status, _ in answers(launch)} == {404}
    assert ada.http.get(f"api/launches/{launch}").status_code == 200


# everybody

ID = "0" * 32
TO_LOG_IN, REFUSED, NO_METHOD = 302, 403, 405
ANONYMOUS = {
    # route: an address of it, and what GET and POST answer to somebody whom the hub does not know
    "/services/replay/$": ("", TO_LOG_IN, REFUSED),
    "/services/replay/v2/(.+)$": ("v2/gh/o/r/HEAD", TO_LOG_IN, REFUSED),
    "/services/replay/launches$": ("launches", TO_LOG_IN, REFUSED),
    "/services/replay/launches/([0-9a-f]{32})$": (f"launches/{ID}", TO_LOG_IN, REFUSED),
    "/services/replay/launches/([0-9a-f]{32})/choice$": (f"launches/{ID}/choice", TO_LOG_IN, REFUSED),
    "/services/replay/launches/([0-9a-f]{32})/work$": (f"launches/{ID}/work", TO_LOG_IN, REFUSED),
    "/services/replay/servers/stop$": ("servers/stop", TO_LOG_IN, REFUSED),
    "/services/replay/api/launches$": ("api/launches", REFUSED, REFUSED),
    "/services/replay/api/resolve$": ("api/resolve", REFUSED, REFUSED),
    "/services/replay/api/launches/([0-9a-f]{32})$": (f"api/launches/{ID}", REFUSED, REFUSED),
    "/services/replay/api/launches/([0-9a-f]{32})/events$": (f"api/launches/{ID}/events", REFUSED, REFUSED),
    "/services/replay/api/builds/([0-9a-f]{16})/events$": (f"api/builds/{'0' * 16}/events", REFUSED, REFUSED),
    "/services/replay/launches/([0-9a-f]{32})/stay$": (f"launches/{ID}/stay", TO_LOG_IN, REFUSED),
    "/services/replay/api/launches/([0-9a-f]{32})/stay$": (f"api/launches/{ID}/stay", REFUSED, REFUSED),
    "/services/replay/api/session$": ("api/session", REFUSED, REFUSED),
    "/services/replay/internal/plan$": ("internal/plan", 401, 401),
    "/services/replay/internal/ended$": ("internal/ended", 401, 401),
    "/services/replay/internal/activity$": ("internal/activity", 401, 401),
    "/services/replay/health$": ("health", 200, NO_METHOD),
    "/services/replay/oauth_callback$": ("oauth_callback", 400, NO_METHOD),
    "/services/replay/static/(.*)$": ("static/replay.css", 200, NO_METHOD),
    r"/(?:badge_logo\.svg)/?$": ("/badge_logo.svg", 200, NO_METHOD),
    r"/(?:badge\.svg)/?$": ("/badge.svg", 200, NO_METHOD),
    "/services/replay/audit$": ("audit", TO_LOG_IN, REFUSED),
    "/services/replay/vo/([^/]+)$": ("vo/v.example", TO_LOG_IN, REFUSED),
}
SIXTEEN = "0" * 16
OF_A_VO = {
    "sessions/([0-9a-f]{32})/stop": f"sessions/{ID}/stop",
    "launches": "launches",
    "builds": "builds",
    "builds/([0-9a-f]{16})": f"builds/{SIXTEEN}",
    "usage": "usage",
    r"usage\.csv": "usage.csv",
    r"usage\.apel": "usage.apel",
    r"usage-gpus\.json": "usage-gpus.json",
    "rules": "rules",
    "rules/([0-9a-f]{16})/remove": f"rules/{SIXTEEN}/remove",
    "blocks": "blocks",
    "blocks/lift": "blocks/lift",
    "banner": "banner",
    "terms": "terms",
    "explain": "explain",
    "events": "events",
    "events/([0-9a-f]{16})": f"events/{SIXTEEN}",
    "events/([0-9a-f]{16})/build": f"events/{SIXTEEN}/build",
    "events/([0-9a-f]{16})/call-off": f"events/{SIXTEEN}/call-off",
    "audit": "audit",
}
ANONYMOUS |= {
    f"/services/replay/vo/([^/]+)/{route}$": (f"vo/v.example/{path}", TO_LOG_IN, REFUSED)
    for route, path in OF_A_VO.items()
}


def test_the_table_of_routes_is_whole() -> None:
    application = make_application(SimpleNamespace(base_url=HOME), b"")  # type: ignore[arg-type] # no route is asked
    assert {rule.matcher.regex.pattern for rule in application.wildcard_router.rules} == set(ANONYMOUS)


@pytest.mark.parametrize("route", ANONYMOUS)
def test_what_a_route_answers_to_nobody(site: Site, route: str) -> None:
    path, on_get, on_post = ANONYMOUS[route]
    url = urljoin(f"{site.url}{HOME}", path)
    got, posted = httpx.get(url), httpx.post(url, content="{}")
    assert (got.status_code, posted.status_code) == (on_get, on_post)
    if on_get == TO_LOG_IN:
        assert urlsplit(got.headers["Location"]).path == "/hub/api/oauth2/authorize"


# the hub does not answer


def test_who_asks_while_the_hub_hangs_is_told_so_in_time(site: Site) -> None:
    """With a token that the service has not seen yet, so that it must ask."""
    token = token_for(site, ADA, ["inherit"])
    asked = ["", "v2/gh/o/r/HEAD", f"launches/{ID}", f"api/launches/{ID}"]
    with stopped(site.hub_process()), ThreadPoolExecutor(len(asked)) as pool:
        since = time.monotonic()
        answers = list(pool.map(lambda path: ask_directly(site, path, token), asked))
        assert time.monotonic() - since < 20
    assert_the_hub_is_blamed(answers)


def test_who_asks_while_the_hub_is_gone_is_told_so(sites: Sites) -> None:
    site = sites.start()
    assert site.service_process() in site.stop(signal_number=signal.SIGKILL), "it outlives the hub"
    assert_the_hub_is_blamed([ask_directly(site, path, "unseen") for path in ("", f"api/launches/{ID}")])


def ask_directly(site: Site, path: str, token: str) -> httpx.Response:
    return httpx.get(f"{site.service_url}{path}", headers={"Authorization": f"token {token}"}, timeout=40)


def assert_the_hub_is_blamed(answers: list[httpx.Response]) -> None:
    *pages, api = answers
    for answer in answers:
        assert answer.status_code == 503
        assert "The hub does not answer just now. Try again in a moment." in answer.text
    for page in pages:
        assert "give this number" in page.text
    assert api.json()["error"] == "service_unavailable"


def test_the_spawners_door_takes_the_services_own_token_alone(site: Site) -> None:
    own = (site.state / "service_token").read_text()
    question = {"user": ADA.voperson_id, "server_name": "", "launch": "0" * 32}

    def ask(authorization: str) -> int:
        return httpx.post(
            f"{site.service_url}internal/plan", json=question, headers={"Authorization": authorization}
        ).status_code

    refused = [f"token {site.admin_token}", f"Bearer {site.admin_token}", "Bearer", "", f"Bearer {own[:-1]}"]
    assert {ask(authorization) for authorization in refused} == {401}
    assert ask(f"Bearer {token_for(site, ADA, ['inherit'])}") == 401
    assert ask(f"Bearer {own}") == 404
