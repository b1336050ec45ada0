"""Builds and launches with a container engine, each against the stock tool, in one run, in turn.

An engine, a registry and base images of our own making, as in the tests.
"""

import asyncio
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx
import psutil

from benchmarks.figures import spread
from benchmarks.launch import until_served
from demo.git_server import GitServer
from demo.people import ADA
from replay_build_service.builders.docker.builder import DockerBuilder
from replay_build_service.builders.docker.engine import Engine
from replay_build_service.builders.docker.recipe import pinned_base_image, recipe_of
from replay_build_service.builders.docker.settings import DockerBuilderSettings
from replay_build_service.domain import BuildId, BuildJob, ImageName, ResolvedRef, RunnableImage
from replay_build_service.links import Repository, RepoSpec
from replay_build_service.outgoing import OutgoingRules
from replay_build_service.registry import Images, Registry
from tests.containers.engine import ContainerEngine
from tests.containers.site import BASE_TAG, NOTEBOOK_TAG, ContainerSites
from tests.containers.tools import build_variables
from tests.registry_server import RegistryServer
from tests.site import ApiClient, Repo, Site, Sites, make_repository

ROUNDS_OF_BUILDS = 3
LAYER_BYTES = 20_000_000
"""What a commit changes: notebooks and their data."""


@dataclass(frozen=True)
class Bench:
    engine: ContainerEngine
    registry: RegistryServer
    folder: Path

    @property
    def host(self) -> str:
        return self.registry.settings().host


@contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    folder.mkdir(parents=True)
    with RegistryServer(folder / "registry") as registry, ContainerEngine() as engine:
        made = Bench(engine, registry, folder)
        engine.import_base(f"{made.host}/{BASE_TAG}")
        engine.make_notebook_image(f"{made.host}/{BASE_TAG}", f"{made.host}/{NOTEBOOK_TAG}", "jupyterhub jupyterlab")
        for tag in (BASE_TAG, NOTEBOOK_TAG):
            engine.docker("push", "--quiet", f"{made.host}/{tag}")
        yield made


def environment_dockerfile(base: str) -> str:
    """A repository with an environment of its own, installed before its sources are copied."""
    return (
        f"FROM {base}\nRUN python3 -m venv /opt/e && /opt/e/bin/pip install --quiet --no-cache-dir numpy pandas\n"
        "RUN useradd --create-home --uid 1000 jovyan\nCOPY --chown=1000 . /home/jovyan/\nUSER 1000\n"
    )


def contents() -> dict[str, str]:
    """Data that no compression makes small."""
    return {"data.txt": secrets.token_hex(LAYER_BYTES // 2)}


# ---- builds


async def our_build(made: Bench, git: GitServer, engine: ContainerEngine, repo: Repo, earlier: list[RunnableImage]) -> tuple[float, RunnableImage]:  # fmt: skip
    """Seconds from the start of a build to its image, by the builder as the service uses it."""
    settings = DockerBuilderSettings(
        builds_dir=made.folder / "builds",
        engine=engine.host,
        docker_config=engine.config_folder,
        environment=build_variables(),
        outgoing=OutgoingRules(exempt_origins=frozenset({git.url})),
    )
    async with AsyncExitStack() as resources:
        client = await resources.enter_async_context(Engine(engine.host))
        known = made.registry.settings()
        registry = Images(await resources.enter_async_context(Registry(known)), known.host)
        base = await pinned_base_image(f"{made.host}/{BASE_TAG}", client)
        builder = DockerBuilder(settings, recipe_of(settings, base), base, client, registry)
        resolved = ResolvedRef(Repository.of_url(repo.url), RepoSpec("git", repo.url, "HEAD"), repo.url, repo.commit)
        job = BuildJob(BuildId(secrets.token_hex(8)), ImageName.of(resolved, builder.recipe), resolved, builder.recipe)
        began = time.perf_counter()
        build = await builder.start(job, earlier)
        async for _ in build.follow(0):
            pass
        outcome = await build.outcome()
        taken = time.perf_counter() - began
        if not isinstance(outcome, RunnableImage):
            raise RuntimeError(outcome.message)
        await builder.tidy(job)
        return taken, outcome


def stock_build(made: Bench, repo: Repo) -> float:
    """Seconds of bare repo2docker, which fetches from the same place."""
    name = f"{made.host}/stock:{secrets.token_hex(8)}"
    # Its provider for Dataverse would ask a server of the world for a list first.
    configuration = made.folder / "stock_config.py"
    configuration.write_text("from repo2docker.contentproviders import Git\nc.Repo2Docker.content_providers = [Git]\n")
    command = (sys.executable, "-m", "repo2docker", "--no-run", "--push", "--image-name", name, "--user-id", "1000",
               "--user-name", "jovyan", "--config", str(configuration), "--ref", repo.commit, repo.url)  # fmt: skip
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **made.engine.environment})
    return time.perf_counter() - began


