"""``python -m demo`` as a newcomer starts it: it works, it ends without a trace, and it keeps what was built."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from html.parser import HTMLParser
from pathlib import Path

import httpx
import psutil
import pytest

from demo.people import ADA
from tests.containers.engine import ContainerEngine
from tests.containers.site import BASE_TAG
from tests.login_fixtures import Visitor
from tests.registry_server import RegistryServer
from tests.requirements import ROOT

pytestmark = [pytest.mark.needs("proxy", "git-server"), pytest.mark.timeout(300), pytest.mark.one_hub_version]

PORTS = 7


class Demo:
    """A demo that runs: what it printed, and where it answers."""

    def __init__(self, process: "subprocess.Popen[str]", said: str, url: str) -> None:
        self.process = process
        self.said = said
        self.url = url


class _Fields(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.values: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag == "input" and named.get("type") == "hidden" and named.get("name"):
            self.values[named["name"] or ""] = named.get("value") or ""


def first_of_free_ports() -> int:
    """The first of several ports in a row that nobody uses; any of them, since another demo may be about to start."""
    used = {connection.laddr.port for connection in psutil.net_connections() if connection.laddr}
    free = [start for start in range(23_000, 30_000, PORTS) if not used.intersection(range(start, start + PORTS))]
    return random.choice(free)


@contextmanager
def running_demo(folder: Path, port: int, environment: Mapping[str, str] | None = None) -> Iterator[Demo]:
    process = subprocess.Popen(
        [sys.executable, "-m", "demo", "--port", str(port), "--dir", str(folder)],
        cwd=ROOT,
        env=os.environ
        | {"REPLAY_UV_CACHE": str(Path.home() / ".cache" / "uv"), "REPLAY_PYTHON_DOWNLOADS": "0"}
        | dict(environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    said = ""
    try:
        for line in process.stdout:
            said += line
            if "Ctrl-C" in line:
                break
        else:
            raise AssertionError(said)
        yield Demo(process, said, f"http://127.0.0.1:{port}")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        said += process.stdout.read()
        assert process.wait(60) == 0, said
        process.stdout.close()


def processes_of(folder: Path) -> list[str]:
    """Command lines of whatever still runs for this demo."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and (
                str(folder) in process.environ().get("REPLAY_STATE_DIR", "")
                or str(folder) in " ".join(process.cmdline())
            ):
                found.append(" ".join(process.cmdline()))
    return found


def test_the_demo_runs_an_example_and_leaves_nothing_behind_but_what_was_built(tmp_path: Path) -> None:
    folder, port = tmp_path / "demo", first_of_free_ports()
    with running_demo(folder, port) as demo, Visitor(demo) as visitor:  # type: ignore[arg-type]
        assert ADA.name in demo.said
        link = re.search(r"http\S+hello-notebook\S+", demo.said)
        assert link, demo.said
        visitor.log_in(ADA)
        consent = visitor.open(link[0])
        assert "Not built yet" in consent.text
        ticked = {"feature:vo.notebooks.egi.eu": "datahub"}
        launched = visitor.open_form(f"{demo.url}/services/replay/launches", _Fields(consent.text).values | ticked)
        assert "/launches/" in launched.url.path, launched.text
        _until_it_runs(visitor, str(launched.url))
        (spaces,) = (folder / "state" / "sessions").glob("*/home/*/datahub/README.md")
        assert 'datahub.ls("Plankton survey")' in spaces.read_text()
        running = processes_of(folder)
        assert any("jupyterhub.singleuser" in line for line in running), running
    assert processes_of(folder) == []
    with running_demo(folder, port) as demo, Visitor(demo) as visitor:  # type: ignore[arg-type]
        visitor.log_in(ADA)
        assert "Not built yet" not in visitor.open(link[0]).text
    assert processes_of(folder) == []


@pytest.mark.needs("engine")
@pytest.mark.timeout(600)
def test_with_a_container_engine_sessions_are_containers_and_go_with_the_demo(
    tmp_path: Path, container_engine: ContainerEngine, image_registry: RegistryServer
) -> None:
    folder, port = tmp_path / "demo", first_of_free_ports()
    base = f"{image_registry.settings().host}/{BASE_TAG}"
    environment = {**container_engine.environment, "REPLAY_BUILDER": "docker", "REPLAY_BASE_IMAGE": base}
    with running_demo(folder, port, environment) as demo, Visitor(demo) as visitor:  # type: ignore[arg-type]
        assert "containers of this machine's engine" in demo.said
        link = re.search(r"http\S+hello-notebook\S+", demo.said)
        assert link, demo.said
        visitor.log_in(ADA)
        consent = visitor.open(link[0])
        assert "Sessions on this site are containers" in consent.text
        launched = visitor.open_form(f"{demo.url}/services/replay/launches", _Fields(consent.text).values)
        _until_it_runs(visitor, str(launched.url))
        assert [one for one in container_engine.containers() if one["State"] == "running"]
    assert processes_of(folder) == []
    assert container_engine.containers() == []


def test_without_an_engine_the_demo_says_what_is_missing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "demo", "--port", str(first_of_free_ports()), "--dir", str(tmp_path / "demo")],
        cwd=ROOT,
        env={**os.environ, "REPLAY_BUILDER": "docker", "PATH": str(Path(sys.executable).parent)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "needs Docker" in done.stderr
    assert not (tmp_path / "demo" / "state").exists()


def _until_it_runs(visitor: Visitor, launch_url: str) -> None:
    launch_id = launch_url.rsplit("/", 1)[1]
    deadline = time.monotonic() + 240
    state = ""
    while state not in {"running", "failed", "ended"}:
        assert time.monotonic() < deadline, f"the launch is still {state}"
        time.sleep(0.5)
        state = visitor.open(f"/services/replay/api/launches/{launch_id}").json()["state"]
    assert state == "running"


def test_whatever_happens_to_the_hub_nothing_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    process = subprocess.Popen(
        [sys.executable, "-m", "demo", "--port", str(first_of_free_ports()), "--dir", str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout:
        assert any("Ctrl-C" in line for line in process.stdout)
        (hub,) = [child for child in psutil.Process(process.pid).children() if "jupyterhub" in child.cmdline()]
        hub.kill()
        said = process.stdout.read()
    assert process.wait(60) == 1
    assert "The hub ended by itself" in said
    assert "Nothing is left running." in said
    assert processes_of(folder) == []


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "demo", "--port", str(port), "--dir", str(tmp_path / "demo")],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert f"Port {port} is in use" in done.stderr
    assert "PORT=" in done.stderr


def test_a_badge_is_there_for_any_page_in_the_world(tmp_path: Path) -> None:
    with running_demo(tmp_path / "demo", first_of_free_ports()) as demo:
        for name in ("badge_logo.svg", "badge.svg"):
            answer = httpx.get(f"{demo.url}/{name}", headers={"Origin": "https://elsewhere.example.org"})
            assert answer.status_code == 200
            assert answer.headers["Content-Type"] == "image/svg+xml"
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
            assert httpx.head(f"{demo.url}/{name}").status_code == 200
