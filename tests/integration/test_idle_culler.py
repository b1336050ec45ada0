"""A session that nobody uses ends by itself, and one that is used does not: on a real hub, with its real culler."""

import asyncio
import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect
from traitlets.config.loader import PyFileConfigLoader

from demo.people import ADA, CHIARA, DMITRI, FARAH, Person
from tests.login_fixtures import Visitor
from tests.requirements import ROOT
from tests.site import ApiClient, Repo, Site, Sites
from tests.terminals import opened, typed

IDLE_SECONDS = 10
UNTIL_TOLD = """
import os, time
while not os.path.exists("stop"):
    time.sleep(0.2)
"""


def test_a_session_ends_after_an_hour_without_activity_where_nothing_else_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLAY_STATE_DIR", str(tmp_path))
    monkeypatch.delenv("REPLAY_IDLE_SECONDS", raising=False)
    monkeypatch.setenv("REPLAY_OIDC_CLIENT_ID", "none")
    monkeypatch.setenv("REPLAY_OIDC_CLIENT_SECRET_FILE", str(tmp_path / "secret"))
    (tmp_path / "secret").write_text("none")
    config = PyFileConfigLoader("jupyterhub_config.py", path=str(ROOT)).load_config()
    (culler,) = [service for service in config.JupyterHub.services if service["name"] == "idle-culler"]
    assert "--timeout=3600" in culler["command"]
    assert "--cull-every=120" in culler["command"], "a fifth of the ten minutes for which people are warned"
    assert not [word for word in culler["command"] if "max-age" in word], "a session that is used has no limit"


class Session:
    """A person's session of a repository, asked through the proxy as a browser does."""

    def __init__(self, house: "House", person: Person) -> None:
        self.site = site = house.site
        self.person = person
        self.client: ApiClient = site.client(person)
        vo = "vo.access.egi.eu" if person is FARAH else "vo.notebooks.egi.eu"
        self.launch: str = self.client.launch_and_wait(house.repository, vo=vo)["id"]
        self.started = time.monotonic()
        server = site.server(person)
        assert server is not None
        self.url = f"{site.url}{server['url']}"
        self.headers = {"Authorization": f"token {self.client.token}"}

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        return httpx.request(method, f"{self.url}{path}", headers=self.headers, timeout=30, **more)

    @property
    def runs(self) -> bool:
        return self.site.server(self.person) is not None

    def new_kernel(self) -> str:
        made = self.ask("POST", "api/kernels", json={"name": "python3"})
        assert made.status_code == 201, made.text
        return made.json()["id"]

    def new_terminal(self) -> str:
        return self.ask("POST", "api/terminals").json()["name"]

    def until(self, what: str, deadline: float) -> None:
        """Until its kernel or terminal list, or its end, is as named."""
        while self.runs:
            assert time.monotonic() < deadline, f"{what}: nobody ended the session"
            time.sleep(0.1)


async def execute_and_leave(session: Session, kernel: str, code: str) -> None:
    """Run a cell, and close the page once the kernel is busy with it."""
    url = f"ws{session.url.removeprefix('http')}api/kernels/{kernel}/channels?session_id={uuid.uuid4().hex}"
    header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "username": "", "session": uuid.uuid4().hex, "date": datetime.now(UTC).isoformat(), "version": "5.3"}  # fmt: skip
    content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
    connection = await websocket_connect(HTTPRequest(url, headers=session.headers))
    request = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
    await connection.write_message(json.dumps(request))
    async with asyncio.timeout(30):
        while True:
            message = await connection.read_message()
            assert message is not None
            told = json.loads(message)
            if told["parent_header"].get("msg_id") == header["msg_id"] and told["msg_type"] == "execute_input":
                break
    connection.close()


async def type_in_terminal(session: Session, name: str, text: str, until: str) -> None:
    """Type, see what is printed, and close the page."""
    terminal = await opened(session.url, session.headers, name)
    await typed(terminal, text, until)
    terminal.close()


