"""What a person made comes down as one archive while the session runs: a real session, read with the person's own rights."""

import html
import io
import json
import os
import re
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo.people import ADA, DMITRI, Person
from tests.login_fixtures import Visitor
from tests.site import ApiClient, Site, Sites

pytestmark = [pytest.mark.needs("proxy", "git-server"), pytest.mark.timeout(300)]

MB = 1024**2

# A repository's own code, in the session's server, that writes down what others show when they come.
NOSY = """
from tornado import web
_find_handler = web.Application.find_handler
def find_handler(self, request, **more):
    with open(".shown", "a") as shown:
        print(request.headers.get("Authorization", ""), request.headers.get("Cookie", ""), file=shown)
    return _find_handler(self, request, **more)
web.Application.find_handler = find_handler
"""
FILES = {
    "README.md": "from the repository\n",
    "data/a.csv": "1,2\n",
    "datahub/own.txt": "a repository's own\n",
    "to-readme.md": "->README.md",
    ".jupyter/jupyter_server_config.py": NOSY,
    "dangling": "->nowhere",
}


@dataclass
class Running:
    """Ada's session, seen from everywhere."""

    site: Site
    ada: ApiClient
    dmitri: ApiClient
    browser: Visitor
    link: str
    launch: str
    folder: Path

    def download(self, **headers: str) -> httpx.Response:
        return self.browser._client.get(self.address, headers=headers)

    @property
    def address(self) -> str:
        return f"{self.site.url}/services/replay/launches/{self.launch}/work"

    def reading(self, client: ApiClient, launch: str = "", person: Person = ADA, **more: Any) -> httpx.Response:
        """The hub's door itself."""
        body = more.pop("json", {"launch": launch or self.launch})
        url = f"{self.site.url}/hub/api/replay/sessions/{person.voperson_id}/reading"
        return httpx.post(url, json=body, headers={"Authorization": f"token {client.token}"}, timeout=30, **more)

    def tokens(self) -> list[dict[str, Any]]:
        """Ada's, that were made to read her session."""
        found = self.site.admin("GET", f"/users/{ADA.voperson_id}/tokens").json()["api_tokens"]
        return [token for token in found if token["note"].startswith("Replay reads")]


@pytest.fixture(scope="module")
def running(sites: Sites) -> Iterator[Running]:
    site = sites.start()
    dmitri = site.client(DMITRI)
    ada = site.client(ADA)
    repo = site.repository("my.work", FILES)
    launch = ada.launch_and_wait(repo, urlpath="lab/tree/README.md")["id"]
    with Visitor(site) as browser:  # type: ignore[arg-type] # of a hub it asks only the url
        browser.log_in(ADA)
        assert "Running now" in browser.open("/services/replay/").text
        yield Running(site, ada, dmitri, browser, f"/v2/{repo.spec}", launch, site.state / "sessions" / launch)


def opened(response: httpx.Response) -> dict[str, bytes]:
    """The files of an archive, by their names below its one folder."""
    assert response.status_code == 200, response.text
    archive = zipfile.ZipFile(io.BytesIO(response.content))
    assert archive.testzip() is None
    folders = {name.split("/")[0] for name in archive.namelist()}
    assert len(folders) == 1
    (folder,) = folders
    return {name.removeprefix(f"{folder}/"): archive.read(name) for name in archive.namelist() if name[-1] != "/"}


