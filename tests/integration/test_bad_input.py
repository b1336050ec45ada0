"""What people get who open, press or send something that cannot work: a sentence, a number, and nothing left behind."""

import html
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

import httpx
import pytest

from demo.people import ADA, DMITRI, Person
from tests.integration.test_survival import follow_to, gated_at_once, until
from tests.login_fixtures import Visitor
from tests.requirements import ROOT
from tests.site import ApiClient, Site, Sites, stopped

pytestmark = [pytest.mark.needs("proxy", "git-server"), pytest.mark.one_hub_version]

BUILD_SECONDS = 10
NOBODY = "0" * 32
"""The id of a launch that never was."""


class _Elsewhere(BaseHTTPRequestHandler):
    """A git host of bad manners: it asks for a password, or sends people to another address."""

    inside: str

    def do_GET(self) -> None:
        if self.path.startswith("/private"):
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Basic")
        elif self.path.startswith("/fault"):
            self.send_response(500)
        else:
            self.send_response(302)
            self.send_header("Location", self.inside + self.path)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class _Inside(BaseHTTPRequestHandler):
    """What must never be asked: an address inside the site."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_error(404)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@dataclass
class Neighbourhood:
    """The site, and the addresses around it that links may name."""

    site: Site
    elsewhere: str
    inside: str
    asked_inside: list[str]


def _serve(handler: type[BaseHTTPRequestHandler]) -> tuple[ThreadingHTTPServer, str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_address[1]}"


@pytest.fixture(scope="module")
def around(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Neighbourhood]:
    asked: list[str] = []
    inside_server, inside = _serve(type("Inside", (_Inside,), {"asked": asked}))
    elsewhere_server, elsewhere = _serve(type("Elsewhere", (_Elsewhere,), {"inside": inside}))
    try:
        with Sites(tmp_path_factory.mktemp("bad-input")) as made:
            more = [f"build_timeout={BUILD_SECONDS}", "launches_per_minute=1000", "looks_per_minute=1000"]
            settings = [f"--ReplayBuildService.{setting}" for setting in more]
            limits = f'c.JupyterHub.services[0]["command"] += {settings!r}'
            exempt = f'c.JupyterHub.services[0]["environment"]["REPLAY_EXEMPT_ORIGINS"] += ",{elsewhere}"'
            hosts = {"ALLOWED_HOSTS": "github.com,localhost"}
            site = made.start(settings=hosts, extra_config=f"{limits}\n{exempt}")
            _fill(site)
            yield Neighbourhood(site, elsewhere, inside, asked)
    finally:
        for server in (inside_server, elsewhere_server):
            server.shutdown()
            server.server_close()


def _fill(site: Site) -> None:
    site.repository("plain", {"README.md": "A repository.\n"})
    (site.git.root / "empty.git").mkdir()
    for name in ("HEAD", "objects", "refs"):
        source = site.git.root / "plain.git" / name
        target = site.git.root / "empty.git" / name
        target.write_text(source.read_text()) if source.is_file() else target.mkdir()


class Browser(Visitor):
    """A visitor who also presses buttons that the page does not show them."""

    def post(self, path: str, **fields: str) -> httpx.Response:
        page = self.open("/services/replay/")
        found = re.search(r'name="_xsrf" value="([^"]+)"', page.text) or re.search(r'data-xsrf="([^"]+)"', page.text)
        cookie = next(
            (c.value for c in self._client.cookies.jar if c.name == "_xsrf" and "/services/replay" in c.path), ""
        )
        xsrf = html.unescape(found[1]) if found else cookie
        return self._client.post(urljoin(self.hub.url, path), data={"_xsrf": xsrf or "", **fields})


@pytest.fixture(scope="module")
def ada(around: Neighbourhood) -> ApiClient:
    return around.site.client(ADA)


@pytest.fixture(scope="module")
def dmitri(around: Neighbourhood) -> ApiClient:
    return around.site.client(DMITRI)


@pytest.fixture(scope="module")
def browser(around: Neighbourhood) -> Iterator[Browser]:
    with _browser(around.site, ADA) as made:
        yield made


def _browser(site: Site, person: Person) -> Browser:
    visitor = Browser(site)  # pyright: ignore[reportArgumentType] - of a hub it asks only the url
    visitor.log_in(person)
    return visitor


def message_of(page: httpx.Response) -> str:
    """The sentence of an error page; it has a number to ask with, and nothing that is ours alone."""
    assert_tells_nothing_inner(page.text)
    assert re.search(r"<code>[0-9a-f]{8}</code>", page.text), page.text
    found = re.search(r'<p class="failure">(.*?)</p>', page.text, re.DOTALL)
    assert found, page.text
    return html.unescape(found[1])


def refusal_of(answer: httpx.Response) -> str:
    assert_tells_nothing_inner(answer.text)
    refusal = answer.json()
    assert re.fullmatch(r"[0-9a-f]{8}", refusal["id"])
    return refusal["message"]


def assert_tells_nothing_inner(text: str) -> None:
    for inner in ("Traceback", str(ROOT), ".py", "replay_build_service", "site-packages", "/state/"):
        assert inner not in text, text


@pytest.fixture
def untouched(around: Neighbourhood) -> Iterator[None]:
    """Nothing was started, stored or left, and no address inside the site was asked."""
    site = around.site

    def standing() -> tuple[Any, ...]:
        counts = site.rows("select (select count(*) from launches), (select count(*) from builds)")
        return counts, list(around.asked_inside), site.server(ADA)

    # What a build that was given up has left may still be going, and is no matter of this test.
    before, left, runners = standing(), set(site.left_behind()), len(site.runners())
    yield
    assert standing() == before
    assert set(site.left_behind()) <= left
    assert len(site.runners()) <= runners


def git_spec(url: str, ref: str = "HEAD") -> str:
    return f"git/{quote(url, safe='')}/{ref}"


BAD_SPECS: dict[str, tuple[Callable[[Neighbourhood], str], int, str]] = {
    "unknown provider": (lambda _: "svn/example.org/r", 400, "There is no provider “svn” here. The providers are: ckan, dataverse, doi, "),
    "no repository": (lambda _: "gh/only-an-owner", 400, "It should read /v2/gh/OWNER/REPOSITORY/HEAD"),
    "no ref": (lambda _: "gh/owner/name", 400, "Did you mean /v2/gh/owner/name/HEAD?"),
    "not a URL": (lambda _: "git/somewhere/HEAD", 400, "is a whole URL, percent-encoded"),
    "another scheme": (lambda _: git_spec("ssh://github.com/a/b"), 403, "over https:// only"),
    "a file": (lambda _: git_spec("file:///etc"), 403, "over https:// only"),
    "a password": (lambda _: git_spec("https://me:secret@github.com/a/b"), 403, "sends no credentials; leave them out"),
    "dots": (lambda _: git_spec("https://github.com/a/%2e%2e/b"), 400, "cannot hold “.” or “..”"),
    "dots in the ref": (lambda a: git_spec(f"{a.site.git.url}/plain.git", "main..HEAD"), 400, "cannot be the name of a branch"),
    "a null": (lambda _: "gh/owner/na%00me/HEAD", 400, "spaces or control characters"),
    "a line's end": (lambda _: "gh/owner/name/HE%0aAD", 400, "spaces or control characters"),
    "an escape": (lambda _: "gh/owner/name/%1b%5b31m", 400, "spaces or control characters"),
    "10 kB": (lambda _: f"gh/owner/{'a' * 10_000}/HEAD", 400, "too long"),
    "an option": (lambda _: "git/--upload-pack%3Dtouch%20x/HEAD", 400, "spaces or control characters"),
    "an option for a URL": (lambda _: "git/--upload-pack%3Dtouch/HEAD", 400, "is a whole URL"),
    "an option in the URL": (lambda _: git_spec("https://github.com/--upload-pack=touch/b"), 400, "starts with “-”"),
    "an option for a ref": (lambda a: git_spec(f"{a.site.git.url}/plain.git", "--upload-pack=touch"), 400, "cannot be the name of a branch"),
    "a host off the list": (lambda _: git_spec("https://example.net/r.git"), 403, "example.net is not among the hosts"),
    "a loopback address": (lambda a: git_spec(f"{a.inside}/r.git"), 403, "is not among the hosts"),
    "a private address": (lambda _: git_spec("https://10.0.0.1/r.git"), 403, "is not among the hosts"),
    "a name of a loopback address": (lambda _: git_spec("https://localhost/r.git"), 403, "leads to an address that is not public"),
    "a redirect to a loopback address": (lambda a: git_spec(f"{a.elsewhere}/r.git"), 403, "redirects to another address"),
    "gone": (lambda a: git_spec(f"{a.site.git.url}/gone.git"), 404, "gone, private or misspelt"),
    "private": (lambda a: git_spec(f"{a.elsewhere}/private.git"), 404, "gone, private or misspelt"),
    "empty": (lambda a: git_spec(f"{a.site.git.url}/empty.git"), 404, "is empty: it has no branch and no tag yet"),
    "a server with a fault": (lambda a: git_spec(f"{a.elsewhere}/fault.git"), 503, "Try again later"),
    "a ref that is not there": (lambda a: git_spec(f"{a.site.git.url}/plain.git", "mian"), 404, "has no branch, tag or commit “mian”. Did you mean main?"),
    "a commit that is not there": (lambda a: git_spec(f"{a.site.git.url}/plain.git", "f" * 40), 404, "no such commit"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_SPECS)
@pytest.mark.usefixtures("untouched")
def test_a_link_that_cannot_work_says_why(around: Neighbourhood, ada: ApiClient, browser: Browser, case: str) -> None:
    make, status, sentence = BAD_SPECS[case]
    spec = make(around)
    page = browser.open(f"/v2/{spec}")
    assert (page.status_code, sentence in message_of(page)) == (status, True), page.text
    answer = ada.launch(spec)
    assert (answer.status_code, sentence in refusal_of(answer)) == (status, True), answer.text


def test_the_nearest_refs_are_links(around: Neighbourhood, browser: Browser) -> None:
    url = f"{around.site.git.url}/plain.git"
    page = browser.open(f"/v2/{git_spec(url, 'mian')}?labpath=README.md")
    assert browser.follow(page, "main").status_code == 200
    assert f'href="/v2/{git_spec(url, "main")}?labpath=README.md"' in page.text


@pytest.mark.parametrize(
    "urlpath", ["//evil.example/", "https:evil.example", "https://evil.example/", "\\\\evil.example", "/\\evil.example", "lab/../../../hub/token", "lab\n/x", "javascript:alert(1)"]
)  # fmt: skip
@pytest.mark.usefixtures("untouched")
def test_a_path_to_another_site_is_refused(
    around: Neighbourhood, ada: ApiClient, browser: Browser, urlpath: str
) -> None:
    spec = git_spec(f"{around.site.git.url}/plain.git")
    sentence = "leads outside the session. Use a path below it, such as lab/tree/index.ipynb."
    page = browser.open(f"/v2/{spec}?urlpath={quote(urlpath, safe='')}")
    assert (page.status_code, sentence in message_of(page)) == (400, True), page.text
    pressed = browser.post("/services/replay/launches", repo=spec, urlpath=urlpath, version="HEAD")
    # A browser sends the line's end of a field in its own way; what counts is that it is refused.
    assert pressed.status_code == 400, pressed.text
    answer = ada.launch(spec, urlpath=urlpath)
    assert (answer.status_code, sentence in refusal_of(answer)) == (400, True)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("", "Invalid JSON"),
        ("[]", "the body"),
        ("{}", "repo: Field required."),
        ('{"repo": 1}', "repo: Input should be a valid string."),
        ('{"repo": "gh/a/b/HEAD", "image": "evil"}', "image: Extra inputs are not permitted."),
        ('{"repo": "gh/owner/%ff%fe/HEAD"}', "This link holds bytes that are not text."),
        ('{"repo": "gh/a/b/HEAD", "server_name": "second"}', "servers with names are not supported yet."),
        ('{"repo": "gh/a/b/HEAD", "server_name": ".."}', "servers with names are not supported yet."),
        ('{"repo": "gh/a/b/HEAD", "version": "a b"}', "version: String should match pattern"),
        ('{"repo": "gh/a/b/HEAD", "version": "main"}', "names one for good."),
        ('{"repo": "gh/a/b/HEAD", "vo": "vo.other"}', "You are not in vo.other, or it may not launch here."),
    ],
)
@pytest.mark.usefixtures("untouched")
def test_a_request_that_is_not_understood_says_what_is_wrong(ada: ApiClient, body: str, sentence: str) -> None:
    answer = ada.http.post("api/launches", content=body)
    assert answer.status_code in {400, 403}
    assert sentence in refusal_of(answer)


BAD_REPOSITORIES: dict[str, tuple[dict[str, str], str]] = {
    "requirements that cannot be resolved": (
        {"requirements.txt": "six==1.16.0\nsix==1.17.0\n"},
        "cannot be resolved|conflict|no version|unsatisfiable",
    ),
    "an environment of conda": ({"environment.yml": "dependencies: [r-base]\n"}, r"environment\.yml"),
    "a Dockerfile": ({"Dockerfile": "FROM scratch\n"}, "Dockerfile"),
    "another Python": (
        {"runtime.txt": "python-2.7\n"},
        r"python-2\.7 .*cannot be had here\. The versions that are there: 3\.",
    ),
    "a project file that cannot be read": ({"pyproject.toml": "[project\n"}, r"pyproject\.toml"),
}


def assert_failed_cleanly(around: Neighbourhood, ada: ApiClient, browser: Browser, launch: str, pattern: str) -> None:
    """The launch's stream ends with the sentence, its page shows it, and nothing is left of the build."""
    *_, (_, last) = ada.events(launch)
    assert last["phase"] == "failed"
    assert re.search(pattern, last["message"], re.IGNORECASE), last["message"]
    model = ada.get(launch)
    assert (model["state"], model["failure"]) == ("failed", last["message"])
    page = browser.open(f"/services/replay/launches/{launch}")
    assert page.status_code == 200
    assert last["message"] in html.unescape(page.text)
    assert launch in page.text
    assert_tells_nothing_inner(last["message"])
    site = around.site
    until(lambda: f"builds/{model['build']}" not in site.left_behind(), "nothing is left of the build")
    assert site.runners() == []
    assert site.server(ADA) is None


