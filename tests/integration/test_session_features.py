"""What a session is given beside its image, on a real hub: the access token, launch.json, and features that break."""

import json
import os
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from demo.checkin_controls import Endpoint
from demo.people import ADA
from tests.login_fixtures import Visitor
from tests.site import ApiClient, Repo, Site, Sites

pytestmark = [pytest.mark.needs("proxy", "git-server"), pytest.mark.one_hub_version]

LIFE = 8
"""Seconds of an access token."""

BREAKING = """
from replay_spawner.features.base import Feature, Given, SessionFile
import replay_spawner.features.loading as loading
import time

class Breaking(Feature):
    title, explanation = "Something that breaks", ""
    async def prepare(self):
        if self.name == "breaks-first":
            raise RuntimeError("prepare")
        return Given({"BREAKING": "there"}, [SessionFile("/srv/thing", "file", b"first")], renew_at=time.time())
    async def renew(self):
        raise RuntimeError("renew")
    async def clean_up(self):
        raise RuntimeError("clean up")

class BreaksFirst(Breaking):
    name = "breaks-first"

class BreaksLater(Breaking):
    name = "breaks-later"
"""


@pytest.fixture(scope="module")
def site(sites: Sites, tmp_path_factory: pytest.TempPathFactory) -> Site:
    packages = tmp_path_factory.mktemp("packages")
    (packages / "breaking.py").write_text(BREAKING)
    (packages / "breaking-1.0.dist-info").mkdir()
    (packages / "breaking-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: breaking\nVersion: 1.0\n"
    )
    (packages / "breaking-1.0.dist-info" / "entry_points.txt").write_text(
        "[replay.features]\nbreaks-first = breaking:BreaksFirst\nbreaks-later = breaking:BreaksLater\n"
    )
    site = sites.start(
        settings={"FEATURES": "token,breaks-first,breaks-later,stations"}, environment={"PYTHONPATH": str(packages)}
    )
    site.checkin.controls.settings.exchanges_tokens = True
    return site


@pytest.fixture(scope="module")
def repo(site: Site) -> Repo:
    return site.repository("plain", {"README.md": "hello\n"})


@pytest.fixture
def ada(site: Site) -> Iterator[ApiClient]:
    client = site.client(ADA)
    yield client
    site.stop_server(ADA)
    site.checkin.controls.settings.access_token_seconds = 3600


def _environment(site: Site, launch: str) -> dict[str, str]:
    """Of the session's server."""
    found = [process for process in psutil.process_iter() if _of(process).get("REPLAY_LAUNCH") == launch]
    return min(found, key=lambda process: process.create_time()).environ()