@contextmanager
def polled(session: Session, path: str) -> Iterator[list[int]]:
    """Asked again and again, as an open page does; the statuses that came."""
    statuses: list[int] = []
    over = threading.Event()

    def poll() -> None:
        with httpx.Client(headers=session.headers, timeout=30) as http:
            while not over.wait(0.3):
                statuses.append(http.get(f"{session.url}{path}").status_code)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield statuses
    finally:
        over.set()
        thread.join()


@dataclass(frozen=True)
class House:
    """A site, and the repository that everybody launches."""

    site: Site
    repository: Repo


@pytest.fixture(scope="module")
def house(sites: Sites) -> House:
    # The hub asks its proxy for what was used each five minutes; here it must know sooner.
    site = sites.start(
        settings={"IDLE_SECONDS": str(IDLE_SECONDS)},
        extra_config="c.JupyterHub.last_activity_interval = 1; c.Spawner.http_timeout = 120",
    )
    return House(site, site.repository("plain", {"README.md": "hello\n"}))


@pytest.mark.needs("proxy", "git-server")
async def test_a_silent_cell_goes_on_and_an_idle_kernel_under_a_forgotten_page_ends(house: House) -> None:
    silent = Session(house, ADA)
    await execute_and_leave(silent, silent.new_kernel(), UNTIL_TOLD)
    silent_since = time.monotonic()

    forgotten = Session(house, CHIARA)
    forgotten.new_kernel()
    with polled(forgotten, "api/kernels") as statuses:
        forgotten.until("an idle kernel under a forgotten page", time.monotonic() + 8 * IDLE_SECONDS)
    assert statuses.count(200) > 5, "it was open"

    await asyncio.sleep(max(0, silent_since + 3.2 * IDLE_SECONDS - time.monotonic()))
    assert silent.runs, "a cell that prints nothing was ended"
    file = {"type": "file", "format": "text", "content": ""}
    assert silent.ask("PUT", "api/contents/stop", json=file).status_code == 201
    silent.until("a cell that is done", time.monotonic() + 8 * IDLE_SECONDS)
    assert "Could not find out whether" not in house.site.log


@pytest.mark.one_hub_version
@pytest.mark.needs("proxy", "git-server", "linux")
async def test_a_program_in_a_terminal_goes_on_and_traffic_counts_without_kernels(house: House) -> None:
    in_terminal = Session(house, DMITRI)
    terminal = in_terminal.new_terminal()
    await type_in_terminal(in_terminal, terminal, "sh -c 'echo $((40 + 2)); exec sleep 1000'\r", "42")
    typed_at = time.monotonic()

    traffic = Session(house, FARAH)
    with polled(traffic, "api/contents/README.md") as statuses:
        while time.monotonic() < traffic.started + 2 * IDLE_SECONDS:
            assert traffic.runs, "a session without a kernel was ended while it was used"
            await asyncio.sleep(0.3)
    assert set(statuses) == {200}
    traffic.until("a session without kernels that nobody asks", time.monotonic() + 8 * IDLE_SECONDS)

    await asyncio.sleep(max(0, typed_at + 3.2 * IDLE_SECONDS - time.monotonic()))
    assert in_terminal.runs, "what ran in a terminal was ended"
    # What is typed right behind it would be thrown away with it.
    await type_in_terminal(in_terminal, terminal, "\x03", "^C")
    await type_in_terminal(in_terminal, terminal, "echo $((40 + 3))\r", "43")
    in_terminal.until("a shell at its prompt", time.monotonic() + 8 * IDLE_SECONDS)
    assert house.site.session_folders() == []
    assert "Could not find out whether" not in house.site.log


