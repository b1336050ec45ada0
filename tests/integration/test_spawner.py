"""From a launch to a server and back to an ordinary one, at the hub itself, as processes."""

import asyncio
import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import httpx
import psutil
import pytest
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

from demo.people import ADA, DMITRI, Person
from replay_build_service.errors import Conflict
from replay_build_service.hub import HubClient
from tests.login_fixtures import Visitor
from tests.site import DEAD_SERVICES_ARE_STARTED_SOON, ORDINARY_SERVERS, ApiClient, Repo, Site, Sites, stopped

pytestmark = [pytest.mark.needs("proxy", "git-server"), pytest.mark.timeout(300)]

# The hub tells the outcome of a start in the answer to the request, and ends itself after a few faults in a row.
CONFIG = f"""
{ORDINARY_SERVERS}
{DEAD_SERVICES_ARE_STARTED_SOON}
c.JupyterHub.tornado_settings = {{"slow_spawn_timeout": 60}}
c.Spawner.consecutive_failure_limit = 3
"""

GIB = 1024**3


@dataclass
class House:
    """A site with one repository that is built, a launch of it that has ended, and Ada's program."""

    site: Site
    repo: Repo
    ada: ApiClient
    ended: str

    def session_of(self, person: Person = ADA) -> psutil.Process:
        """The process of the person's session."""
        (found,) = [
            process
            for process in self.site.processes()
            if "jupyterhub.singleuser" in process.cmdline()
            and process.environ().get("JUPYTERHUB_USER") == person.voperson_id
        ]
        return found

    def inside(self, method: str, path: str, **more: object) -> httpx.Response:
        """Ask Ada's running session, through the proxy."""
        server = self.site.server(ADA)
        assert server is not None
        headers = {"Authorization": f"token {self.ada.token}"}
        return httpx.request(method, f"{self.site.url}{server['url']}{path}", headers=headers, timeout=30, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def house(sites: Sites) -> House:
    site = sites.start(extra_config=CONFIG)
    repo = site.repository("plain", {"hello.txt": "from the repository\n"})
    site.client(DMITRI)
    ada = site.client(ADA)
    launch = ada.launch_and_wait(repo)
    site.stop_server(ADA)
    return House(site, repo, ada, launch["id"])


@pytest.fixture(autouse=True)
def no_server_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "house" in request.fixturenames:
        house: House = request.getfixturevalue("house")
        for person in (ADA, DMITRI):
            house.site.stop_server(person)


def sentence(response: httpx.Response) -> str:
    assert 400 <= response.status_code < 500, f"{response.status_code}: {response.text}"
    return response.json()["message"]


def assert_nothing_is_left(site: Site) -> None:
    assert site.server(ADA) is None
    assert site.session_folders() == []


def assert_a_plain_start_gives_the_ordinary_server(site: Site) -> None:
    assert site.ask_for_server(ADA).status_code == 201
    told = site.ordinary_server(ADA)
    assert [name for name in told["environment"] if name.startswith("REPLAY_") or name == "MEM_LIMIT"] == []
    assert told["environment"]["HOME"].startswith(f"{site.folder}/homes/")
    assert told["cwd"] == told["environment"]["HOME"]
    assert told["environment"].get("VIRTUAL_ENV", "").find(".replay") == -1
    site.stop_server(ADA)


# what is refused, and that nothing stays of it


def of_somebody_else(house: House) -> str:
    return house.site.waiting_launch(DMITRI, like=house.ended)


def consumed(house: House) -> str:
    return house.ended


def invented(house: House) -> str:
    return "0123456789abcdef" * 2


def too_old(house: House) -> str:
    return house.site.waiting_launch(ADA, like=house.ended, hub_asked_ago="11 minutes")


@pytest.mark.parametrize(
    ("launch", "said"),
    [
        (of_somebody_else, "There is no such launch of yours"),
        (invented, "There is no such launch of yours"),
        (consumed, "was used already, or it waited too long"),
        (too_old, "was used already, or it waited too long"),
    ],
)
def test_a_launch_that_is_not_ones_own_and_fresh_starts_nothing(
    house: House, launch: Callable[[House], str], said: str
) -> None:
    launch_id = launch(house)
    answer = sentence(house.site.ask_for_server(ADA, {"launch": launch_id}))
    assert said in answer
    assert "Open the repository's link again." in answer
    assert_nothing_is_left(house.site)
    assert_a_plain_start_gives_the_ordinary_server(house.site)


def test_ones_own_fresh_launch_starts_once(house: House) -> None:
    launch = house.site.waiting_launch(ADA, like=house.ended)
    assert house.site.ask_for_server(ADA, {"launch": launch}).status_code == 201
    server = house.site.server(ADA)
    assert server is not None
    assert server["user_options"] == {"launch": launch}
    assert house.site.session_folders() == [launch]
    house.site.stop_server(ADA)
    assert "was used already" in sentence(house.site.ask_for_server(ADA, {"launch": launch}))
    assert_nothing_is_left(house.site)


def test_the_hubs_own_page_of_a_start_that_was_refused_says_why(house: House) -> None:
    sentence(house.site.ask_for_server(ADA, {"launch": invented(house)}))
    with Visitor(house.site) as visitor:  # type: ignore[arg-type]
        visitor.log_in(ADA)
        page = visitor.open(f"/hub/spawn-pending/{ADA.voperson_id}")
    assert page.status_code == 403
    assert "There is no such launch of yours. Open the repository&#39;s link again." in page.text


@pytest.mark.parametrize(
    "body",
    [
        '{"launch": 5}',
        '{"launch": 0, "repo": "gh/o/r/HEAD"}',
        '{"launch": false}',
        '{"launch": ""}',
        '{"launch": ["00000000000000000000000000000000"]}',
        '{"launch": {"id": "00000000000000000000000000000000"}}',
        '{"launch": "../../etc/passwd"}',
        '{"launch": "\\ud800"}',
        '{"repo": 7}',
        '{"repo": []}',
        '{"repo": ["gh/o/r/HEAD"]}',
        '{"repo": ""}',
        '{"repo": "gh/o/r/\\ud800"}',
        '{"repo": "gh/o/r/\\u0000"}',
        '{"repo": "nowhere/o/r/HEAD"}',
        '{"repo": "gh/o/r/HEAD", "vo": 3}',
        '{"repo": "gh/o/r/HEAD", "urlpath": {"a": "b"}}',
        '{"repo": "gh/o/r/HEAD", "content": "gh/a/b/HEAD"}',
        json.dumps({"repo": "gh/o/r/" + "x" * 200_000}),
    ],
    ids=lambda body: body[:40],
)
def test_options_that_make_no_sense_are_refused_and_are_no_fault_of_the_hub(house: House, body: str) -> None:
    assert len(sentence(house.site.ask_for_server(ADA, body=body))) > 10
    assert_nothing_is_left(house.site)
    # The hub ends itself after three faults in a row.
    assert "consecutive spawns failed" not in house.site.log


def test_what_was_refused_is_not_what_the_next_start_uses(house: House) -> None:
    sentence(house.site.ask_for_server(ADA, {"launch": "0" * 32}))
    sentence(house.site.ask_for_server(ADA, {"repo": "gh/o/r/HEAD", "vo": "vo.unknown", "urlpath": "lab"}))
    assert_a_plain_start_gives_the_ordinary_server(house.site)


# a repository named straight to the hub


def test_a_repository_that_is_not_built_is_refused_with_where_to_go(house: House) -> None:
    unbuilt = house.site.repository("unbuilt", {"README.md": "not built\n"})
    answer = sentence(house.site.ask_for_server(ADA, {"repo": unbuilt.spec}))
    assert "not built yet" in answer
    assert "api/launches" in answer
    assert_nothing_is_left(house.site)
    assert house.site.rows("SELECT count(*) FROM builds WHERE fetch_url = ?", unbuilt.url) == [(0,)]


def test_a_repository_that_is_built_runs_and_is_on_record_as_a_launch(house: House) -> None:
    assert house.site.ask_for_server(ADA, {"repo": house.repo.spec, "urlpath": "lab"}).status_code == 201
    server = house.site.server(ADA)
    assert server is not None
    assert list(server["user_options"]) == ["launch"]
    launch_id = server["user_options"]["launch"]
    assert [event["phase"] for _, event in house.ada.events(launch_id)][-1] == "ready"
    launch = house.ada.get(launch_id)
    assert (launch["state"], launch["version"], launch["vo"]) == ("running", house.repo.commit, "vo.notebooks.egi.eu")
    assert house.inside("GET", "api/contents/hello.txt").json()["content"] == "from the repository\n"


def test_a_vo_that_one_is_not_in_is_refused(house: House) -> None:
    answer = sentence(house.site.ask_for_server(ADA, {"repo": house.repo.spec, "vo": "vo.access.egi.eu"}))
    assert "You are not in vo.access.egi.eu" in answer
    assert_nothing_is_left(house.site)


# an ordinary server after a launch's


def test_a_plain_start_after_a_launch_gives_the_ordinary_server(house: House) -> None:
    house.site.ask_for_server(ADA, {"launch": house.site.waiting_launch(ADA, like=house.ended)})
    house.site.stop_server(ADA)
    assert_a_plain_start_gives_the_ordinary_server(house.site)
    with Visitor(house.site) as visitor:  # type: ignore[arg-type]
        visitor.log_in(ADA)
        visitor.open("/hub/spawn")
    assert house.site.ordinary_server(ADA)["environment"]["JUPYTERHUB_USER"] == ADA.voperson_id


def test_where_servers_come_from_links_only_a_plain_start_leads_to_replay(new_site: Callable[..., Site]) -> None:
    site = new_site(settings={"ORDINARY_SERVERS": "0"}, extra_config=CONFIG)
    with Visitor(site) as visitor:  # type: ignore[arg-type]
        visitor.log_in(ADA)
        page = visitor.open("/hub/spawn")
        assert (page.status_code, page.url.path) == (200, "/services/replay/")
        form = urlencode({"_xsrf": visitor.xsrf_of_hub})
        refused = visitor.open_form(f"/hub/spawn?{form}", {})
        assert refused.status_code == 403
        assert "This hub starts servers from repositories only. Go to /services/replay/ and choose one." in refused.text
        assert "Forbidden" not in refused.text, "the sentence alone"
    answer = sentence(site.ask_for_server(ADA))
    assert "starts servers from repositories only" in answer
    assert "/services/replay/" in answer
    assert_nothing_is_left(site)


# the service does not answer


def test_a_link_opened_while_the_service_hangs_says_so_at_once(house: House) -> None:
    with Visitor(house.site) as visitor:  # type: ignore[arg-type]
        visitor.log_in(ADA)
        with stopped(house.site.service_process()):
            since = time.monotonic()
            page = visitor.open(f"/v2/{house.repo.spec}?labpath=a.ipynb")
            assert time.monotonic() - since < 8
        assert page.status_code == 503
        assert "Replay does not answer just now" in page.text
        assert house.repo.spec in page.text, "it can be tried again"
        number = re.search(r"this number: <code>([0-9a-f]{8})</code>", page.text)
        assert number, page.text
        assert f"Error {number[1]}: " in house.site.log
        # The same link, once the service is back.
        page = visitor.open(f"/v2/{house.repo.spec}?labpath=a.ipynb")
        assert page.status_code == 200
        assert house.repo.commit[:10] in page.text


def test_a_button_that_is_pressed_while_the_service_is_gone_says_so(house: House) -> None:
    """It is the proxy that answers then, with a page that it gets from the hub."""
    with Visitor(house.site) as visitor:  # type: ignore[arg-type]
        visitor.log_in(ADA)
        assert visitor.open(f"/v2/{house.repo.spec}").status_code == 200
        service = house.site.service_process()
        service.kill()
        service.wait(10)
        # The hub looks after its services each second, and one takes longer than these to start.
        pressed = visitor.open_form(
            "/services/replay/launches", {"repo": house.repo.spec, "version": house.repo.commit}
        )
        opened = visitor.open(f"/services/replay/v2/{house.repo.spec}")
        elsewhere = visitor.open("/hub/error/503?url=%2Fuser%2Fada%2F")
    for page in (pressed, opened):
        assert page.status_code == 503
        assert "Replay does not answer just now" in page.text
        assert "What you asked for just now has not started." in page.text
        assert "Your server appears to be down" not in page.text
    assert f'href="/services/replay/v2/{house.repo.spec}"' in opened.text, "it can be tried again"
    assert "Your server appears to be down" in elsewhere.text
    assert "Replay does not answer" not in elsewhere.text
    assert_nothing_is_left(house.site)
    house.site.until_it_answers(f"{house.site.url}/services/replay/health")


def test_a_link_that_cannot_be_understood_is_a_bad_request(house: House) -> None:
    page = httpx.get(f"{house.site.url}/v2/nowhere/o/r/HEAD", follow_redirects=True)
    assert page.status_code == 400
    assert "This link cannot be understood" in page.text


def test_an_ordinary_server_needs_no_service(house: House) -> None:
    with stopped(house.site.service_process()):
        assert_a_plain_start_gives_the_ordinary_server(house.site)


def test_a_launch_while_the_service_is_gone_is_refused_and_not_used_up(house: House) -> None:
    launch = house.site.waiting_launch(ADA, like=house.ended)
    house.site.service_process().kill()
    answer = sentence(house.site.ask_for_server(ADA, {"launch": launch}))
    assert answer.startswith("Replay's build service does not answer")
    assert_nothing_is_left(house.site)
    # The hub starts the service again, which goes on with the launch by itself.
    house.site.until_it_answers(f"{house.site.url}/services/replay/health")
    assert [event["phase"] for _, event in house.ada.events(launch)][-1] == "ready"


async def test_the_outcome_of_a_start_is_told_by_its_progress_where_the_hub_answers_before_it_is_known(
    sites: Sites,
) -> None:
    site = sites.start()
    site.client(ADA)
    assert site.ask_for_server(ADA, {"launch": "0" * 32}).status_code == 202
    async with HubClient(f"{site.url}/hub/api", site.admin_token) as hub:
        told = [progress async for progress in hub.progress(ADA.voperson_id, "")]
    assert told[-1].failed
    assert told[-1].message == "There is no such launch of yours. Open the repository's link again."
    assert_nothing_is_left(site)


async def test_the_service_hears_the_hubs_reason_as_a_sentence(house: House) -> None:
    async with HubClient(f"{house.site.url}/hub/api", house.site.admin_token) as hub:
        # With `slow_spawn_timeout = 0` the hub answers at once: before it knows, or just after.
        refused = ""
        try:
            await hub.start(ADA.voperson_id, "", "0" * 32)  # type: ignore[arg-type]
        except Conflict as error:
            refused = str(error)
        why = "There is no such launch of yours. Open the repository's link again."
        assert refused in {"", f"The hub did not start your server: {why}"}
        told = [progress async for progress in hub.progress(ADA.voperson_id, "")]
    assert told[-1].failed
    assert told[-1].message == why


# while it runs, and its end


def session(house: House) -> str:
    launch = house.ada.launch_and_wait(house.repo)["id"]
    assert house.site.session_folders() == [launch]
    return launch


def assert_it_has_ended(house: House, launch: str) -> None:
    assert_nothing_is_left(house.site)
    with Visitor(house.site) as visitor:  # type: ignore[arg-type]
        visitor.log_in(ADA)
        home = visitor.open("/services/replay/")
    assert home.status_code == 200
    assert house.ada.get(launch)["state"] == "ended"


def data_limit(process: psutil.Process) -> str:
    (line,) = [
        line
        for line in Path(f"/proc/{process.pid}/limits").read_text().splitlines()
        if line.startswith("Max data size")
    ]
    return line.split()[3]


@pytest.mark.needs("linux")
def test_a_session_and_what_it_starts_have_the_memory_that_was_promised(house: House) -> None:
    session(house)
    server = house.session_of()
    assert (server.environ()["MEM_GUARANTEE"], server.environ()["MEM_LIMIT"]) == (str(2 * GIB), str(4 * GIB))
    assert house.inside("POST", "api/kernels", json={"name": "python3"}).status_code == 201
    (kernel,) = server.children()
    assert [data_limit(process) for process in (server, kernel)] == [str(4 * GIB)] * 2


async def run_in_terminal(house: House, command: str) -> None:
    """Type a command into a new terminal and close it once the command has said ``done``."""
    name = house.inside("POST", "api/terminals").json()["name"]
    server = house.site.server(ADA)
    assert server is not None
    url = f"ws://127.0.0.1:{house.site.ports[0]}{server['url']}terminals/websocket/{name}"
    terminal = await websocket_connect(HTTPRequest(url, headers={"Authorization": f"token {house.ada.token}"}))
    await terminal.write_message(json.dumps(["stdin", f"{command}; printf 'do%s' ne\r"]))
    said = ""
    async with asyncio.timeout(30):
        while "done" not in said:
            message = await terminal.read_message()
            assert message is not None, said
            kind, *rest = json.loads(message)
            said += rest[0] if kind == "stdout" else ""
    terminal.close()
    assert house.inside("DELETE", f"api/terminals/{name}").status_code == 204


def of_session(house: House, launch: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            running = process.status() != psutil.STATUS_ZOMBIE
            if running and process.environ().get("REPLAY_LAUNCH") == launch:
                found.append(process)
    return found


def until_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.parametrize("by", ["a stop", "its server's own death"])
async def test_with_a_session_end_all_the_processes_that_it_started(house: House, by: str) -> None:
    launch = await asyncio.to_thread(session, house)
    assert house.inside("POST", "api/kernels", json={"name": "python3"}).status_code == 201
    await run_in_terminal(house, "sleep 1001 & setsid nohup sleep 1002 >/dev/null 2>&1 & sleep 0")
    started = of_session(house, launch)
    names = {" ".join(process.cmdline()) for process in started}
    assert "sleep 1002" in names, "it outlives its terminal"
    assert any("ipykernel" in name for name in names)
    if by == "a stop":
        await asyncio.to_thread(house.site.stop_server, ADA)
    else:
        house.session_of().kill()
        with Visitor(house.site) as visitor:  # type: ignore[arg-type]
            visitor.log_in(ADA)
            visitor.open("/hub/home")  # the hub looks after the server of whoever comes home
    until_gone(started)
    assert_it_has_ended(house, launch)
    assert_a_plain_start_gives_the_ordinary_server(house.site)


def test_a_session_outlives_a_restart_of_the_hub(house: House) -> None:
    launch = session(house)
    server = house.session_of()
    house.site.stop()
    assert server.is_running()
    house.site.start()
    assert house.session_of() == server
    assert house.inside("GET", "api/contents/hello.txt").json()["content"] == "from the repository\n"
    assert house.ada.get(launch)["state"] == "running"
    house.site.stop_server(ADA)
    until_gone([server])
    assert_it_has_ended(house, launch)
    assert_a_plain_start_gives_the_ordinary_server(house.site)


def test_a_session_that_died_while_the_hub_was_away_is_cleaned_up_after(house: House) -> None:
    launch = session(house)
    server = house.session_of()
    house.site.stop(signal_number=signal.SIGTERM)
    server.kill()
    until_gone([server])
    house.site.start()
    assert_it_has_ended(house, launch)


def test_a_repository_whose_server_does_not_start_is_no_fault_of_the_hub(house: House) -> None:
    """What the repository brings may break the server: the person is told what it said."""
    broken = house.site.repository(
        "broken",
        {
            "requirements.txt": "",
            "postBuild": "#!/bin/sh\n"
            "site=$(python -c 'import sysconfig; print(sysconfig.get_path(\"purelib\"))')\n"
            'printf \'raise SystemExit("Error: broken on purpose")\\n\' > "$site/jupyterhub/singleuser/__init__.py"\n',
        },
        executable=("postBuild",),
    )
    launched = house.ada.launch(broken).json()["id"]
    last = list(house.ada.events(launched))[-1][1]
    assert last["phase"] == "failed"
    assert "broken on purpose" in last["message"]
    for _ in range(3):
        launch = house.site.waiting_launch(ADA, like=launched)
        assert "The session's server ended at once" in sentence(house.site.ask_for_server(ADA, {"launch": launch}))
    assert_nothing_is_left(house.site)
    assert "consecutive spawns failed" not in house.site.log


def test_a_file_that_cannot_be_copied_is_no_fault_of_the_hub(house: House) -> None:
    odd = house.site.repository("odd", {"postBuild": "#!/bin/sh\nmkfifo a-pipe\n"}, executable=("postBuild",))
    last = list(house.ada.events(house.ada.launch(odd).json()["id"]))[-1][1]
    assert last["phase"] == "failed"
    assert str(house.site.folder) not in last["message"]
    assert_nothing_is_left(house.site)
    assert "consecutive spawns failed" not in house.site.log


def test_a_repository_may_have_the_name_of_a_file_of_ours(house: House) -> None:
    named = house.site.repository("server.log", {"README.md": "a name\n"})
    launch = house.ada.launch_and_wait(named)
    assert launch["state"] == "running"
    house.site.stop_server(ADA)
    assert_nothing_is_left(house.site)
