"""A whole Replay for tests: the reference configuration on a real hub, the real service, a real git server, a real login.

The only additions to ``jupyterhub_config.py`` are an administrator's service for looking at the hub, and what a test asks for.
"""

import json
import os
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import httpx
import psutil

from demo.checkin import CheckinStandIn
from demo.git_server import GitServer
from demo.people import ADA, PEOPLE, Person
from tests.login_fixtures import Visitor, free_ports
from tests.requirements import ROOT

START_SECONDS = 60
UV_CACHE = os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv"))
"""Shared by all sites: wheels are fetched once for a machine."""


# An ordinary server of the hub's, which tells how it was started.
_ORDINARY_SERVER = """
import http.server, json, os, sys, urllib.parse
where = urllib.parse.urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"])
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("X-Ordinary-Server", "yes"); self.end_headers()
        told = {"environment": dict(os.environ), "argv": sys.orig_argv, "cwd": os.getcwd()}
        self.wfile.write(json.dumps(told).encode())
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer((where.hostname, where.port), Answer).serve_forever()
"""

ORDINARY_SERVERS = f"""
import os as _os
c.Spawner.cmd = [{sys.executable!r}, "-c", {_ORDINARY_SERVER!r}]
c.Spawner.args = []
c.SimpleLocalProcessSpawner.home_dir_template = _os.path.join(_os.getcwd(), "homes", "{{username}}")
"""
"""Configuration for an ordinary server that starts at once and tells how it was started; for `Site.ordinary_server`."""


DEAD_SERVICES_ARE_STARTED_SOON = """
from jupyterhub.services import service as _service
class _LookedAfter(_service._ServiceSpawner):
    poll_interval = 1
_service._ServiceSpawner = _LookedAfter
"""
"""Configuration for a hub that looks after its services each second; JupyterHub's own 30 are no setting."""


@dataclass(frozen=True)
class Repo:
    """A repository made by a test."""

    name: str
    url: str
    commit: str

    @property
    def spec(self) -> str:
        return f"git/{quote(self.url, safe='')}/HEAD"