@pytest.mark.parametrize("case", BAD_REPOSITORIES)
def test_a_repository_that_cannot_be_built_says_why(
    around: Neighbourhood, ada: ApiClient, browser: Browser, case: str
) -> None:
    files, pattern = BAD_REPOSITORIES[case]
    repo = around.site.repository(re.sub(r"\W+", "-", case), files)
    assert_failed_cleanly(around, ada, browser, ada.launch(repo).json()["id"], pattern)


def test_a_build_that_hangs_is_ended_at_its_limit(
    around: Neighbourhood, ada: ApiClient, browser: Browser, tmp_path: Path
) -> None:
    launch = ada.launch(gated_at_once(around.site, "hangs", tmp_path / "gate")).json()["id"]
    assert_failed_cleanly(around, ada, browser, launch, f"took longer than {BUILD_SECONDS} s, which is the limit")


def test_a_build_that_is_killed_says_so(
    around: Neighbourhood, ada: ApiClient, browser: Browser, tmp_path: Path
) -> None:
    launch = ada.launch(gated_at_once(around.site, "killed", tmp_path / "gate")).json()["id"]
    follow_to(ada.events(launch), "Building the environment")
    (runner,) = around.site.runners()
    runner.send_signal(signal.SIGKILL)
    assert_failed_cleanly(around, ada, browser, launch, "ended from outside before it was done. Open the link again")


