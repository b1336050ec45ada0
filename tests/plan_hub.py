"""A real hub whose build service is scripted: it tells plans, and is told of ends. For tests of spawners."""

import http.server
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psutil

from replay_build_service.schemas import (
    EndedReport,
    ImageModel,
    LaunchPlan,
    PlanRequest,
    Refusal,
    ResourcesModel,
    SessionReport,
)
from tests.login_fixtures import PROXY, free_ports
from tests.requirements import ROOT
from tests.site import until_it_answers

MIB = 1024**2
ADA = f"{'ada0' * 16}@egi.eu"
"""As long and as odd as EGI Check-in's names."""

RESOURCES = ResourcesModel(memory_guarantee=256 * MIB, memory_limit=512 * MIB, cpu_guarantee=0.5, cpu_limit=1.5)
SECONDS = 120


class Plans(http.server.ThreadingHTTPServer):
    """The build service, as far as a spawner asks it: plans by launch, each for one use; and why sessions ended."""

    def __init__(self) -> None:
        self.token = secrets.token_hex(16)
        self.waiting: dict[str, LaunchPlan] = {}
        self.ended: dict[str, str] = {}
        """Why sessions ended that nobody stopped, by launch."""
        super().__init__(("127.0.0.1", free_ports(1)[0]), _Plan)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/services/replay/"

    def add(self, location: str, image: ImageModel | None, **more: Any) -> str:
        """A launch of an image; its id."""
        launch = secrets.token_hex(16)
        values: dict[str, Any] = {
            "launch": launch,
            "vo": "vo.notebooks.egi.eu",
            # What a repository may be called, and the spawner may make of it: a template, say.
            "repository": "https://git.example.org/{username:>99}/{prefix}",
            "version": "c0ffee" * 6 + "c0ff",
            "link": "/v2/git/x/HEAD",
            "image": location,
            "location": location,
            "container": image,
            "command": ["jupyterhub-singleuser"],
            "environment": {"OF_THE_PLAN": "{home}", "SET_BY_BOTH": "plan"},
            "source": None,
            "resources": RESOURCES,
        }
        self.waiting[launch] = LaunchPlan(**(values | more))
        return launch


class _Plan(http.server.BaseHTTPRequestHandler):
    server: Plans

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["Authorization"] == f"Bearer {self.server.token}"
        if self.path.endswith("internal/ended"):
            report = EndedReport.model_validate_json(sent)
            assert self.server.ended.setdefault(report.launch, report.reason) == report.reason
            self.send_response(204)
            self.end_headers()
            return
        asked = PlanRequest.model_validate_json(sent)
        plan = self.server.waiting.pop(asked.launch or "", None)
        body = (plan or Refusal(error="used", message="This launch was used already.")).model_dump_json().encode()
        self.send_response(200 if plan else 409)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@dataclass
class PlanHub:
    """A hub with a spawner of ours."""

    folder: Path
    spawner: str
    """Its import path."""
    hub_address: str
    """Where sessions reach the hub."""
    environment: Mapping[str, str]
    """Of the hub, beside what this process has."""
    extra_config: str = ""
    python: str = sys.executable
    plans: Plans = field(default_factory=Plans)
    ports: list[int] = field(default_factory=lambda: free_ports(3))
    token: str = field(default_factory=lambda: secrets.token_hex(32))
    _process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    @property
    def log(self) -> str:
        return (self.folder / "hub.log").read_text(errors="replace")

    def start(self) -> None:
        """Return once it answers."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / "service_token").write_text(self.plans.token)
        (self.folder / "jupyterhub_config.py").write_text(
            f"""