def measure_builds(folder: Path, _rounds: int) -> str:
    """From nothing against bare repo2docker; a commit that changes contents only, on the same and on an empty engine."""
    with bench(folder) as made, GitServer(folder / "git") as git:
        os.environ["PATH"] = made.engine.environment["PATH"]
        repository = RepositoryUnderTest(made, git)
        ours: list[float] = []
        stock: list[float] = []
        for number in range(ROUNDS_OF_BUILDS):
            for which in ("ours", "stock") if number % 2 == 0 else ("stock", "ours"):
                made.engine.docker("builder", "prune", "--all", "--force")
                repo = repository.commit(environment=secrets.token_hex(4))
                if which == "ours":
                    ours.append(asyncio.run(our_build(made, git, made.engine, repo, []))[0])
                else:
                    stock.append(stock_build(made, repo))
        _, last = asyncio.run(our_build(made, git, made.engine, repository.commit(), []))
        images = [last]
        same, floor_same, empty, floor_empty = [], [], [], []
        for _ in range(ROUNDS_OF_BUILDS):
            floor_same.append(layer_alone(made, made.engine))
            taken, last = asyncio.run(our_build(made, git, made.engine, repository.commit(), images))
            same.append(taken)
            images.insert(0, last)
        for _ in range(ROUNDS_OF_BUILDS):
            with ContainerEngine(with_network=False) as other:
                began = time.perf_counter()
                other.docker("pull", "--quiet", last.location)
                floor_empty.append(time.perf_counter() - began + layer_alone(made, other))
            with ContainerEngine(with_network=False) as other:
                taken, last = asyncio.run(our_build(made, git, other, repository.commit(), images))
                empty.append(taken)
                images.insert(0, last)
    return f"""### Builds with repo2docker, {ROUNDS_OF_BUILDS} rounds each

| | seconds | against | ratio of the medians | asked |
| --- | --- | --- | --- | --- |
| from nothing, pushed | {spread3(ours)} | bare repo2docker: {spread3(stock)} | **{median(ours) / median(stock):.2f}** | at most 1.05 |
| only contents changed, same engine | {spread3(same)} | the layer's own build and push: {spread3(floor_same)} | **{median(same) / median(floor_same):.2f}** | at most 2 |
| only contents changed, empty engine | {spread3(empty)} | pulling the layers, building and pushing that one: {spread3(floor_empty)} | **{median(empty) / median(floor_empty):.2f}** | at most 1.3 |
"""


def spread3(values: list[float]) -> str:
    """Too few for quartiles: the median, the least and the most."""
    return f"{median(values):.2f} s ({min(values):.2f} to {max(values):.2f})"


