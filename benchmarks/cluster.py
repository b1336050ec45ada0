"""Launches and builds on a cluster, each against the stock tool, in one run, in turn.

A Kubernetes, an engine, a registry and images of our own making, as in the tests; or the cluster that the environment
names. A server is ready when the event says so that its person follows, Replay's or the hub's: nobody asks again and
again, which would take the little that such a machine has from the pod that starts.
"""

import asyncio
import json
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Self

from benchmarks import containers
from benchmarks.containers import contents, environment_dockerfile, spread3, stock_build
from benchmarks.figures import spread
from demo.git_server import GitServer
from demo.people import ADA, Person
from replay_build_service.builders.kubernetes.pods import BUILDER
from replay_build_service.domain import EventKind, Phase, RunnableImage
from replay_spawner.kube.pods import NOTEBOOK
from tests.cluster.builds import BuildBench
from tests.cluster.conftest import digest_of, made_builder_image, made_notebook_image, pushed
from tests.cluster.external import external_cluster
from tests.cluster.kube import Kube
from tests.cluster.kubernetes import Cluster
from tests.cluster.site import ClusterSites
from tests.cluster.test_whole_way import CROWD
from tests.containers.engine import ContainerEngine
from tests.containers.site import BASE_TAG
from tests.registry_server import RegistryServer
from tests.site import ApiClient, Site, Sites, make_repository

CROWDS = 2
"""How often everybody comes at once, to each of the two hubs."""
ROUNDS_OF_BUILDS = 3
SECONDS = 600
"""For any one thing to happen."""

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
class Bench:
    """What stands around launches and builds."""

    sites: ClusterSites
    """Without namespaces: each site has its own."""
    git: GitServer
    notebook_image: str
    folder: Path
    resources: ExitStack

    @property
    def kube(self) -> Kube:
        return self.sites.kube

    def namespaces(self) -> ClusterSites:
        """For one more site."""
        names = {name: self.resources.enter_context(self.kube.namespace(name)) for name in ("users", "builds")}
        return replace(self.sites, **names)


@contextmanager
def bench(folder: Path) -> Generator[Bench]:
    for name in ("registry", "git"):
        (folder / name).mkdir(parents=True)
    with ExitStack() as made:
        cluster = external_cluster() or made.enter_context(Cluster())
        kube = made.enter_context(Kube(cluster))
        registry = RegistryServer(folder / "registry", host=cluster.host_address, port=cluster.registry_port)
        made.enter_context(registry)
        host = registry.settings().host
        cluster.trust_registry(host)
        engine = made.enter_context(ContainerEngine(insecure_registries=[host]))
        engine.import_base(f"{host}/{BASE_TAG}")
        pushed(engine, f"{host}/{BASE_TAG}")
        base, builder = digest_of(engine, f"{host}/{BASE_TAG}"), made_builder_image(engine, host)
        git = made.enter_context(GitServer(folder / "git", host=cluster.host_address, loopback_only=False))
        sites = ClusterSites(cluster, kube, engine, registry, base, builder, users="", builds="")
        yield Bench(sites, git, made_notebook_image(engine, host), folder, made)


class PodWatch:
    """When pods of a namespace were made and when a container of theirs ran, as this machine heard of it.

    By the clock of `time.perf_counter`. A context manager.
    """

    def __init__(self, kube: Kube, namespace: str, container: str) -> None:
        started = f'{{.status.containerStatuses[?(@.name=="{container}")].state.running.startedAt}}'
        self._command = kube.cluster.kubectl_command(
            "get", "pods", f"--namespace={namespace}", "--watch-only", f'--output=jsonpath={{.metadata.uid}} {started}{{"\\n"}}'
        )  # fmt: skip
        self._process: subprocess.Popen[str] | None = None
        self.made: dict[str, float] = {}
        """By uid."""
        self.runs: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout
        for line in process.stdout:
            now, words = time.perf_counter(), line.split()
            if words:
                self.made.setdefault(words[0], now)
            if len(words) > 1:
                self.runs.setdefault(words[0], now)

    def last_since(self, moment: float) -> tuple[float, float]:
        """When the last one was made of the pods that were made since, and when the last one's container ran."""
        new = [uid for uid, made in self.made.items() if made > moment]
        return max(self.made[uid] for uid in new), max(self.runs[uid] for uid in new)


