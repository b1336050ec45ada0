"""Launches and builds on a cluster, each against the stock tool, in one run, in turn.

A Kubernetes, an engine, a registry and images of our own making, as in the tests; or the cluster that the environment
names. A server is ready when the event says so that its person follows, Replay's or the hub's: nobody asks again and
again, which would take the little that such a machine has from the pod that starts.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.cluster_bench import SECONDS, Bench, PodWatch, bench
from benchmarks.cluster_builds import measure_builds
from benchmarks.containers import spread3
from benchmarks.figures import spread
from demo.people import ADA, Person
from replay_spawner.kube.pods import NOTEBOOK
from tests.cluster.site import ClusterSites
from tests.cluster.test_whole_way import CROWD
from tests.site import ApiClient, Site, Sites

CROWDS = 2
"""How often everybody comes at once, to each of the two hubs."""

# As a session's pod is: what the plain hub would do otherwise is no part of the comparison.
_THE_SAME_POD = """
c.JupyterHub.spawner_class = "kubespawner.KubeSpawner"
c.KubeSpawner.image = {image!r}
c.KubeSpawner.image_pull_policy = "IfNotPresent"
c.KubeSpawner.cmd = ["jupyterhub-singleuser"]
c.KubeSpawner.mem_guarantee = {guarantee!r}
c.KubeSpawner.mem_limit = {limit!r}
c.KubeSpawner.extra_container_config = {{"securityContext": {security!r}}}
c.KubeSpawner.extra_pod_config = {{"dnsPolicy": "Default", "restartPolicy": "Never", "enableServiceLinks": False}}
c.Spawner.default_url = ""
"""
# Twenty servers on two cores take their time, and neither hub is to give up on them.
_PATIENCE = "c.Spawner.start_timeout = 300\nc.Spawner.http_timeout = 300\n"
_RESOURCES = {"MEM_GUARANTEE": "64M", "MEM_LIMIT": "1G"}


@dataclass(frozen=True)
class Started:
    """One person's server, or the last one of many people's: seconds from the POST."""

    made: float
    """To its pod."""
    runs: float
    """To its container."""
    ready: float


@dataclass
class Side:
    """One of the two hubs."""

    site: Site
    sites: ClusterSites
    launch: Callable[[ApiClient], None]
    """Asks for a server and returns once it is ready."""
    watch: PodWatch
    clients: dict[Person, ApiClient] = field(default_factory=dict[Person, ApiClient])

    def together(self, *people: Person) -> Started:
        """All of them at once."""
        with ThreadPoolExecutor(len(people)) as all_at_once:
            began = time.perf_counter()
            ready = max(all_at_once.map(self._ready, people))
        made, runs = self.watch.last_since(began)
        self.stop(*people)
        return Started(made - began, runs - began, ready - began)

    def _ready(self, person: Person) -> float:
        """When the person's server was ready, and answered."""
        client = self.clients[person]
        self.launch(client)
        client.http.get(f"{self.site.url}/user/{person.voperson_id}/api").raise_for_status().json()
        return time.perf_counter()

    def stop(self, *people: Person) -> None:
        """Nothing of them runs any more when this returns."""
        with ThreadPoolExecutor(len(people)) as all_at_once:
            list(all_at_once.map(self.site.stop_server, people))
        kube, users = self.sites.kube, self.sites.users
        kube.wait_until(lambda: not kube.pods(users), f"no pod is left in {users}", SECONDS)

    def pod(self) -> dict[str, Any]:
        """The one that there is."""
        (found,) = self.sites.kube.pods(self.sites.users)
        return found


def launched_by_replay(client: ApiClient, link: str) -> None:
    launch = client.launch(link).raise_for_status().json()["id"]
    last: Mapping[str, Any] = {}
    for _, last in client.events(launch, timeout=SECONDS):
        if last.get("phase") == "ready":
            return
    raise RuntimeError(f"there is no server: {last}")


def started_by_the_hub(client: ApiClient) -> None:
    server = f"{client.site.url}/hub/api/users/{client.person.voperson_id}/server"
    client.http.post(server).raise_for_status()
    line = ""
    with client.http.stream("GET", f"{server}/progress", timeout=SECONDS) as told:
        for line in told.iter_lines():
            if line.startswith("data: ") and json.loads(line[6:]).get("ready"):
                return
    raise RuntimeError(f"there is no server: {line}")