class RepositoryUnderTest:
    """Commits to one repository: new contents each time, a new environment where asked."""

    def __init__(self, made: Bench, git: GitServer) -> None:
        self._made, self._git = made, git
        self._environment = "first"

    def commit(self, environment: str | None = None) -> Repo:
        self._environment = environment or self._environment
        text = environment_dockerfile(f"{self._made.host}/{BASE_TAG}").replace("RUN useradd", f"RUN echo {self._environment}; useradd")  # fmt: skip
        if environment:
            text = text.replace("RUN python3", f"RUN echo {environment}; python3")
            self._text = text
        files = {"Dockerfile": getattr(self, "_text", text), **contents()}
        return make_repository(self._git, self._made.folder / "work", "bench", files)


def layer_alone(made: Bench, engine: ContainerEngine) -> float:
    """Seconds to build and push one layer of the same size on an image that the engine has, with nothing around it."""
    context = made.folder / f"layer-{secrets.token_hex(4)}"
    context.mkdir()
    for name, text in contents().items():
        (context / name).write_text(text)
    (context / "Dockerfile").write_text(f"FROM {made.host}/{BASE_TAG}\nCOPY . /home/jovyan/\n")
    if engine is not made.engine:
        engine.docker("pull", "--quiet", f"{made.host}/{BASE_TAG}")
    began = time.perf_counter()
    engine.docker("buildx", "build", "--quiet", "--push", "--tag", f"{made.host}/layer:{context.name}", str(context))
    taken = time.perf_counter() - began
    shutil.rmtree(context)
    return taken


# ---- launches


def measure_launch(folder: Path, rounds: int) -> str:
    """A launch of an image that is present, against bare dockerspawner with the same image."""
    with bench(folder / "bench") as made, Sites(folder / "sites") as sites:
        site = ContainerSites(made.engine, made.registry).start(sites)
        repo = site.repository("bench", {"Dockerfile": f"FROM {made.host}/{NOTEBOOK_TAG}\nRUN true\nUSER 1000\n"})
        ada = site.client(ADA)
        image = ada.launch_and_wait(repo)["image"]
        site.stop_server(ADA)
        plain = plain_site(sites, made, image)
        plain_ada = plain.client(ADA)
        plain_round(plain, plain_ada, made.engine)
        replay_round(site, ada, repo, made.engine)
        plains, replays = [], []
        for number in range(rounds):
            if number % 2 == 0:
                plains.append(plain_round(plain, plain_ada, made.engine))
            replays.append(replay_round(site, ada, repo, made.engine))
            if number % 2:
                plains.append(plain_round(plain, plain_ada, made.engine))
    ratio = median(taken for taken, _ in replays) / median(taken for taken, _ in plains)
    share = median(made for _, made in replays) - median(made for _, made in plains)
    return f"""### A launch of an image that is present, {rounds} interleaved rounds

| | from the POST to a server that answers | from the POST to its container |
| --- | --- | --- |
| DockerSpawner | {spread([t for t, _ in plains])} | {spread([s for _, s in plains], "ms", 1000, 0)} |
| Replay | {spread([t for t, _ in replays])} | {spread([s for _, s in replays], "ms", 1000, 0)} |

Ratio of the medians: **{ratio:.2f}** (asked: at most 1.0). Our own share: **{share * 1000:.0f} ms** (asked: at most 20 ms).
"""


def plain_site(sites: Sites, made: Bench, image: str) -> Site:
    """The same hub with the stock DockerSpawner."""
    environment = {"PATH": made.engine.environment["PATH"], "DOCKER_HOST": made.engine.host}
    return sites.start(
        settings={"HUB_ADDRESS": made.engine.gateway},
        environment=environment,
        extra_config=f"""
c.JupyterHub.spawner_class = "docker"
c.DockerSpawner.image = {image.partition("@")[0]!r} + ":bench"
c.DockerSpawner.pull_policy = "never"
c.DockerSpawner.remove = True
c.DockerSpawner.cmd = ["jupyterhub-singleuser"]
c.DockerSpawner.name_template = "plain-{{username}}"
"""
        + tagged(made, image),
    )


def tagged(made: Bench, image: str) -> str:
    """DockerSpawner takes no digest: a tag of the same image. Nothing for the configuration."""
    made.engine.docker("tag", image, f"{image.partition('@')[0]}:bench")
    return ""