def test_a_browser_gets_all_that_jupyter_shows_and_is_told_of_the_rest(running: Running) -> None:
    home = next(path.parent for path in running.folder.rglob("README.md"))
    (home / "résumé 日本 #1?.ipynb").write_text("{}")
    (home / "100%.txt").write_text("percent")
    (home / ".hidden").write_text("hidden")
    (home / "round").symlink_to(home, target_is_directory=True)
    (home / "data" / "up").symlink_to(home, target_is_directory=True)
    os.mkfifo(home / "pipe")
    Path(os.fsdecode(os.fsencode(home) + b"/caf\xe9.txt")).write_text("bytes")
    try:
        response = running.download()
    finally:
        for name in ("round", "data/up", "pipe", ".hidden"):
            (home / name).unlink()
        os.unlink(os.fsencode(home) + b"/caf\xe9.txt")
    assert response.headers["Content-Type"] == "application/zip"
    assert response.headers["Content-Disposition"].startswith('attachment; filename="my.work-')
    assert response.headers["Cache-Control"] == "no-store"
    files = opened(response)
    told = files.pop("NOT-ALL-IS-HERE.txt").decode()
    assert {name: content.decode() for name, content in files.items()} == {
        "README.md": "from the repository\n",
        "to-readme.md": "from the repository\n",
        "data/a.csv": "1,2\n",
        "datahub/own.txt": "a repository's own\n",
        "résumé 日本 #1?.ipynb": "{}",
        "100%.txt": "percent",
    }
    assert "round: it is a link to a folder above it." in told
    assert "data/up: it is a link to a folder above it." in told
    assert "caf" in told


def test_the_session_says_what_made_it_as_the_api_does(running: Running) -> None:
    launch = running.ada.get(running.launch)
    home = next(path.parent for path in running.folder.rglob("README.md"))
    record = json.loads((home / ".replay" / "launch.json").read_text())
    started_at = datetime.fromisoformat(record.pop("started_at"))
    assert timedelta(0) <= datetime.now(UTC) - started_at < timedelta(minutes=10)
    assert record == {
        "launch": running.launch,
        "link": running.link,
        "urlpath": "lab/tree/README.md",
        "repository": launch["repository"],
        "commit": launch["version"],
        "content": launch["content"],
        "image": launch["image"],
        "build": launch["build"],
        "vo": launch["vo"],
        "created_at": launch["created_at"],
    }
    assert launch["build"]
    (environment,) = [
        process.environ()
        for process in running.site.processes()
        if "jupyterhub.singleuser" in process.cmdline() and "REPLAY_LAUNCH" in process.environ()
    ]
    told = {
        name: environment[f"REPLAY_{name}"]
        for name in ["LAUNCH", "LINK", "REPOSITORY", "COMMIT", "IMAGE", "BUILD", "VO"]
    }
    assert told == {name: record[name.lower()] for name in told}


def test_a_large_file_goes_through_and_is_not_held(running: Running) -> None:
    home = next(path.parent for path in running.folder.rglob("README.md"))
    service = running.site.service_process()
    large = home / "large.bin"
    large.write_bytes(os.urandom(60 * MB))
    before, peak, done = service.memory_info().rss, [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], service.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        files = opened(running.download())
    finally:
        done.set()
        watching.join()
    assert files["large.bin"] == large.read_bytes()
    large.unlink()
    assert peak[0] - before < 25 * MB


def test_a_person_has_one_download_at_a_time_and_who_gives_up_frees_it(running: Running) -> None:
    home = next(path.parent for path in running.folder.rglob("README.md"))
    large = home / "large.bin"
    large.write_bytes(os.urandom(30 * MB))
    try:
        with running.ada.http.stream("GET", running.address) as taking:
            assert taking.status_code == 200
            second = running.download()
            assert second.status_code == 429
            assert "A download of your work runs already" in second.text
    finally:
        large.unlink()
    deadline = time.monotonic() + 30
    while running.download().status_code != 200:
        assert time.monotonic() < deadline, "the download that was given up still counts"
        time.sleep(0.2)


def test_what_a_session_writes_down_of_a_download_opens_nothing_else(running: Running) -> None:
    home = next(path.parent for path in running.folder.rglob("README.md"))
    (home / ".shown").write_text("")
    assert running.download().status_code == 200
    shown = (home / ".shown").read_text().split()
    tokens = {word for word in shown if word != "token"}
    assert shown.count("token") >= 6, "the listings and files of the download"
    assert len(tokens) == 1, "one token, and no cookie"
    (token,) = tokens
    answer = httpx.post(
        f"{running.site.url}/services/replay/api/launches",
        json={"repo": "gh/o/r/HEAD"},
        headers={"Authorization": f"token {token}"},
    )
    assert answer.status_code == 403


