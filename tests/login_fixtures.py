"""A real hub that logs in at the stand-in for EGI Check-in, for tests of the login.

Real processes over HTTP: JupyterHub, configurable-http-proxy, the stand-in. What a single
module needs stays there; nothing here knows how Replay builds or launches.
"""

from __future__ import annotations

import os
import random
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Self
from urllib.parse import urljoin

import httpx
import psutil
import pytest

from demo.checkin import CheckinStandIn
from demo.people import PEOPLE, Person

ROOT = Path(__file__).resolve().parents[1]
PROXY = ROOT / "node_modules" / ".bin" / "configurable-http-proxy"
SECONDS_TO_START = 90.0
"""A hub is up in about 3; a machine that does much else at the same time gets many times that."""

# What a server is does not matter to the login: anything that answers where the hub looks.
_SERVER = """
import http.server, os, urllib.parse
where = urllib.parse.urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"])
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"the server of " + self.path.encode())
    def log_message(self, *args): pass
http.server.HTTPServer((where.hostname, where.port), Answer).serve_forever()
"""


def free_ports(count: int) -> list[int]:
    """Ports that are free now, all different, and below those that systems give to outgoing connections.

    A port that the system chose (by binding to 0) may be an outgoing connection's a moment later.
    """
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(15_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            if port not in found:
                found.append(port)
    return found


@dataclass
class Hub:
    """One hub with its database in a folder, so that it can be stopped and started with other settings."""

    folder: Path
    issuer: str
    client_secret: str
    ports: tuple[int, ...]
    """Public, hub's own, proxy's API."""
    api_token: str = field(default_factory=lambda: secrets.token_hex(32))
    _process: subprocess.Popen[str] | None = field(default=None, init=False)
    _log: list[str] = field(default_factory=list, init=False)
    _changed: threading.Condition = field(default_factory=threading.Condition, init=False, repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    @property
    def log(self) -> str:
        return "".join(self._log)

    def start(self, permitted_vos: dict[str, str], settings: str = "") -> None:
        """Return once the hub answers; fail with its log where it does not."""
        self.folder.mkdir(exist_ok=True)
        public, own, proxy_api = self.ports
        (self.folder / "jupyterhub_config.py").write_text(
            f"""
c.JupyterHub.bind_url = "http://127.0.0.1:{public}"
c.JupyterHub.hub_ip = "127.0.0.1"
c.JupyterHub.hub_port = {own}
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy_api}"
c.ConfigurableHTTPProxy.command = [{str(PROXY)!r}]
c.JupyterHub.db_url = "sqlite:///hub.sqlite"
c.JupyterHub.cookie_secret_file = "cookie_secret"
c.JupyterHub.authenticator_class = "replay_auth.EGICheckinAuthenticator"
c.JupyterHub.spawner_class = "simple"
c.Spawner.cmd = [{sys.executable!r}, "-c", {_SERVER!r}]
c.Spawner.args = []
c.JupyterHub.services = [{{"name": "tester", "api_token": {self.api_token!r}}}]
c.JupyterHub.load_roles = [
    {{"name": "tester", "scopes": ["admin:users", "admin:servers", "admin:groups"], "services": ["tester"]}}
]
c.EGICheckinAuthenticator.issuer = {self.issuer!r}
c.EGICheckinAuthenticator.client_id = "hub"
c.EGICheckinAuthenticator.client_secret = {self.client_secret!r}
c.EGICheckinAuthenticator.permitted_vos = {permitted_vos!r}
{settings}
"""
        )
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("OAUTH", "JUPYTER"))}
        key = self.folder / "crypt_key"
        if not key.exists():
            key.write_text(secrets.token_hex(32))
        environment |= {"PYTHONPATH": str(ROOT), "JUPYTERHUB_CRYPT_KEY": key.read_text(), "PYTHONUNBUFFERED": "1"}
        self._log.clear()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jupyterhub", "-f", "jupyterhub_config.py"],
            cwd=self.folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        running = threading.Event()
        threading.Thread(target=self._read_log, args=(self._process, running), daemon=True).start()
        if not running.wait(SECONDS_TO_START) or self._process.poll() is not None:
            self.stop()
            pytest.fail(f"The hub did not start:\n{self.log}")

    def _read_log(self, process: subprocess.Popen[str], running: threading.Event) -> None:
        assert process.stdout
        with process.stdout:
            for line in process.stdout:
                with self._changed:
                    self._log.append(line)
                    self._changed.notify_all()
                if "JupyterHub is now running" in line:
                    running.set()
        # The log ends with the process: nobody should wait on.
        running.set()

    def stop(self) -> None:
        """End the hub with its proxy and servers. May be called more than once."""
        if self._process is None:
            return
        # The proxy has a session of its own, so it is found as a child and not as a member of the group.
        try:
            below = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            below = []
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        _, remaining = psutil.wait_procs(below, timeout=2)
        for process in remaining:
            process.kill()

    def wait_for_log(self, text: str, times: int = 1) -> None:
        """Until the log has this text so often; fails with it where it does not come."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.log.count(text) >= times, timeout=30):
                pytest.fail(f"{text!r} is not so often in the log:\n{self.log}")

    def api(self, method: str, path: str) -> httpx.Response:
        """As a service with admin rights, not as a person."""
        headers = {"Authorization": f"token {self.api_token}"}
        return httpx.request(method, f"{self.url}/hub/api{path}", headers=headers, timeout=30)

    def user(self, person: Person) -> httpx.Response:
        return self.api("GET", f"/users/{person.voperson_id}")


class _Form(HTMLParser):
    """The first form of a page, by what is visible on its buttons; and every link, by its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action = ""
        self.buttons: dict[str, tuple[str, str]] = {}
        self.links: dict[str, str] = {}
        self._open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "form" and not self.action:
            self.action = attributes.get("action") or ""
        if tag in {"a", "button"}:
            self._open.append((tag, attributes, []))

    def handle_data(self, data: str) -> None:
        for _, _, texts in self._open:
            texts.append(data)

    def handle_endtag(self, tag: str) -> None:
        if not (self._open and self._open[-1][0] == tag):
            return
        _, attributes, texts = self._open.pop()
        text = " ".join("".join(texts).split())
        if tag == "a":
            self.links[text] = attributes.get("href") or ""
        else:
            self.buttons[text] = (attributes.get("name") or "", attributes.get("value") or "")