c.JupyterHub.bind_url = "{self.url}"
c.JupyterHub.hub_ip = "{self.hub_address}"
c.JupyterHub.hub_port = {self.ports[1]}
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{self.ports[2]}"
c.ConfigurableHTTPProxy.command = [{str(PROXY)!r}]
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.spawner_class = "{self.spawner}"
c.ReplayMixin.replay_service_url = "{self.plans.url}"
c.ReplayMixin.replay_token_file = "service_token"
from replay_spawner import link_handlers
c.JupyterHub.extra_handlers = link_handlers("{self.plans.url}", "service_token")
c.JupyterHub.cleanup_servers = False
c.JupyterHub.tornado_settings = {{"slow_spawn_timeout": {SECONDS}, "slow_stop_timeout": {SECONDS}}}
c.JupyterHub.services = [{{"name": "tester", "api_token": {self.token!r}}}]
c.JupyterHub.load_roles = [{{"name": "tester", "services": ["tester"], "scopes": ["admin:users", "admin:servers", "tokens", "access:servers", "read:servers"]}}]
# The hub ends itself after a few faults in a row.
c.Spawner.consecutive_failure_limit = 3
c.Spawner.poll_interval = 1
c.Spawner.poll_jitter = 0
c.Spawner.start_timeout = {SECONDS}
c.Spawner.http_timeout = 90
{self.extra_config}
"""
        )
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("REPLAY_", "JUPYTER"))}
        with (self.folder / "hub.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.python, "-m", "jupyterhub"],
                cwd=self.folder,
                env=clean | self.environment | {"PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until_it_answers(f"{self.url}/hub/health", self._process, self.folder / "hub.log")

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        """End the hub and its proxy; servers stay."""
        if self._process is None:
            return
        process, self._process = self._process, None
        below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal_number)
        process.wait(60)
        for child in below:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(below, timeout=5)

    @property
    def process(self) -> psutil.Process:
        assert self._process is not None, "the hub was not started"
        return psutil.Process(self._process.pid)

    def close(self) -> None:
        self.stop()
        self.plans.shutdown()
        self.plans.server_close()

    def api(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"token {self.token}"}
        return httpx.request(method, f"{self.url}/hub/api{path}", headers=headers, timeout=SECONDS, **more)

    def ask(self, options: object = None, user: str = ADA, name: str | None = None) -> httpx.Response:
        """``POST …/server``; without options it is a plain “Start My Server”. With a ``name`` it is a server of that name."""
        self.api("POST", f"/users/{quote(user)}")
        server = "server" if name is None else f"servers/{quote(name)}"
        content = None if options is None else json.dumps(options)
        return self.api("POST", f"/users/{quote(user)}/{server}", content=content)

    def launch(
        self, location: str, image: ImageModel | None = None, user: str = ADA, name: str | None = None, **more: Any
    ) -> httpx.Response:
        return self.ask({"launch": self.plans.add(location, image, **more)}, user, name)

    def server(self, user: str = ADA) -> dict[str, Any] | None:
        found = self.api("GET", f"/users/{quote(user)}")
        return found.json()["servers"].get("") if found.status_code == 200 else None

    def inside(self, path: str, user: str = ADA) -> httpx.Response:
        """Ask the running server through the proxy, as its person."""
        token = self.api("POST", f"/users/{quote(user)}/tokens", json={}).json()["token"]
        headers = {"Authorization": f"token {token}"}
        server = self.server(user)
        assert server is not None, "there is no server"
        return httpx.get(f"{self.url}{server['url']}{path}", headers=headers, timeout=SECONDS)

    def report(self, user: str = ADA) -> SessionReport:
        """What the hub tells the build service of the session that runs."""
        answer = self.api("GET", f"/replay/sessions/{quote(user)}")
        assert answer.status_code == 200, f"{answer.text}\n{self.log[-4000:]}"
        return SessionReport.model_validate_json(answer.content)

    def progress(self, user: str = ADA, until: str | None = None) -> list[dict[str, Any]]:
        """What the hub tells of a start, until it says that, or until the start has ended."""
        url = f"{self.url}/hub/api/users/{quote(user)}/server/progress"
        self.until(lambda: (self.server(user) or {}).get("pending") == "spawn", f"{user} starts a server")
        told: list[dict[str, Any]] = []
        with httpx.stream("GET", url, headers={"Authorization": f"token {self.token}"}, timeout=SECONDS) as response:
            for line in response.iter_lines():
                if line.startswith("data: "):
                    told.append(json.loads(line[6:]))
                    if until is not None and until in told[-1]["message"]:
                        return told
        assert until is None, told
        return told

    def stop_server(self, user: str = ADA) -> None:
        if self.server(user) is not None:
            self.api("DELETE", f"/users/{quote(user)}/server")
            self.until(lambda: self.server(user) is None, "the server stops")

    def until(self, is_so: Callable[[], bool], what: str) -> None:
        """Wait for what has no event."""
        deadline = time.monotonic() + SECONDS
        while not is_so():
            assert time.monotonic() < deadline, f"still not so: {what}\n{self.log[-6000:]}"
            time.sleep(0.05)


def sentence(response: httpx.Response) -> str:
    """What a person is told of a start that was refused."""
    assert response.status_code == 422, f"{response.status_code}: {response.text}"
    return response.json()["message"]