@dataclass
class Site:
    """A hub with its service, as processes of their own."""

    folder: Path
    git: GitServer
    checkin: CheckinStandIn
    client_secret: str
    ports: list[int]
    settings: dict[str, str] = field(default_factory=dict)
    extra_config: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    """Of the hub, beside what this process has and the settings."""
    admin_token: str = field(default_factory=lambda: secrets.token_hex(32))
    _process: "subprocess.Popen[bytes] | None" = None
    _clients: list[httpx.Client] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    @property
    def service_url(self) -> str:
        """The service without the proxy."""
        return f"http://127.0.0.1:{self.ports[3]}/services/replay/"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def log(self) -> str:
        return (self.folder / "hub.log").read_text(errors="replace")

    def start(self) -> None:
        """Return once hub and service answer."""
        secret_file = self.folder / "client_secret"
        secret_file.write_text(self.client_secret)
        config = self.folder / "jupyterhub_config.py"
        config.write_text(
            f"""
load_subconfig({str(ROOT / "jupyterhub_config.py")!r})
c.JupyterHub.services.append({{"name": "tester", "api_token": {self.admin_token!r}}})
c.JupyterHub.load_roles.append({{
    "name": "tester", "services": ["tester"],
    "scopes": ["admin:users", "admin:servers", "admin:groups", "tokens", "access:services", "access:servers", "list:services", "read:services"],
}})
{self.extra_config}
"""
        )
        settings = {
            "OIDC_CLIENT_ID": "replay-test",
            "OIDC_CLIENT_SECRET_FILE": str(secret_file),
            "OIDC_ISSUER": self.checkin.issuer,
            "URL": self.url,
            "PORTS": ",".join(str(port) for port in self.ports[1:4]),
            "STATE_DIR": str(self.state),
            "EXEMPT_ORIGINS": self.git.url.rstrip("/"),
            "UV_CACHE": UV_CACHE,
            "PROXY_COMMAND": f"node {ROOT}/node_modules/configurable-http-proxy/bin/configurable-http-proxy",
        } | self.settings
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith(("REPLAY_", "JUPYTER", "OAUTH"))
        }
        environment = clean | self.environment | {f"REPLAY_{name}": value for name, value in settings.items()}
        for may_be_slow in (True, True, False):
            if self._started(config, environment, may_be_slow=may_be_slow):
                return

    def _started(self, config: Path, environment: Mapping[str, str], *, may_be_slow: bool) -> bool:
        """False where JupyterHub gave up waiting for the service: ten seconds are all it waits, which a busy machine may need."""
        log_file = self.folder / "hub.log"
        begins = log_file.stat().st_size if log_file.exists() else 0
        with log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jupyterhub", "-f", str(config)],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            for address in (f"{self.url}/hub/health", f"{self.url}/services/replay/health"):
                self.until_it_answers(address)
        except AssertionError:
            with log_file.open("rb") as log:
                log.seek(begins)
                gave_up = b"Cannot connect to replay service" in log.read()
            if not (gave_up and may_be_slow):
                raise
            print("This machine is so busy that the service took more than the hub's ten seconds to start: once more.")
            self.stop()
            for process in self.processes():
                with suppress(psutil.NoSuchProcess):
                    process.kill()
                    process.wait(10)
            return False
        return True

    def until_it_answers(self, address: str) -> None:
        until_it_answers(address, self._process, self.folder / "hub.log")

    def stop(self, *, signal_number: int = signal.SIGTERM) -> list[psutil.Process]:
        """End the hub; returns what still ran of it afterwards (servers that are to outlive it, say), without killing it."""
        if self._process is None:
            return []
        process, self._process = self._process, None
        with suppress(psutil.NoSuchProcess):
            below = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal_number)
            process.wait(40)
            _, alive = psutil.wait_procs(below, timeout=3)
            return alive
        return []

    def processes(self, module: str = "") -> list[psutil.Process]:
        """All processes of this site: those that name its folder. With ``module``: those that run it."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                command = process.cmdline()
                words = [*command, process.environ().get("REPLAY_STATE_DIR", ""), process.cwd()]
                if any(str(self.folder) in word for word in words) and (not module or module in command):
                    found.append(process)
        return found

    def service_process(self) -> psutil.Process:
        """The build service."""
        (found,) = self.processes("replay_build_service.app")
        return found

    def hub_process(self) -> psutil.Process:
        """The hub."""
        assert self._process is not None, "the hub was not started"
        return psutil.Process(self._process.pid)

    def runners(self) -> list[psutil.Process]:
        """The processes of builds, one for each that runs."""
        return self.processes("replay_build_service.builders.venv.runner")

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """What the service's database holds, read beside it."""
        with closing(sqlite3.connect(f"file:{self.state / 'replay.sqlite'}?mode=ro", uri=True)) as database:
            return database.execute(query, values).fetchall()

    def left_behind(self) -> set[str]:
        """What builds and sessions have on disk, the shared caches aside."""
        folders = [self.state / "builds", self.state / "sessions"]
        found = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
        return {f"{path.parent.name}/{path.name}" for path in found if path.name not in {".pythons", ".uv-cache"}}

    def repository(self, name: str, files: Mapping[str, str], *, executable: tuple[str, ...] = ()) -> Repo:
        """A new commit with exactly these files on ``main`` of a bare repository that the git server serves."""
        return make_repository(self.git, self.folder / "work" / name, name, files, executable=executable)

    def waiting_launch(self, person: Person, like: str, *, hub_asked_ago: str = "0 seconds") -> str:
        """A launch as it is in the moment when the hub is asked for its server: built and not used. A copy of another one.

        The only one that waits: what is left of an earlier call has failed.
        """
        launch_id = secrets.token_hex(16)
        changed = {
            "id": "?",
            "user": "?",
            "state": "'starting'",
            "consumed_at": "NULL",
            "ended_at": "NULL",
            "starting_at": f"strftime('%Y-%m-%d %H:%M:%f', 'now', '-{hub_asked_ago}')",
        }
        names = [name for _, name, *_ in self.rows("PRAGMA table_info(launches)")]
        quoted = ", ".join(f'"{name}"' for name in names)
        values = ", ".join(changed.get(name, f'"{name}"') for name in names)
        with closing(sqlite3.connect(self.state / "replay.sqlite", timeout=30)) as database, database:
            database.execute("UPDATE launches SET state = 'failed' WHERE state = 'starting' AND consumed_at IS NULL")
            database.execute(
                f"INSERT INTO launches ({quoted}) SELECT {values} FROM launches WHERE id = ?",
                (launch_id, person.voperson_id, like),
            )
            database.execute("INSERT INTO streams VALUES (?, 0, 0, 0)", (f"launch:{launch_id}",))
        return launch_id

    def session_folders(self) -> list[str]:
        """The folders of sessions, by launch."""
        folder = self.state / "sessions"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    def ask_for_server(self, person: Person, options: object = None, *, body: str | None = None) -> httpx.Response:
        """``POST …/server`` to the hub's API; without options it is a plain “Start My Server”."""
        content = body if body is not None else None if options is None else json.dumps(options)
        return self.admin("POST", f"/users/{person.voperson_id}/server", content=content)

    def ordinary_server(self, person: Person) -> dict[str, Any]:
        """How the person's ordinary server was started: its ``environment``, ``argv`` and ``cwd``."""
        server = self.server(person)
        assert server is not None, "there is no server"
        answer = httpx.get(f"{self.url}{server['url']}how-it-was-started")
        assert answer.headers.get("X-Ordinary-Server") == "yes", f"this is no ordinary server: {answer.text[:200]}"
        return answer.json()

    def admin(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        """The hub's REST API, as an administrator."""
        return httpx.request(
            method,
            f"{self.url}/hub/api{path}",
            headers={"Authorization": f"token {self.admin_token}"},
            timeout=60,
            **kwargs,
        )

    def server(self, person: Person) -> dict[str, Any] | None:
        """The hub's model of a person's server; none where there is none."""
        return self.admin("GET", f"/users/{person.voperson_id}").json()["servers"].get("")

    def stop_server(self, person: Person) -> None:
        """Stop a person's server and wait until it is gone. The hub can stop none that is just starting: that may start first."""
        deadline = time.monotonic() + 90
        while (server := self.server(person)) is not None:
            if server["pending"] is None:
                self.admin("DELETE", f"/users/{person.voperson_id}/server")
            assert time.monotonic() < deadline, "the server did not stop"
            time.sleep(0.1)

    def client(self, person: Person = ADA) -> "ApiClient":
        """Somebody who has logged in once, and works with a token since."""
        with Visitor(self) as visitor:  # pyright: ignore[reportArgumentType] - of a hub it asks only the url
            page = visitor.log_in(person)
            assert page.status_code == 200, page.text
        made = self.admin("POST", f"/users/{person.voperson_id}/tokens", json={"note": "test", "scopes": ["inherit"]})
        assert made.status_code == 201, made.text
        client = ApiClient(self, person, made.json()["token"])
        self._clients.append(client.http)
        return client

    def close(self) -> None:
        """End everything of this site, really. Its environments go, which are large; its logs stay with the test's folder."""
        self.stop()
        left = self.processes()
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=10)
        self.git.stop()
        self.checkin.stop()
        for client in self._clients:
            client.close()
        shutil.rmtree(self.state, ignore_errors=True)