# ---- launches


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


# ---- builds


@dataclass(frozen=True)
class Built:
    """One build in a pod: seconds."""

    taken: float
    """All of it: until the service knows the image."""
    pod_start: float
    """From the pod's making to its builder's running, as this machine heard of both."""
    until_phase: Mapping[str, float]
    """From the start to what the build itself said, ``end`` being its last word."""


async def our_build(builds: BuildBench, watch: PodWatch, files: Mapping[str, str]) -> Built:
    """By the builder as the service uses it."""
    async with builds.builder() as builder:
        job = builds.job(builder, files)
        phases: dict[str, float] = {}
        began, began_at = time.perf_counter(), time.time()
        build = await builder.start(job)
        async for chunk in build.follow(0):
            for record in chunk.records:
                if record.phase is not Phase.WAITING:
                    phases["end"] = record.at - began_at
                    if record.kind is EventKind.PHASE:
                        phases.setdefault(record.phase.value, record.at - began_at)
        outcome = await build.outcome()
        taken = time.perf_counter() - began
        if not isinstance(outcome, RunnableImage):
            raise RuntimeError(outcome.message)
        await builder.tidy(job)
        made, runs = watch.last_since(began)
        return Built(taken, runs - made, phases)


def measure_builds(made: Bench) -> str:
    """A build's pod against bare repo2docker on this machine, with the same engine, pushed to the same registry."""
    around, engine = made.namespaces(), made.sites.engine
    builds = BuildBench(
        around.cluster, made.kube, engine, around.registry, made.git, around.base_image, around.builder_image,
        around.builds, made.folder,
    )  # fmt: skip
    stock = containers.Bench(engine, around.registry, made.folder)
    ours: list[Built] = []
    bare: list[float] = []
    with PodWatch(made.kube, around.builds, BUILDER) as watch:
        for number in range(ROUNDS_OF_BUILDS + 1):
            for which in ("pod", "bare") if number % 2 == 0 else ("bare", "pod"):
                engine.docker("builder", "prune", "--all", "--force")
                files = {"Dockerfile": a_new_environment(around.base_image), **contents()}
                if which == "pod":
                    ours.append(asyncio.run(our_build(builds, watch, files)))
                    print(ours[-1], file=sys.stderr)
                else:
                    name = f"bare-{secrets.token_hex(4)}"
                    bare.append(stock_build(stock, make_repository(made.git, made.folder / name, name, files)))
                    print(f"bare repo2docker: {bare[-1]:.2f}", file=sys.stderr)
    # The first one of each had the builder's image to fetch, and files to read from the disk.
    del ours[0], bare[0]
    start = median(one.pod_start for one in ours)
    said = {name: median(one.until_phase[name] for one in ours) for name in ours[0].until_phase}
    return f"""### Builds in a pod, {ROUNDS_OF_BUILDS} interleaved rounds, nothing cached, pushed

| | seconds |
| --- | --- |
| a build's pod, all of it | {spread3([one.taken for one in ours])} |
| of that, the pod's start | {spread3([one.pod_start for one in ours])} |
| bare repo2docker | {spread3(bare)} |

Without the pod's start, ratio of the medians: **{(median(one.taken for one in ours) - start) / median(bare):.2f}** (asked: at
most 1.1); with it, {median(one.taken for one in ours) / median(bare):.2f}. From the start until the build said so, medians:
{", ".join(f"{name} {seconds:.1f} s" for name, seconds in said.items())}.
"""


def a_new_environment(base: str) -> str:
    """As a build with an engine has it, and never the same twice."""
    return environment_dockerfile(base).replace("RUN python3", f"RUN echo {secrets.token_hex(8)}; python3")


def measure(folder: Path, rounds: int) -> str:
    """The Markdown of all of it, on one cluster."""
    with bench(folder) as made:
        return f"{measure_launches(made, rounds)}\n{measure_builds(made)}"