def container_made_at(engine: ContainerEngine, known: set[str]) -> float:
    """When the engine made the one container that was not there before, in seconds since the epoch."""
    (found,) = set(engine.docker("ps", "-q", "--no-trunc").split()) - known
    from datetime import datetime

    text = json.loads(engine.docker("inspect", found))[0]["Created"]
    return datetime.fromisoformat(text[:26].rstrip("Z") + "+00:00").timestamp()


def plain_round(site: Site, ada: ApiClient, engine: ContainerEngine) -> tuple[float, float]:
    """Seconds to a server that answers, and to its container."""
    known = set(engine.docker("ps", "-q", "--no-trunc").split())
    with httpx.Client(base_url=site.url, headers=dict(ada.http.headers), timeout=60) as http:
        http.get("/hub/api/user").raise_for_status()
        began, clock = time.time(), time.perf_counter()
        http.post(f"/hub/api/users/{ADA.voperson_id}/server").raise_for_status()
        until_served(http, f"/user/{ADA.voperson_id}/api")
        taken = time.perf_counter() - clock
    made = container_made_at(engine, known) - began
    site.stop_server(ADA)
    return taken, made


def replay_round(site: Site, ada: ApiClient, repo: Repo, engine: ContainerEngine) -> tuple[float, float]:
    """The same through Replay: from the POST of the launch."""
    known = set(engine.docker("ps", "-q", "--no-trunc").split())
    with httpx.Client(base_url=site.url, headers=dict(ada.http.headers), timeout=60) as http:
        http.get("/services/replay/health").raise_for_status()
        began, clock = time.time(), time.perf_counter()
        wish = {"repo": repo.spec.removesuffix("HEAD") + repo.commit}
        http.post("/services/replay/api/launches", json=wish).raise_for_status()
        until_served(http, f"/user/{ADA.voperson_id}/api")
        taken = time.perf_counter() - clock
    made = container_made_at(engine, known) - began
    site.stop_server(ADA)
    return taken, made


# ---- output


def measure_output(folder: Path, _rounds: int) -> str:
    """A million lines of one build's output, and what they do to the service's memory."""
    lines = 1_000_000
    with bench(folder / "bench") as made, Sites(folder / "sites") as sites:
        site = ContainerSites(made.engine, made.registry).start(
            sites,
            # The service reads the reference configuration alone; the log as it is kept takes some 80 bytes a line.
            extra_config='c.JupyterHub.services[0]["command"].append("--ReplayBuildService.build_output_limit=2000000000")\n',
        )
        ada = site.client(ADA)
        # BuildKit gives what is still on its way 3 s when a build has ended, so the step stays until all is here.
        print_lines = f"RUN seq {lines}; sleep 150; echo all-told; false"
        repo = site.repository("talks", {"Dockerfile": f"FROM {made.host}/{NOTEBOOK_TAG}\n{print_lines}\n"})
        launch = ada.launch(repo).json()["id"]
        service = site.service_process()
        seen, began, memory = 0, time.perf_counter(), [service.memory_info().rss]
        for number, (_, event) in enumerate(ada.events(launch, timeout=1200)):
            seen += event["kind"] == "line"
            if number % 50_000 == 0:
                memory.append(psutil.Process(service.pid).memory_info().rss)
        taken = time.perf_counter() - began
    if seen < lines:
        raise RuntimeError(f"only {seen:,} of {lines:,} lines came")
    early, most = memory[min(2, len(memory) - 1)], max(memory)
    return f"""### {lines:,} lines of build output, followed by one person

{seen:,} lines came in {taken:.0f} s. The service's memory: {memory[0] / 1e6:.0f} MB before, {early / 1e6:.0f} MB after the
first 50,000, at most **{most / 1e6:.0f} MB** (asked: flat): {most / early:.2f} times as much after twenty times as many lines.
"""
