"""VO managers on a real hub: what they can do for their own VO, and what neither the service nor the hub lets them do."""

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import httpx
import pytest

from demo.people import ADA, CHIARA, DMITRI, FARAH, Person
from tests.login_fixtures import Visitor
from tests.site import ApiClient, Repo, Site, Sites

pytestmark = [pytest.mark.needs("proxy", "git-server"), pytest.mark.timeout(300)]

NOTEBOOKS, ACCESS = "vo.notebooks.egi.eu", "vo.access.egi.eu"
MANAGERS = f"""
c.EGICheckinAuthenticator.vo_managers = {{
    "{NOTEBOOKS}": ["{NOTEBOOKS}:role=manager"],
    "{ACCESS}": ["{ACCESS}:managers"],
}}
c.Authenticator.admin_users = {{"{CHIARA.voperson_id}"}}
"""


def vo_page(vo: str, path: str = "") -> str:
    return f"/services/replay/vo/{vo}{path}"


class Browser:
    """Somebody who has logged in, with the forms that their pages have."""

    def __init__(self, site: Site, person: Person) -> None:
        self.site = site
        self.visitor = Visitor(site)  # type: ignore[arg-type]
        page = self.visitor.log_in(person, "/services/replay/")
        assert page.status_code == 200, page.text

    def get(self, path: str) -> httpx.Response:
        return self.visitor.open(path)

    def post(self, path: str, *, of: str | None = None, xsrf: str | None = None, **fields: str) -> httpx.Response:
        """Send a form as the page ``of`` has it; by default a page that everybody has."""
        token = re.findall(r'name="_xsrf" value="([^"]+)"', self.get(of).text)[0] if of and xsrf is None else xsrf
        return self.visitor.open_form(f"{self.site.url}{path}", {**({"_xsrf": token} if token else {}), **fields})


@pytest.fixture(scope="module")
def managed(sites: Sites) -> Site:
    return sites.start(extra_config=MANAGERS)


@pytest.fixture(scope="module")
def repo(managed: Site) -> Repo:
    return managed.repository("managed", {"README.md": "a repository\n"})


@pytest.fixture(scope="module")
def ada(managed: Site) -> ApiClient:
    return managed.client(ADA)


@pytest.fixture(scope="module")
def chiara(managed: Site) -> ApiClient:
    return managed.client(CHIARA)


@pytest.fixture(scope="module")
def dmitri(managed: Site) -> Iterator[Browser]:
    browser = Browser(managed, DMITRI)
    yield browser
    browser.visitor.__exit__()


@pytest.fixture(scope="module")
def farah(managed: Site) -> Iterator[Browser]:
    browser = Browser(managed, FARAH)
    yield browser
    browser.visitor.__exit__()


@pytest.fixture(autouse=True)
def _nothing_runs_on(managed: Site) -> Iterator[None]:
    yield
    for person in (ADA, CHIARA):
        if managed.admin("GET", f"/users/{person.voperson_id}").status_code == 200:
            managed.stop_server(person)


def test_a_manager_stops_a_session_of_their_vo_and_its_person_is_told(
    managed: Site, repo: Repo, ada: ApiClient, dmitri: Browser
) -> None:
    launch = ada.launch_and_wait(repo)
    page = dmitri.get(vo_page(NOTEBOOKS))
    assert page.status_code == 200, page.text
    for shown in (ADA.voperson_id, repo.commit[:10], "2 GB", "1 session runs", "Last activity"):
        assert shown in page.text, shown
    assert "the hub does not answer" not in page.text

    stopped = dmitri.post(
        vo_page(NOTEBOOKS, f"/sessions/{launch['id']}/stop"), of=vo_page(NOTEBOOKS), reason="it mines"
    )
    assert "The session was stopped." in stopped.text
    assert managed.server(ADA) is None
    assert ada.get(launch["id"])["state"] == "ended"
    with Visitor(managed) as visitor:  # type: ignore[arg-type]
        visitor.log_in(ADA)
        told = visitor.open(f"/services/replay/launches/{launch['id']}").text
    assert f"A manager of {NOTEBOOKS} stopped this session: it mines." in told

    log = dmitri.get(vo_page(NOTEBOOKS, "/audit")).text
    assert "stop a session" in log
    assert "it mines" in log
    month = f"{datetime.now(UTC):%Y-%m}"
    (row,) = [
        line
        for line in dmitri.get(vo_page(NOTEBOOKS, f"/usage.csv?from={month}&to={month}")).text.splitlines()
        if ADA.voperson_id in line
    ]
    _, vo, _, sessions, hours, memory, *_ = row.split(",")
    assert (vo, sessions) == (NOTEBOOKS, "1")
    assert float(memory) == pytest.approx(2 * float(hours), abs=2e-4), "2 GB were guaranteed"


