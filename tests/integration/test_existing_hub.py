"""A hub that was there before: with Replay added, whatever its people and its admin did before goes as it went.

Each case is done on two hubs with the same configuration, one of which also has Replay, and what comes of it is compared:
all of an ordinary server's environment, its command, its folder, what the hub keeps of it, what the pages show.
"""

import json
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.login_fixtures import free_ports
from tests.requirements import ROOT
from tests.site import ORDINARY_SERVERS, UV_CACHE, until_it_answers

pytestmark = pytest.mark.needs("proxy")

# What an admin has by now: a login of their own, a spawner class of their own with profiles, hooks, defaults.
ADMINS_OWN = f"""
import os
from jupyterhub.spawner import SimpleLocalProcessSpawner
from traitlets import Unicode

class AdminsSpawner(SimpleLocalProcessSpawner):
    profile = Unicode("small")
    extra = Unicode("")

    def _options_form_default(self):
        return "Choose: <select name=profile><option>small<option>gpu</select> <input name=repo> <input name=launch value=now>"

    def get_env(self):
        return super().get_env() | {{"PROFILE": self.profile, "EXTRA": self.extra, "HOOK": getattr(self, "hooked", "")}}

async def hook(spawner):
    spawner.hooked = f"{{spawner.user.name}} {{sorted(spawner.user_options.items())}}"
    spawner.environment = spawner.environment | {{"SET_BY_HOOK": spawner.profile}}

c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.spawner_class = AdminsSpawner
c.JupyterHub.tornado_settings = {{"slow_spawn_timeout": 60}}
{ORDINARY_SERVERS}
c.Spawner.options_from_form = "simple"
c.Spawner.environment = {{"OF_ALL": "the admin's", "COUNTED": lambda spawner: str(len(spawner.name))}}
c.Spawner.pre_spawn_hook = hook
c.Spawner.default_url = "/tree"
c.Spawner.mem_limit = "512M"
"""

HOOKS = {
    "callable": """
async def choose(spawner, options):
    if options.get("profile") == "broken":
        raise ValueError("there is no such profile")
    spawner.profile = options.get("profile", "small")
    spawner.extra = ",".join(f"{name}={value}" for name, value in sorted(options.items()))
c.Spawner.apply_user_options = choose
""",
    "dict": """
c.Spawner.apply_user_options = {"profile": "profile", "repo": "extra", "broken": "mem_limit"}
""",
}

REPLAY = """
import sys
from replay_spawner import ReplayLocalSpawner, link_handlers

class WithReplay(ReplayLocalSpawner, AdminsSpawner):
    pass

c.JupyterHub.spawner_class = WithReplay
c.ReplayMixin.replay_service_url = "{service}/services/replay/"
c.JupyterHub.services.append({{
    "name": "replay", "url": "{service}", "oauth_no_confirm": True,
    "command": [sys.executable, "-m", "replay_build_service.app", "run", "--config", __file__],
    "environment": {{name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}},
}})
c.JupyterHub.load_roles.append({{"name": "user", "scopes": ["self", "access:services!service=replay"]}})
c.JupyterHub.load_roles.append(
    {{"name": "replay", "services": ["replay"], "scopes": ["servers", "read:servers", "read:users:name", "read:users:groups"]}}
)
c.JupyterHub.extra_handlers = link_handlers("{service}/services/replay/", "replay-state/service_token")
c.ReplayBuildService.vos = {{"researchers": "https://groups.example.org/join?a=b&c=d"}}
c.ReplayBuildService.uv_cache_dir = "{uv_cache}"
"""


