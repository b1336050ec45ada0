"""What a hub that was killed leaves of its sessions, and what becomes of that when it is started again."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.plan_hub import ADA, PlanHub

pytestmark = [pytest.mark.needs("proxy", "linux"), pytest.mark.timeout(600)]

BORIS = "boris"

_SERVER = """
import http.server, os, urllib.parse
where = urllib.parse.urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"])
http.server.ThreadingHTTPServer((where.hostname, where.port), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
SERVES = [sys.executable, "-c", _SERVER]
NEVER_SERVES = [sys.executable, "-c", "import time; time.sleep(1000)"]


class CrashingHub(PlanHub):
    """A hub whose sessions are processes, which outlive it."""

    def crash(self) -> None:
        proxies = [child for child in self.process.children() if "configurable-http-proxy" in " ".join(child.cmdline())]
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)
        self._process = None
        for proxy in proxies:
            proxy.kill()
        psutil.wait_procs(proxies, timeout=10)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[CrashingHub]:
    config = """
c.ReplayLocalSpawner.sessions_dir = "sessions"
c.ReplayMixin.replay_sweep_seconds = 1
c.ReplayMixin.replay_sweep_grace = 0
"""
    made = CrashingHub(tmp_path, "replay_spawner.ReplayLocalSpawner", "127.0.0.1", {}, config)
    try:
        made.start()
        yield made
    finally:
        made.close()
        for process in of_launch(None, tmp_path):
            process.kill()


def of_launch(launch: str | None, folder: Path) -> list[psutil.Process]:
    """The processes of one launch, or of all launches of the hub in that folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            named = process.environ().get("REPLAY_LAUNCH")
            is_meant = process.cwd().startswith(str(folder)) and named if launch is None else named == launch
            if is_meant and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def told_of(launch: str, hub: PlanHub) -> list[str]:
    return [line for line in hub.log.splitlines() if "leftovers of sessions" in line and f"of launch {launch}" in line]


def test_what_a_killed_hub_left_is_removed_by_the_next_and_what_runs_stays(hub: CrashingHub, tmp_path: Path) -> None:
    sessions = tmp_path / "sessions"
    running = hub.plans.add("/nowhere", None, command=SERVES)
    assert hub.ask({"launch": running}).status_code == 201, hub.log[-3000:]
    (server,) = of_launch(running, tmp_path)

    # Killed in the middle of a start: of its process no record says anything.
    unfinished = hub.plans.add("/nowhere", None, command=NEVER_SERVES)
    with ThreadPoolExecutor(1) as person:
        start = person.submit(hub.ask, {"launch": unfinished}, BORIS)
        hub.until(lambda: len(of_launch(unfinished, tmp_path)) == 1, "its process is there")
        hub.crash()
        start.exception()  # whatever the proxy says of a hub that is gone
    (orphan,) = of_launch(unfinished, tmp_path)
    # Of sessions of which the hub knows nothing at all: a folder, and a process whose folder is gone.
    forgotten, vanished = secrets.token_hex(16), secrets.token_hex(16)
    (sessions / forgotten / "home" / "project").mkdir(parents=True)
    environment = {**os.environ, "REPLAY_LAUNCH": vanished, "REPLAY_HUB": server.environ()["REPLAY_HUB"]}
    late = subprocess.Popen(NEVER_SERVES, env=environment, cwd=tmp_path)
    (sessions / "of-the-admin").mkdir()

    hub.start()
    hub.until(
        lambda: sorted(path.name for path in sessions.iterdir()) == sorted([running, "of-the-admin"]),
        "what was left is removed",
    )
    hub.until(lambda: not orphan.is_running() and late.poll() is not None, "its processes have ended")
    for launch, what in ((unfinished, "folder"), (forgotten, "folder"), (vanished, f"process {late.pid}")):
        hub.until(lambda launch=launch: bool(told_of(launch, hub)), "it is told in the log")  # type: ignore[misc]
        (line,) = told_of(launch, hub)
        assert what in line

    assert server.is_running()
    assert hub.server() is not None
    assert hub.inside("").headers["Server"].startswith("SimpleHTTP"), "it answers"
    hub.stop_server()
    assert not server.is_running()
    assert [path.name for path in sessions.iterdir()] == ["of-the-admin"]


def test_a_hub_that_lost_its_records_removes_what_it_does_not_know(hub: CrashingHub, tmp_path: Path) -> None:
    """Nobody has a server then, so it begins with the first person who comes."""
    launch = hub.plans.add("/nowhere", None, command=SERVES)
    assert hub.ask({"launch": launch}).status_code == 201, hub.log[-3000:]
    (server,) = of_launch(launch, tmp_path)
    hub.crash()
    (tmp_path / "jupyterhub.sqlite").unlink()
    hub.start()
    assert hub.server(ADA) is None
    assert server.is_running()
    assert hub.ask(None, BORIS).status_code in {201, 500}, "an ordinary server, whatever becomes of it"
    hub.until(lambda: not server.is_running(), "the session ends")
    hub.until(lambda: not list((tmp_path / "sessions").iterdir()), "and its folder goes")