def test_a_session_for_another_vo_is_not_a_managers_whoever_runs_it(
    managed: Site, repo: Repo, chiara: ApiClient, dmitri: Browser, farah: Browser
) -> None:
    """Chiara is in both VOs: for the hub she is a member of either."""
    launch = chiara.launch_and_wait(repo, vo=ACCESS)
    assert launch["id"] not in dmitri.get(vo_page(NOTEBOOKS)).text
    refused = dmitri.post(vo_page(NOTEBOOKS, f"/sessions/{launch['id']}/stop"), of=vo_page(NOTEBOOKS, "/rules"))
    assert (refused.status_code, "has no such session" in refused.text) == (404, True)
    blocked = dmitri.post(
        vo_page(NOTEBOOKS, "/blocks"),
        of=vo_page(NOTEBOOKS, "/rules"),
        person=CHIARA.voperson_id,
        reason="mining",
        stop="1",
    )
    assert blocked.status_code == 200, blocked.text
    assert managed.server(CHIARA) is not None
    assert chiara.get(launch["id"])["state"] == "running"
    assert launch["id"] in farah.get(vo_page(ACCESS)).text
    farah.post(vo_page(ACCESS, f"/sessions/{launch['id']}/stop"), of=vo_page(ACCESS))
    assert managed.server(CHIARA) is None
    lifted = dmitri.post(vo_page(NOTEBOOKS, "/blocks/lift"), of=vo_page(NOTEBOOKS, "/rules"), person=CHIARA.voperson_id)
    assert "The block is lifted." in lifted.text


def test_the_hub_itself_gives_managers_nothing_of_their_members(
    managed: Site, repo: Repo, ada: ApiClient, dmitri: Browser
) -> None:
    ada.launch_and_wait(repo)
    token = managed.client(DMITRI).token
    asked = [
        ("GET", f"/hub/api/users/{ADA.voperson_id}"),
        ("GET", f"/hub/api/users/{ADA.voperson_id}/tokens"),
        ("DELETE", f"/hub/api/users/{ADA.voperson_id}/server"),
        ("POST", f"/hub/api/users/{ADA.voperson_id}/tokens"),
        ("GET", "/hub/api/users"),
        ("GET", f"/hub/api/groups/{quote(NOTEBOOKS)}"),
        ("GET", f"/user/{ADA.voperson_id}/api/contents"),
    ]
    headers = {"Authorization": f"token {token}"}
    answers = [httpx.request(method, f"{managed.url}{path}", headers=headers, timeout=30) for method, path in asked]
    assert {answer.status_code for answer in answers} <= {403, 404}, [answer.status_code for answer in answers]
    entered = dmitri.get(f"/user/{ADA.voperson_id}/lab")
    assert entered.status_code in {403, 404}, entered.text
    assert managed.server(ADA) is not None
    roles = managed.admin("GET", f"/users/{DMITRI.voperson_id}").json()["roles"]
    assert roles == ["user"]


def test_a_manager_of_one_vo_who_sends_anothers_form_is_refused_with_a_number(
    managed: Site, dmitri: Browser, ada: ApiClient
) -> None:
    before = managed.rows("SELECT count(*) FROM audit")
    for path, fields in (
        ("/banner", {"action": "own", "text": "hacked"}),
        ("/blocks", {"person": CHIARA.voperson_id, "reason": "x", "stop": "1"}),
        ("/rules", {"effect": "deny", "pattern": "**"}),
    ):
        answer = dmitri.post(vo_page(ACCESS, path), of=vo_page(NOTEBOOKS, "/rules"), **fields)
        assert (answer.status_code, "You do not manage" in answer.text) == (403, True)
        (number,) = re.findall(r"give this number: <code>([0-9a-f]{8})</code>", answer.text)
        assert re.search(rf"Error {number}: 'POST {re.escape(vo_page(ACCESS, path))}' answered 403", managed.log)
        as_program = ada.http.post(f"vo/{NOTEBOOKS}{path}", data=fields)
        assert as_program.status_code == 403, "a member is no manager"
    assert dmitri.get(vo_page(ACCESS)).status_code == 403
    assert managed.rows("SELECT count(*) FROM audit") == before
    assert managed.rows("SELECT count(*) FROM vo_standing WHERE vo = ?", ACCESS) == [(0,)]


@pytest.mark.parametrize("xsrf", [None, "", "2|00000000|0|0"], ids=["none", "empty", "invented"])
def test_a_form_without_its_xsrf_token_changes_nothing(managed: Site, dmitri: Browser, xsrf: str | None) -> None:
    before = managed.rows("SELECT count(*) FROM audit")
    answer = dmitri.post(vo_page(NOTEBOOKS, "/banner"), xsrf=xsrf or "", action="own", text="hacked")
    assert answer.status_code == 403, answer.text
    assert managed.rows("SELECT count(*) FROM audit") == before