@dataclass
class Hub:
    """A hub's process, and a browser in which Maria is logged in."""

    folder: Path
    hook: str
    with_replay: bool
    extra: str = ""
    ports: tuple[int, ...] = field(default_factory=lambda: free_ports(4))
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    browser: httpx.Client = field(init=False)
    _process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        public, own, proxy_api, service = self.ports
        replay = REPLAY.format(service=f"http://127.0.0.1:{service}", uv_cache=UV_CACHE) if self.with_replay else ""
        (self.folder / "jupyterhub_config.py").write_text(
            f"""
c.JupyterHub.bind_url = "http://127.0.0.1:{public}"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{own}"
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy_api}"
c.ConfigurableHTTPProxy.command = ["node", "{ROOT}/node_modules/configurable-http-proxy/bin/configurable-http-proxy"]
c.JupyterHub.services = [{{"name": "tester", "api_token": "{self.token}"}}]
c.JupyterHub.load_roles = [
    {{"name": "tester", "services": ["tester"], "scopes": ["admin:users", "admin:servers", "tokens", "list:services"]}}
]
{ADMINS_OWN}{HOOKS[self.hook]}{replay}{self.extra}"""
        )
        log = self.folder / "hub.log"
        with log.open("ab") as output:
            command = [sys.executable, "-m", "jupyterhub"]
            self._process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        until_it_answers(f"{self.url}/hub/health", self._process, log)
        if self.with_replay:
            until_it_answers(f"{self.url}/services/replay/health", self._process, log)
        self.browser = httpx.Client(
            base_url=self.url, timeout=60, follow_redirects=True, headers={"Sec-Fetch-Mode": "navigate"}
        )
        page = self.browser.get("/hub/login")
        self.browser.post("/hub/login", data={"username": "maria", "password": "", "_xsrf": xsrf_in(page)})
        assert self.api("GET", "").status_code == 200

    def api(self, method: str, path: str, content: str | None = None) -> httpx.Response:
        """The hub's REST API about Maria."""
        headers = {"Authorization": f"token {self.token}"}
        return httpx.request(
            method, f"{self.url}/hub/api/users/maria{path}", headers=headers, content=content, timeout=60
        )

    def server(self) -> dict[str, Any] | None:
        return self.api("GET", "").json()["servers"].get("")

    def stop_server(self) -> None:
        self.api("DELETE", "/server")
        deadline = time.monotonic() + 30
        while self.server() is not None:
            assert time.monotonic() < deadline, "the server did not stop"
            time.sleep(0.05)

    def close(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        self.browser.close()
        below = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(40)
        for process in below:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    # what came of it

    def outcome(self, response: httpx.Response) -> dict[str, Any]:
        """All that can be seen of a start, without what differs from one start to the next of one hub."""
        seen: dict[str, Any] = {"status": response.status_code, "path": response.url.path}
        server = self.server()
        if server is None:
            seen["said"] = (
                response.json()["message"] if "json" in response.headers["Content-Type"] else form_in(response)
            )
            return self.alike(seen)
        told = httpx.get(f"{self.url}/user/maria/how-it-was-started").json()
        for name in ("JUPYTERHUB_API_TOKEN", "JPY_API_TOKEN", "JUPYTERHUB_COOKIE_HOST_PREFIX_ENABLED"):
            told["environment"].pop(name, None)
        # Whether a start is still under way when its answer comes is a matter of how busy the machine is.
        seen["path"] = seen["path"].replace("/hub/spawn-pending/maria", "/user/maria/")
        return self.alike(seen | told | {"user_options": server["user_options"]})

    def alike(self, seen: dict[str, Any]) -> dict[str, Any]:
        text = json.dumps(seen).replace(str(self.folder), "FOLDER")
        for number, port in enumerate(self.ports):
            text = text.replace(f":{port}", f":PORT-{number}")
        text = re.sub(r"(http://127\.0\.0\.1:)\d+", r"\1OWN-PORT", text)
        return json.loads(text)


def xsrf_in(page: httpx.Response) -> str:
    found = re.search(r'name="_xsrf"\s+value="([^"]+)"', page.text) or re.search(r"_xsrf=([^\"&]+)", page.text)
    assert found, page.text
    return found[1]


def form_in(page: httpx.Response) -> str:
    """The form of a spawn's page, without the token in it."""
    found = re.search(r"<form.*?</form>", page.text, re.DOTALL)
    assert found, page.text
    return re.sub(r"_xsrf=[^\"&]+", "_xsrf=…", re.sub(r'(name="_xsrf"\s+value=")[^"]+', r"\1…", found[0]))


@pytest.fixture(scope="module", params=HOOKS)
def hubs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Hub]]:
    """The hub without Replay, and with it."""
    folder = tmp_path_factory.mktemp("existing")
    with ExitStack() as stack:
        made = [Hub(folder / name, request.param, name == "after") for name in ("before", "after")]
        for hub in made:
            stack.callback(hub.close)
            hub.start()
        yield made


@pytest.fixture(autouse=True)
def no_server_stays(hubs: list[Hub]) -> Iterator[None]:
    yield
    for hub in hubs:
        hub.stop_server()