class Visitor:
    """Somebody with a browser: cookies, redirects followed, links and buttons found by what they say."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        headers = {"Sec-Fetch-Mode": "navigate", "Accept": "text/html"}
        self._client = httpx.Client(follow_redirects=True, headers=headers, timeout=30)

    def open(self, path: str) -> httpx.Response:
        return self._client.get(urljoin(self.hub.url, path))

    def open_without_following(self, path: str) -> httpx.Response:
        """To look at where an answer leads."""
        return self._client.get(urljoin(self.hub.url, path), follow_redirects=False)

    def open_form(self, path: str, fields: dict[str, str]) -> httpx.Response:
        """Send a form as a browser does, and go where its answer leads."""
        return self._client.post(urljoin(self.hub.url, path), data=fields)

    def choose(self, page: httpx.Response, person: Person, *, stay: bool = False) -> httpx.Response:
        """Press the person's button on the provider's page; ``stay`` to look at where that leads without going."""
        form = _Form(page.text)
        (field_,) = [pair for text, pair in form.buttons.items() if text.startswith(person.name)]
        where = urljoin(str(page.url), form.action or str(page.url))
        return self._client.post(where, data=dict([field_]), follow_redirects=not stay)

    def follow(self, page: httpx.Response, text: str) -> httpx.Response:
        return self._client.get(urljoin(str(page.url), _Form(page.text).links[text]))

    def log_in(self, person: Person, next_path: str = "/hub/home") -> httpx.Response:
        return self.choose(self.open(f"/hub/oauth_login?next={next_path}"), person)

    @property
    def xsrf_of_hub(self) -> str:
        """The hub's XSRF token, as its pages have it in their forms."""
        (found,) = [
            cookie.value for cookie in self._client.cookies.jar if (cookie.name, cookie.path) == ("_xsrf", "/hub/")
        ]
        assert found
        return found

    def log_out(self, **headers: str) -> httpx.Response:
        return self._client.get(urljoin(self.hub.url, "/hub/logout"), headers=headers)

    def start_server(self) -> httpx.Response:
        return self.open("/hub/spawn")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()


@contextmanager
def provider_and_hub(folder: Path, people: Sequence[Person] = PEOPLE) -> Iterator[tuple[CheckinStandIn, Hub]]:
    """Both know each other; neither has been started. Whatever runs at the end is stopped."""
    ports = free_ports(3)
    secret = secrets.token_urlsafe(24)
    checkin = CheckinStandIn(
        client_id="hub",
        client_secret=secret,
        redirect_uris=[f"http://127.0.0.1:{ports[0]}/hub/oauth_callback"],
        people=people,
        separate_ports=True,
    )
    hub = Hub(folder, checkin.issuer, secret, ports)
    try:
        yield checkin, hub
    finally:
        hub.stop()
        checkin.stop()