@pytest.fixture(scope="module")
def foreign(around: Neighbourhood, dmitri: ApiClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A launch of somebody else's that is on its way."""
    gate = tmp_path_factory.mktemp("foreign") / "gate"
    launch = dmitri.launch(gated_at_once(around.site, "foreign", gate)).json()["id"]
    follow_to(dmitri.events(launch), "Building the environment")
    yield launch
    dmitri.http.delete(f"api/launches/{launch}")


@pytest.mark.parametrize("whose", ["somebody else's", "invented", "malformed"])
def test_a_launch_that_is_not_mine_looks_as_if_it_never_was(
    around: Neighbourhood, ada: ApiClient, dmitri: ApiClient, browser: Browser, foreign: str, whose: str
) -> None:
    launch = {"somebody else's": foreign, "invented": NOBODY, "malformed": "..%2f..%2fetc"}[whose]
    service = "/services/replay/"
    pages = [
        browser.open(f"{service}launches/{launch}"),
        browser.post(f"{service}launches/{launch}/choice", action="give-up"),
        browser.post(f"{service}launches/{launch}/choice", action="replace"),
    ]
    sentence = "There is no such page" if whose == "malformed" else "There is no such launch of yours."
    for page in pages:
        assert page.status_code == 404, page.text
        assert sentence in message_of(page)
    answers = [
        ada.http.get(f"api/launches/{launch}"),
        ada.http.delete(f"api/launches/{launch}"),
        ada.http.get(f"api/launches/{launch}/events"),
    ]
    for answer in answers:
        assert answer.status_code == 404
        assert sentence in answer.text
    if whose != "malformed":
        # Nor can it be had from the hub itself, which asks the service.
        site = around.site
        token = {"Authorization": f"token {ada.token}"}
        name = ADA.voperson_id
        # It answers before it has asked, so that its status says nothing.
        httpx.post(f"{site.url}/hub/api/users/{name}/server", headers=token, json={"launch": launch}, timeout=60)
        until(lambda: site.server(ADA) is None, "no server came of it")
    assert dmitri.get(foreign)["state"] == "building"


def test_two_launches_of_one_thing_in_one_moment_are_one(around: Neighbourhood, ada: ApiClient, tmp_path: Path) -> None:
    repo = gated_at_once(around.site, "at-once-same", tmp_path / "gate")
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda _: ada.launch(repo), range(6)))
    assert {answer.status_code for answer in answers} == {201}
    (launch,) = {answer.json()["id"] for answer in answers}
    builds = "select count(*) from builds where repository like '%at-once-same%'"
    until(lambda: around.site.rows(builds) != [(0,)], "its build has begun")
    assert around.site.rows(builds) == [(1,)]
    give_up(around, ada, launch)