def measure_launches(made: Bench, rounds: int) -> str:
    """One person and twenty, through Replay and through a plain hub, with an image that the node has."""
    people = (ADA, *CROWD)
    with Sites(made.folder / "sites") as sites, ExitStack() as watches:
        ours = made.namespaces()
        both: dict[str, Any] = {"people": people, "settings": _RESOURCES}
        site = ours.start(sites.start, made.folder, extra_config=_PATIENCE, **both)
        dockerfile = f"FROM {made.notebook_image}\nRUN true\nUSER 1000\n"
        repo = site.repository("bench", {"Dockerfile": dockerfile})
        link = repo.spec.removesuffix("HEAD") + repo.commit
        watch = watches.enter_context(PodWatch(made.kube, ours.users, NOTEBOOK))
        replay = Side(site, ours, lambda client: launched_by_replay(client, link), watch)
        replay.clients[ADA] = ada = site.client(ADA)
        image = ada.launch_and_wait(repo)["image"]
        session = replay.pod()
        replay.stop(ADA)

        other = made.namespaces()
        config = _THE_SAME_POD.format(
            image=image,
            guarantee=_RESOURCES["MEM_GUARANTEE"],
            limit=_RESOURCES["MEM_LIMIT"],
            security=session["spec"]["containers"][0]["securityContext"],
        )
        plain_site = other.start(sites.start, made.folder, extra_config=_PATIENCE + config, **both)
        watch = watches.enter_context(PodWatch(made.kube, other.users, NOTEBOOK))
        plain = Side(plain_site, other, started_by_the_hub, watch)
        plain.clients[ADA] = plain_site.client(ADA)
        plain.launch(plain.clients[ADA])
        unlike = differences(session, plain.pod())
        plain.stop(ADA)

        sides = (plain, replay)
        for side in sides:
            side.together(ADA)
        alone = in_turn(sides, rounds, ADA)
        for side in sides:
            side.clients |= {person: side.site.client(person) for person in CROWD}
        crowds = in_turn(sides, CROWDS, *CROWD)
    return f"""### A launch of an image that the node has, {rounds} interleaved rounds

{table(*alone, spread)}
The pods are alike in image, command, resources and security{f", but for {', '.join(unlike)}" if unlike else ""}.
Ratio of the medians: **{ratio(*alone):.2f}** (asked: at most 1.0).

### {len(CROWD)} people at once with an image that the node has, {CROWDS} times each

Until the last one's:

{table(*crowds, spread3)}
Ratio of the medians: **{ratio(*crowds):.2f}** (asked: at most 1.05).
"""


def in_turn(sides: tuple[Side, Side], rounds: int, *people: Person) -> tuple[list[Started], list[Started]]:
    """A round of each, in either order, so that neither always comes second."""
    seen: tuple[list[Started], list[Started]] = ([], [])
    for number in range(rounds):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            seen[which].append(sides[which].together(*people))
            print(f"{('KubeSpawner', 'Replay')[which]} × {len(people)}: {seen[which][-1]}", file=sys.stderr)
    return seen


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Where two pods that should be alike are not."""
    notebooks = [pod["spec"]["containers"][0] for pod in (one, other)]
    specs = [pod["spec"] for pod in (one, other)]
    within = [
        name
        for name in ("image", "command", "args", "workingDir", "resources", "securityContext", "imagePullPolicy")
        if notebooks[0].get(name) != notebooks[1].get(name)
    ]
    around = [
        name
        for name in ("restartPolicy", "dnsPolicy", "enableServiceLinks", "automountServiceAccountToken", "volumes")
        if specs[0].get(name) != specs[1].get(name)
    ]
    return within + around


def table(plains: Sequence[Started], replays: Sequence[Started], shown: Callable[[list[float]], str]) -> str:
    lines = [
        f"| {name} | {shown([one.ready for one in seen])} | {shown([one.made for one in seen])} | {shown([one.runs for one in seen])} |\n"
        for name, seen in (("KubeSpawner", plains), ("Replay", replays))
    ]
    head = "| | from the POST to a server that is ready | to its pod | to its running container |\n| --- | --- | --- | --- |\n"
    return head + "".join(lines)


def ratio(plains: Sequence[Started], replays: Sequence[Started]) -> float:
    return median(one.ready for one in replays) / median(one.ready for one in plains)


def measure(folder: Path, rounds: int) -> str:
    """The Markdown of all of it, on one cluster."""
    with bench(folder) as made:
        return f"{measure_launches(made, rounds)}\n{measure_builds(made)}"