def test_who_is_not_logged_in_is_asked_to(managed: Site) -> None:
    answer = httpx.get(f"{managed.url}{vo_page(NOTEBOOKS)}", follow_redirects=False)
    assert (answer.status_code, "/hub/api/oauth2/authorize" in answer.headers["Location"]) == (302, True)
    assert httpx.post(f"{managed.url}{vo_page(NOTEBOOKS, '/banner')}", data={}).status_code == 403
    assert httpx.get(f"{managed.url}/services/replay/audit", follow_redirects=False).status_code == 302


def test_what_a_manager_denies_is_refused_at_once_in_whatever_spelling(
    managed: Site, repo: Repo, ada: ApiClient, dmitri: Browser
) -> None:
    rules = vo_page(NOTEBOOKS, "/rules")
    denied = dmitri.post(rules, of=rules, effect="deny", pattern=repo.url, reason="too heavy")
    assert "The rule holds from now on." in denied.text
    told = ada.launch(f"git/{quote(f'{repo.url}/', safe='')}/HEAD")
    assert told.status_code == 403, told.text
    assert "managers" in told.json()["message"]
    question = f"{vo_page(NOTEBOOKS, '/explain')}?person={quote(ADA.voperson_id)}&link={quote(repo.spec, safe='')}"
    assert "It would be refused" in dmitri.get(question).text
    (rule,) = re.findall(r"/rules/([0-9a-f]{16})/remove", dmitri.get(rules).text)
    dmitri.post(f"{rules}/{rule}/remove", of=rules)
    assert "It would launch" in dmitri.get(question).text


def test_a_block_holds_at_once_ends_what_runs_and_survives_a_restart(
    managed: Site, repo: Repo, ada: ApiClient, dmitri: Browser
) -> None:
    launch = ada.launch_and_wait(repo)
    rules = vo_page(NOTEBOOKS, "/rules")
    until = f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%dT%H:%M}"
    done = dmitri.post(
        vo_page(NOTEBOOKS, "/blocks"),
        of=rules,
        person=ADA.voperson_id,
        reason="she mines",
        until=until,
        stop="1",
    )
    assert "what they had running for it was stopped" in done.text
    assert managed.server(ADA) is None
    assert ada.get(launch["id"])["state"] == "ended"
    told = ada.launch(repo)
    assert told.status_code == 403, told.text
    assert "she mines" in told.json()["message"]

    managed.stop()
    managed.start()
    told = ada.launch(repo)
    assert (told.status_code, "she mines" in told.json()["message"]) == (403, True)
    again = Browser(managed, DMITRI)
    assert "she mines" in again.get(vo_page(NOTEBOOKS, "/audit")).text
    again.post(vo_page(NOTEBOOKS, "/blocks/lift"), of=rules, person=ADA.voperson_id)
    assert ada.launch_and_wait(repo)["state"] == "running"
    again.visitor.__exit__()


def test_an_event_is_built_ahead_so_that_its_people_start_at_once(managed: Site, ada: ApiClient) -> None:
    course = managed.repository("course", {"README.md": "a course\n"})
    dmitri = Browser(managed, DMITRI)
    now = datetime.now(UTC)
    page = dmitri.post(
        vo_page(NOTEBOOKS, "/events"),
        of=vo_page(NOTEBOOKS, "/events"),
        title="A course",
        link=f"{managed.url}/v2/{course.spec}?labpath=README.md",
        starts=f"{now:%Y-%m-%dT%H:%M}",
        ends=f"{now + timedelta(hours=8):%Y-%m-%dT%H:%M}",
        people="30",
    )
    assert "The event is prepared." in page.text, page.text
    event = page.url.path
    deadline = time.monotonic() + 120
    while "built, so it starts in seconds" not in (shown := dmitri.get(event).text):
        assert time.monotonic() < deadline, shown
        time.sleep(0.5)
    assert f"{managed.url}/v2/{course.spec.removesuffix('HEAD')}{course.commit}?urlpath=doc/tree/README.md" in shown
    launch = ada.launch_and_wait(course)
    assert launch["build"] is None, "nothing was left to build"
    dmitri.visitor.__exit__()


def test_the_whole_audit_log_is_for_the_hubs_administrators(managed: Site, ada: ApiClient, chiara: ApiClient) -> None:
    """Chiara is one, by the hub's own settings; as a member of both VOs alone she would manage neither."""
    assert managed.admin("GET", f"/users/{CHIARA.voperson_id}").json()["admin"] is True
    assert [client.http.get("audit").status_code for client in (ada, managed.client(DMITRI), chiara)] == [403, 403, 200]
    assert [chiara.http.get(f"vo/{vo}").status_code for vo in (NOTEBOOKS, ACCESS)] == [200, 200]
    assert "Audit log of all of them" in chiara.http.get("").text
    assert "Audit log of all of them" not in managed.client(DMITRI).http.get("").text