def test_two_launches_of_different_things_in_one_moment_are_a_choice(
    around: Neighbourhood, ada: ApiClient, browser: Browser, tmp_path: Path
) -> None:
    repos = [gated_at_once(around.site, f"at-once-{name}", tmp_path / "gate") for name in "abcd"]
    with ThreadPoolExecutor(4) as threads:
        models = [answer.json() for answer in threads.map(ada.launch, repos)]
    assert sorted(model["state"] for model in models) == ["building", "choosing", "choosing", "choosing"]
    for model in models:
        if model["state"] == "choosing":
            page = browser.open(model["url"])
            assert "Another launch of yours is on its way" in page.text
            assert around.site.rows(f"select build_id from launches where id = '{model['id']}'") == [(None,)]
    for model in models:
        give_up(around, ada, model["id"])


def give_up(around: Neighbourhood, ada: ApiClient, launch: str) -> None:
    assert ada.http.delete(f"api/launches/{launch}").status_code == 204
    assert ada.get(launch)["state"] == "ended"
    build = ada.get(launch)["build"]
    until(lambda: f"builds/{build}" not in around.site.left_behind(), "nothing is left of the build")


@pytest.mark.usefixtures("untouched")
def test_a_service_that_does_not_answer_is_told(around: Neighbourhood, browser: Browser) -> None:
    link = f"/v2/{git_spec(f'{around.site.git.url}/plain.git')}"
    with stopped(around.site.service_process()):
        page = browser.open(link)
    assert page.status_code == 503
    assert_tells_nothing_inner(page.text)
    assert link in html.unescape(page.text), "the page leads back to the link"