class ApiClient:
    """A person's program: the service's API with a token of the hub."""

    def __init__(self, site: Site, person: Person, token: str) -> None:
        self.site = site
        self.person = person
        self.token = token
        self.http = httpx.Client(
            base_url=f"{site.url}/services/replay/", headers={"Authorization": f"token {token}"}, timeout=60
        )

    def launch(self, repo: Repo | str, **more: Any) -> httpx.Response:
        spec = repo if isinstance(repo, str) else repo.spec
        return self.http.post("api/launches", json={"repo": spec, **more})

    def get(self, launch_id: str) -> dict[str, Any]:
        return self.http.get(f"api/launches/{launch_id}").json()

    def events(self, launch_id: str, after: str = "", *, timeout: float = 120) -> Generator[tuple[str, dict[str, Any]]]:
        """Id and data of each event, until the stream ends."""
        return followed(self.http, launch_id, after, timeout=timeout)

    def launch_and_wait(self, repo: Repo | str, **more: Any) -> dict[str, Any]:
        """Launch and follow until it is ready; fails with the reason where it is not."""
        response = self.launch(repo, **more)
        assert response.status_code == 201, response.text
        last: dict[str, Any] = {}
        lines = []
        for _, last in self.events(response.json()["id"]):
            lines.append(last["message"])
        assert last.get("phase") == "ready", "\n".join(lines[-20:])
        return self.get(response.json()["id"])

    def launch_and_fail(self, repo: Repo | str, **more: Any) -> str:
        """Launch and follow to the failure, or be refused at once: what the person is told."""
        response = self.launch(repo, **more)
        return self.failure_of(response.json()["id"]) if response.status_code == 201 else response.json()["message"]

    def failure_of(self, launch_id: str) -> str:
        """Follow to the failure: what the person is told."""
        *_, (_, last) = self.events(launch_id)
        assert last["phase"] == "failed", last
        told = self.get(launch_id)["failure"]
        assert told.endswith("."), told
        return told