def by_api(content: str | None) -> Callable[[Hub], httpx.Response]:
    return lambda hub: hub.api("POST", "/server", content)


def by_form(**fields: str) -> Callable[[Hub], httpx.Response]:
    def post(hub: Hub) -> httpx.Response:
        page = hub.browser.get("/hub/spawn")
        answer = hub.browser.post("/hub/spawn", params={"_xsrf": xsrf_in(page)}, data=fields)
        until_it_is_there(hub)
        return answer

    return post


def by_link(query: str) -> Callable[[Hub], httpx.Response]:
    def get(hub: Hub) -> httpx.Response:
        answer = hub.browser.get(f"/hub/spawn{query}")
        until_it_is_there(hub)
        return answer

    return get


def until_it_is_there(hub: Hub) -> None:
    """A browser is sent on while the server starts."""
    deadline = time.monotonic() + 30
    while (server := hub.server()) is not None and not server["ready"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


WAYS = {
    "API, no options": by_api(None),
    "API, empty options": by_api("{}"),
    "API, a profile": by_api('{"profile": "gpu"}'),
    "API, a profile as user_options": by_api('{"user_options": {"profile": "gpu"}}'),
    "API, an unknown option": by_api('{"colour": "red"}'),
    "API, an option that the hook refuses": by_api('{"profile": "broken", "broken": ["x"]}'),
    "API, no JSON": by_api("profile=gpu"),
    "form": by_form(profile="gpu"),
    "form with fields named as Replay's options": by_form(
        profile="gpu", repo="the admin's own", launch="now", vo="x", urlpath="y"
    ),
    "form that the hook refuses": by_form(profile="broken", broken="x"),
    "the page with the form": by_link(""),
    "link with a profile": by_link("?profile=gpu"),
    "link with a profile, as JupyterHub 6 has it": by_link("?opt-profile=gpu"),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_ordinary_start_goes_as_it_went(hubs: list[Hub], way: str) -> None:
    before, after = ((hub, hub.outcome(WAYS[way](hub))) for hub in hubs)
    assert after[1] == before[1]
    # The options that the hub keeps are used by the next start that brings none.
    for hub in hubs:
        hub.stop_server()
    again = [hub.outcome(hub.api("POST", "/server")) for hub in hubs]
    assert again[1] == again[0]


def test_the_comparison_sees_what_it_should(hubs: list[Hub]) -> None:
    seen = hubs[1].outcome(hubs[1].api("POST", "/server", '{"profile": "gpu"}'))
    assert seen["status"] == 201
    assert seen["environment"]["PROFILE"] == "gpu"
    assert seen["environment"]["SET_BY_HOOK"] == "gpu"
    assert seen["environment"]["OF_ALL"] == "the admin's"
    assert seen["environment"]["MEM_LIMIT"] == str(512 * 1024**2)
    assert seen["cwd"] == "FOLDER/homes/maria"
    assert seen["user_options"] == {"profile": "gpu"}
    assert not [name for name in seen["environment"] if name.startswith("REPLAY_")]


def test_who_is_in_no_group_with_a_policy_launches_nothing(hubs: list[Hub]) -> None:
    answer = hubs[1].api("POST", "/server", '{"repo": "gh/EGI-Federation/binder-example/HEAD"}')
    assert answer.status_code == 403
    assert (
        "You are in no virtual organisation that may launch here. These may: researchers." in answer.json()["message"]
    )
    assert hubs[1].server() is None
    page = hubs[1].browser.get("/v2/gh/EGI-Federation/binder-example/HEAD")
    assert page.status_code == 403
    assert (
        '<a href="https://groups.example.org/join?a=b&amp;c=d" rel="noopener noreferrer">researchers</a>' in page.text
    )
    # … and has the ordinary server as before, of which nothing of that is left.
    again = [hub.outcome(hub.api("POST", "/server", '{"profile": "small"}')) for hub in hubs]
    assert again[1] == again[0]


def test_a_link_offers_the_hubs_own_login(hubs: list[Hub]) -> None:
    page = httpx.get(f"{hubs[1].url}/v2/gh/EGI-Federation/binder-example/HEAD", follow_redirects=True)
    assert page.status_code == 200
    assert "EGI-Federation/binder-example" in page.text
    assert "/hub/login?next=%2Fhub%2Fv2%2Fgh%2FEGI-Federation%2Fbinder-example%2FHEAD" in page.text