@pytest.mark.one_hub_version
@pytest.mark.needs("proxy", "git-server")
def test_who_is_warned_can_stay(house: House) -> None:
    site = house.site
    session = Session(house, ADA)
    session.new_kernel()
    deadline = time.monotonic() + 4 * IDLE_SECONDS
    while not (told := session.client.http.get("api/session").json())["ends_at"]:
        assert session.runs, "it ended without a warning"
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert told["launch"] == session.launch
    assert f"{IDLE_SECONDS} seconds" in told["sentence"]
    with Visitor(site) as visitor:  # type: ignore[arg-type] # of a hub it asks only the url
        visitor.log_in(ADA)
        for page in ("/services/replay/", f"/services/replay/launches/{session.launch}"):
            assert "Download my work" in visitor.open(page).text

    stays_at = time.monotonic()
    somebody_else = site.client(CHIARA)
    assert somebody_else.http.post(f"api/launches/{session.launch}/stay").status_code == 404
    assert session.client.http.post(f"api/launches/{session.launch}/stay").status_code == 204
    assert session.client.http.get("api/session").json()["ends_at"] is None
    session.until("a session that was kept", time.monotonic() + 6 * IDLE_SECONDS)
    assert time.monotonic() > stays_at + IDLE_SECONDS - 1, "it was kept"
    with Visitor(site) as visitor:  # type: ignore[arg-type]
        visitor.log_in(ADA)
        visitor.open("/services/replay/")
    assert session.client.get(session.launch)["state"] == "ended"
    assert session.client.http.post(f"api/launches/{session.launch}/stay").status_code == 409
    assert site.rows("SELECT * FROM session_ends WHERE launch_id = ?", session.launch) == []


@pytest.mark.one_hub_version
@pytest.mark.needs("proxy", "git-server")
def test_jupyterlab_tells_of_its_person_and_is_told_of_the_end(house: House) -> None:
    session = Session(house, DMITRI)
    session.new_kernel()
    section: dict[str, Any] = {}
    acts_until = time.monotonic() + 1.5 * IDLE_SECONDS
    while time.monotonic() < acts_until:
        assert session.runs, "it was ended although its person types"
        report = {"person_at": datetime.now(UTC).isoformat(), "lab": True}
        assert session.ask("PATCH", "api/config/replay_activity", json=report).status_code == 200
        time.sleep(1)
    while session.runs and not section.get("ends_at"):
        answer = session.ask("GET", "api/config/replay_session")
        section = answer.json() if answer.status_code == 200 else section
        assert time.monotonic() < acts_until + 6 * IDLE_SECONDS
        time.sleep(0.2)
    assert section["launch"] == session.launch
    assert section["service"] == "/services/replay/"
    assert section["limit"] == IDLE_SECONDS
    left = datetime.fromisoformat(section["ends_at"]) - datetime.now(UTC)
    assert -2 < left.total_seconds() <= IDLE_SECONDS / 2
    session.until("a session whose person has gone", acts_until + 6 * IDLE_SECONDS)


@pytest.mark.needs("proxy", "git-server")
def test_the_hub_gives_the_culler_a_token_for_one_server_and_a_moment(house: House) -> None:
    site = house.site
    session = Session(house, FARAH)
    server = site.server(FARAH)
    assert server is not None
    door = f"{site.url}/hub/api/replay/users/{FARAH.voperson_id}/server/reading"
    opened = httpx.post(door, headers=session.headers).json()
    narrow = {"Authorization": f"token {opened['token']}"}
    assert httpx.get(f"{opened['address']}api/kernels", headers=narrow).status_code == 200
    about = httpx.get(f"{site.url}/hub/api/user", headers=narrow).json()
    assert [scope for scope in about["scopes"] if not scope.startswith("read:")] == [
        f"access:servers!server={FARAH.voperson_id}/"
    ]
    assert httpx.post(door, headers=narrow).status_code == 403, "with what a session saw nobody comes back for more"
    assert httpx.get(f"{site.url}/hub/api/users", headers=narrow).status_code == 403
    other = httpx.post(door, headers={"Authorization": f"token {site.client(CHIARA).token}"})
    assert other.status_code in {403, 404}
    session.site.stop_server(FARAH)
    assert httpx.post(door, headers=session.headers).status_code == 404