def followed(
    service: httpx.Client, launch_id: str, after: str = "", *, timeout: float = 120
) -> Generator[tuple[str, dict[str, Any]]]:
    """Id and data of each event of a launch, until the stream ends."""
    headers = {"Last-Event-ID": after} if after else {}
    with service.stream("GET", f"api/launches/{launch_id}/events", headers=headers, timeout=timeout) as response:
        assert response.status_code == 200, response.read()
        event_id = ""
        for line in response.iter_lines():
            if line.startswith("id: "):
                event_id = line[4:]
            elif line.startswith("data: "):
                yield event_id, json.loads(line[6:])


class Sites:
    """Makes sites below a folder and ends them all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sites: list[Site] = []

    def __enter__(self) -> Self:
        return self

    def start(
        self,
        *,
        settings: Mapping[str, str] | None = None,
        extra_config: str = "",
        environment: Mapping[str, str] | None = None,
        git_host: str = "127.0.0.1",
        people: Sequence[Person] = PEOPLE,
    ) -> Site:
        """``git_host``: the address of this machine at which repositories are served; ``people``: who can log in."""
        folder = self._folder / f"site-{len(self._sites)}"
        (folder / "git").mkdir(parents=True)
        ports = free_ports(4)
        secret = secrets.token_hex(16)
        checkin = CheckinStandIn(
            client_id="replay-test",
            client_secret=secret,
            redirect_uris=[f"http://127.0.0.1:{ports[0]}/hub/oauth_callback"],
            people=people,
        )
        git = GitServer(folder / "git", git_host, loopback_only=git_host == "127.0.0.1")
        site = Site(folder, git, checkin, secret, ports, dict(settings or {}), extra_config, dict(environment or {}))
        self._sites.append(site)
        git.start()
        checkin.start()
        site.start()
        return site

    def __exit__(self, *error: object) -> None:
        for site in self._sites:
            site.close()


def until_it_answers(address: str, process: "subprocess.Popen[bytes] | None", log: Path) -> None:
    """Return once the address answers 200; fail with the log where the process ends or time runs out."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        with suppress(httpx.TransportError):
            if httpx.get(address).status_code == 200:
                return
        if process is None or process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"{address} does not answer:\n{log.read_text(errors='replace')[-6000:]}")
        time.sleep(0.05)


def make_repository(
    git: GitServer, work: Path, name: str, files: Mapping[str, str], *, executable: tuple[str, ...] = ()
) -> Repo:
    """A new commit with exactly these files on ``main`` of a bare repository that ``git`` serves; ``work`` is its checkout.

    A text that begins with ``->`` makes a link.
    """
    bare = git.root / f"{name}.git"
    if not bare.exists():
        work.mkdir(parents=True)
        _git(work, "init", "-q", "-b", "main")
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(bare)], check=True)
    for old in work.iterdir():
        if old.name != ".git":
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    for path, text in files.items():
        (work / path).parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("->"):
            (work / path).symlink_to(text[2:])
            continue
        (work / path).write_text(text)
        if path in executable:
            (work / path).chmod(0o755)
    _git(work, "add", "-A")
    _git(work, "commit", "-q", "--allow-empty", "-m", "a commit")
    _git(work, "push", "-q", str(bare), "main")
    return Repo(name, f"{git.url.rstrip('/')}/{name}.git", _git(work, "rev-parse", "HEAD"))


@contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    """A process that does not answer for a while, as if it hung."""
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def _git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()