def _of(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def _until(is_so: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := is_so()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.1)
    return found


def _userinfo(site: Site, token: str) -> httpx.Response:
    return httpx.get(
        f"{site.checkin.issuer}/protocol/openid-connect/userinfo", headers={"Authorization": f"Bearer {token}"}
    )


def test_the_token_works_is_renewed_in_time_and_given_back(site: Site, ada: ApiClient, repo: Repo) -> None:
    site.checkin.controls.settings.access_token_seconds = LIFE
    launch = ada.launch_and_wait(repo, features=["token"])["id"]
    environment = _environment(site, launch)
    file = Path(environment["REPLAY_ACCESS_TOKEN_FILE"])
    assert file.is_relative_to(site.state / "sessions" / launch), "in the launch's own folder"
    assert stat.S_IMODE(file.stat().st_mode) == 0o400
    first = file.read_text()
    assert first not in " ".join(environment.values()), "never in the environment"
    assert _userinfo(site, first).json()["voperson_id"] == ADA.voperson_id
    assert first not in site.log

    second = _until(lambda: (text := file.read_text()) != first and text)
    assert _userinfo(site, second).status_code == 200
    assert _userinfo(site, first).status_code == 200, "renewed before the one before it expired"
    third = _until(lambda: _userinfo(site, first).status_code == 401 and file.read_text(), 2 * LIFE)
    assert _userinfo(site, third).status_code == 200

    site.checkin.controls.settings.access_token_seconds = 3600
    last = _until(lambda: (text := file.read_text()) != third and text)
    site.stop_server(ADA)
    _until(lambda: _userinfo(site, last).status_code == 401)
    assert not file.exists()
    # The login's own is another: the hub still knows who Ada is, and starts another session for her.
    again = ada.launch_and_wait(repo, features=["token"])["id"]
    assert _userinfo(site, Path(_environment(site, again)["REPLAY_ACCESS_TOKEN_FILE"]).read_text()).status_code == 200


def test_who_did_not_ask_for_it_has_none(site: Site, ada: ApiClient, repo: Repo) -> None:
    launch = ada.launch_and_wait(repo)["id"]
    assert "REPLAY_ACCESS_TOKEN_FILE" not in _environment(site, launch)
    assert not (site.state / "sessions" / launch / "files").exists()


def test_a_provider_that_does_not_answer_keeps_no_session_from_starting(site: Site, ada: ApiClient, repo: Repo) -> None:
    site.checkin.controls.set_fault(Endpoint.TOKEN, 503)
    launch = ada.launch_and_wait(repo, features=["token"])["id"]
    site.checkin.controls.set_fault(Endpoint.TOKEN, None)
    file = Path(_environment(site, launch)["REPLAY_ACCESS_TOKEN_FILE"])
    assert not file.exists()
    assert _userinfo(site, _until(lambda: file.exists() and file.read_text(), 60)).status_code == 200


def test_features_that_break_harm_no_session(site: Site, ada: ApiClient, repo: Repo) -> None:
    launch = ada.launch_and_wait(repo, features=["breaks-first", "breaks-later", "token"])["id"]
    environment = _environment(site, launch)
    assert environment["BREAKING"] == "there"
    assert "breaks-first of launch" in site.log
    _until(lambda: "broke in renew" in site.log)
    assert (site.state / "sessions" / launch / "files/srv/thing/file").read_text() == "first", "what it has it keeps"
    assert Path(environment["REPLAY_ACCESS_TOKEN_FILE"]).exists()
    site.stop_server(ADA)
    _until(lambda: site.log.count("could not clean up") == 2)
    assert site.session_folders() == []


def test_the_session_says_what_made_it(site: Site, ada: ApiClient) -> None:
    repo = site.repository("told", {"README.md": "hello\n"})
    launch = ada.launch_and_wait(repo)
    (record,) = (site.state / "sessions" / launch["id"] / "home").glob("*/.replay/launch.json")
    told = json.loads(record.read_text())
    assert (told["launch"], told["commit"], told["vo"]) == (launch["id"], repo.commit, launch["vo"])
    assert told["repository"] == launch["repository"]


def test_a_repository_cannot_have_it_written_elsewhere(site: Site, ada: ApiClient, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    repo = site.repository("linked", {"README.md": "hello\n", ".replay": f"->{tmp_path / 'victim'}"})
    ada.launch_and_wait(repo)
    assert "launch.json" not in os.listdir(tmp_path / "victim")
    assert "launch.json is not put into the session" in site.log


def test_the_example_feature_gives_its_file(site: Site, ada: ApiClient, repo: Repo) -> None:
    environment = _environment(site, ada.launch_and_wait(repo, features=["stations"])["id"])
    assert environment["STATIONS"] == "Abisko,Jokioinen,Payerne"
    file = Path(environment["STATIONS_FILE"])
    assert file.parent.name == "stations"
    assert file.read_text().splitlines()[0] == "station,at,celsius"


def test_the_consent_page_asks_for_each_feature_and_says_what_it_means(site: Site, repo: Repo) -> None:
    with Visitor(site) as visitor:  # type: ignore[arg-type] # of a hub it asks only the url
        visitor.log_in(ADA)
        page = visitor.open(f"/services/replay/v2/{repo.spec}").text
    for words in ("An access token of yours for other services", "can act in your name", "weather stations"):
        assert words in page
    assert " checked" not in page.split("In the session")[1].split("</fieldset>")[0], "nothing is ticked by itself"


# The last: the service outlives its hub, and no browser logs in at it any more.
def test_a_hub_that_was_killed_goes_on_renewing(site: Site, ada: ApiClient, repo: Repo) -> None:
    site.checkin.controls.settings.access_token_seconds = LIFE
    launch = ada.launch_and_wait(repo, features=["token"])["id"]
    file = Path(_environment(site, launch)["REPLAY_ACCESS_TOKEN_FILE"])
    site.stop(signal_number=signal.SIGKILL)
    before = file.read_text()
    site.start()
    after = _until(lambda: (text := file.read_text()) != before and text)
    assert _userinfo(site, after).status_code == 200
    site.checkin.controls.settings.access_token_seconds = 3600
    last = _until(lambda: (text := file.read_text()) != after and text)
    site.stop_server(ADA)
    _until(lambda: _userinfo(site, last).status_code == 401)