def test_what_the_session_is_shown_opens_the_session_alone_and_not_for_long(running: Running) -> None:
    answer = running.reading(running.ada)
    assert answer.status_code == 200, answer.text
    way = answer.json()
    with httpx.Client(headers={"Authorization": f"token {way['token']}"}) as stranger:
        listed = stranger.get(f"{way['url']}api/contents")
        assert listed.status_code == 200
        assert "README.md" in listed.text
        # What a stranger's code in the session would make of it.
        launches = stranger.post(f"{running.site.url}/services/replay/api/launches", json={"repo": "gh/o/r/HEAD"})
        assert launches.status_code == 403
        assert stranger.get(running.address, follow_redirects=False).status_code in {302, 403}
        assert stranger.get(f"{running.site.url}/hub/api/users/{ADA.voperson_id}/tokens").status_code in {403, 404}
        for server in ("server", "reading"):
            url = f"{running.site.url}/hub/api/users/{ADA.voperson_id}/{server}"
            assert stranger.post(url).status_code in {403, 404}
        again = stranger.post(str(answer.request.url), json={"launch": running.launch})
        assert again.status_code in {403, 404}, "it gives no other way in"
    for token in running.tokens():
        # The hub adds that it may ask whose it is.
        beyond = [scope for scope in token["scopes"] if not scope.startswith("read:users:")]
        assert beyond == [f"access:servers!server={ADA.voperson_id}/"]
        assert token["expires_at"] is not None


def test_the_door_is_for_who_may_open_that_very_session(running: Running) -> None:
    assert running.reading(running.dmitri).status_code in {403, 404}
    assert running.reading(running.ada, "0" * 32).status_code == 404
    assert running.reading(running.dmitri, person=DMITRI).status_code == 404, "no session of his runs"
    assert running.reading(running.ada, json={"launch": 7}).status_code == 400
    nobody = httpx.post(str(running.reading(running.ada).request.url), json={"launch": running.launch})
    assert nobody.status_code == 403
    browser = running.browser._client.post(
        str(nobody.request.url), json={"launch": running.launch}, headers={"X-XSRFToken": running.browser.xsrf_of_hub}
    )
    assert browser.status_code == 403, "a cookie is no token"


def test_a_token_that_does_not_open_servers_reads_nothing(running: Running) -> None:
    """So does a browser's, where the hub's configuration lets the service do nothing there in people's name."""
    scopes = ["access:services!service=replay", "read:users:name!user"]
    made = running.site.admin("POST", f"/users/{ADA.voperson_id}/tokens", json={"note": "narrow", "scopes": scopes})
    answer = httpx.get(running.address, headers={"Authorization": f"token {made.json()['token']}"})
    assert answer.status_code == 403
    assert "access:servers!user" in answer.json()["message"]
    assert "Log out and in again" in answer.json()["message"]


def test_a_page_of_somebody_elses_cannot_cause_a_download(running: Running) -> None:
    before = len(running.tokens())
    assert running.download(**{"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert len(running.tokens()) == before


def test_of_a_session_that_has_ended_there_is_nothing(running: Running) -> None:
    assert running.dmitri.http.get(running.address).status_code == 404
    running.site.stop_server(ADA)
    gone = running.ada.http.get(running.address)
    assert gone.status_code == 409
    assert "so there is nothing" in gone.json()["message"]
    page = running.download()
    assert page.status_code == 409
    assert "so there is nothing" in page.text


def test_each_of_the_last_launches_is_one_click_from_its_consent_page(running: Running) -> None:
    running.site.stop_server(ADA)
    home = running.browser.open("/services/replay/").text
    (link,) = set(re.findall(r'href="(/v2/[^"]+)"', home))
    consent = running.browser.open(html.unescape(link))
    assert consent.status_code == 200
    launch = running.ada.get(running.launch)
    assert f'value="{launch["version"]}"' in consent.text
    assert 'value="lab/tree/README.md"' in consent.text
