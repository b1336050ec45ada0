"""A cached launch through Replay against the hub's own SimpleLocalProcessSpawner, same server, same environment.

Two hubs run side by side; rounds alternate. A round is one server: from the POST until the server answers through the
proxy. Our own share is what lies between the POST and the start of the process, over what the plain hub needs for that:
both spawners log the moment with milliseconds.
"""

import re
import time
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import TypeAlias

import httpx

from benchmarks.figures import spread
from demo.people import ADA
from tests.site import ApiClient, Repo, Site, Sites

LOOK_SECONDS = 0.01
FIRST_LOOK_SECONDS = 0.3
"""Looks keep the hub busy, so none comes while a start is still on its way to its process. No server is ready before."""

Round: TypeAlias = tuple[float, float]


class PlainHub:
    """The same hub with the same login, but with the stock spawner, which starts the environment's own server."""

    def __init__(self, sites: Sites, environment: Path) -> None:
        self.site = sites.start(
            extra_config=f"""
import os
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = os.path.abspath("home-{{username}}")
c.Spawner.cmd = ["{environment}/bin/jupyterhub-singleuser"]
c.Spawner.args = ["--allow-root"] if os.geteuid() == 0 else []
"""
        )
        self.ada = self.site.client(ADA)
        self.log = self.site.folder / "hub.log"

    def round(self) -> Round:
        """Seconds to a server that answers, and to the start of its process."""
        with httpx.Client(base_url=self.site.url, headers=dict(self.ada.http.headers), timeout=60) as http:
            http.get("/hub/api/user").raise_for_status()
            mark, began, clock = self.log.stat().st_size, time.time(), time.perf_counter()
            http.post(f"/hub/api/users/{ADA.voperson_id}/server").raise_for_status()
            until_served(http, f"/user/{ADA.voperson_id}/api")
            taken = time.perf_counter() - clock
        self.site.stop_server(ADA)
        return taken, started_at(self.log, mark) - began


def until_served(http: httpx.Client, path: str) -> None:
    """Until the server's own answer comes through the proxy; before that the hub answers for it."""
    deadline = time.monotonic() + 120
    time.sleep(FIRST_LOOK_SECONDS)
    while True:
        answer = http.get(path)
        if answer.status_code == 200 and answer.headers.get("content-type", "").startswith("application/json"):
            return
        if time.monotonic() > deadline:
            raise TimeoutError(path)
        # A server that answers is no event for anybody outside; both hubs are looked at alike.
        time.sleep(LOOK_SECONDS)


def started_at(log: Path, mark: int) -> float:
    """When, after ``mark`` bytes of the hub's log, a spawner said that it starts a process."""
    with log.open("rb") as file:
        file.seek(mark)
        text = file.read().decode("utf8", "replace")
    found = re.search(r"\[I (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) JupyterHub [^]]*\] Spawning ", text)
    if found is None:
        raise ValueError("the log does not say when the process was started")
    return datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S.%f").astimezone().timestamp()


def replay_round(site: Site, ada: ApiClient, repo: Repo) -> Round:
    """The same through Replay: from the POST of the launch."""
    log = site.folder / "hub.log"
    with httpx.Client(base_url=site.url, headers=dict(ada.http.headers), timeout=60) as http:
        http.get("/services/replay/health").raise_for_status()
        mark, began, clock = log.stat().st_size, time.time(), time.perf_counter()
        wish = {"repo": repo.spec.removesuffix("HEAD") + repo.commit}
        http.post("/services/replay/api/launches", json=wish).raise_for_status()
        until_served(http, f"/user/{ADA.voperson_id}/api")
        taken = time.perf_counter() - clock
    site.stop_server(ADA)
    return taken, started_at(log, mark) - began


def one_pair(plain: PlainHub, site: Site, ada: ApiClient, repo: Repo, *, plain_first: bool) -> tuple[Round, Round]:
    """A round of each, in either order, so that neither always comes second."""
    if plain_first:
        return plain.round(), replay_round(site, ada, repo)
    replay = replay_round(site, ada, repo)
    return plain.round(), replay


def measure(folder: Path, rounds: int) -> str:
    """The Markdown of this measurement."""
    with Sites(folder / "sites") as sites:
        site = sites.start()
        repo = site.repository("bench", {"hello.txt": "hello\n"})
        ada = site.client(ADA)
        ada.launch_and_wait(repo)
        site.stop_server(ADA)
        (environment,) = (site.state / "builds").glob("*/venv")
        plain = PlainHub(sites, environment)
        plain.round()
        replay_round(site, ada, repo)
        pairs = [one_pair(plain, site, ada, repo, plain_first=number % 2 == 0) for number in range(rounds)]
    hubs, replays = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    ratio = median(taken for taken, _ in replays) / median(taken for taken, _ in hubs)
    share = median(start for _, start in replays) - median(start for _, start in hubs)
    return f"""### A cached launch, {rounds} interleaved rounds

| | from the POST to a server that answers | from the POST to the start of its process |
| --- | --- | --- |
| SimpleLocalProcessSpawner | {spread([t for t, _ in hubs])} | {spread([s for _, s in hubs], "ms", 1000, 0)} |
| Replay | {spread([t for t, _ in replays])} | {spread([s for _, s in replays], "ms", 1000, 0)} |

Ratio of the medians: **{ratio:.2f}** (asked: at most 1.0). Our own share: **{share * 1000:.0f} ms** (asked: at most 20 ms).
"""
