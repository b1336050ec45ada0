"""From a link to a cell that ran, on a cluster: build pods, a registry, session pods, and nothing left of them."""

import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from demo.people import ADA, NOTEBOOKS_MEMBER, Person
from tests.cluster.external import AnyCluster
from tests.cluster.kernels import printed_by_a_cell
from tests.cluster.kube import Kube
from tests.cluster.site import ClusterSites
from tests.containers.engine import ContainerEngine
from tests.registry_server import RegistryServer
from tests.site import DEAD_SERVICES_ARE_STARTED_SOON, ApiClient, Repo, Site, Sites

pytestmark = pytest.mark.needs("cluster", "engine", "registry", "git-server", "proxy")

IDLE_SECONDS = 30
GIB = 1024**3
CROWD = tuple(
    Person(
        name=f"Person Number{number:02}",
        email=f"person{number}@example.org",
        preferred_username="person",
        voperson_id=f"{number:064x}@egi.eu",
        remark="one of many",
        eduperson_entitlement=(NOTEBOOKS_MEMBER,),
    )
    for number in range(1, 21)
)


@pytest.fixture
def cluster_sites(
    cluster: AnyCluster, kube: Kube, cluster_engine: ContainerEngine, cluster_registry: RegistryServer, base_image: str,
    builder_image: str, namespace: Callable[[str], str],
) -> ClusterSites:  # fmt: skip
    return ClusterSites(
        cluster, kube, cluster_engine, cluster_registry, base_image, builder_image, namespace("users"), namespace("builds")
    )  # fmt: skip


@pytest.fixture
def start(cluster_sites: ClusterSites, tmp_path: Path) -> Iterator[Callable[..., Site]]:
    with Sites(tmp_path / "sites") as made:
        yield lambda **more: cluster_sites.start(made.start, tmp_path, **more)


def marked(value: str) -> dict[str, str]:
    """A repository whose dependency has this value."""
    project = '[project]\nname = "marker"\nversion = "1"\n[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n[tool.setuptools]\npy-modules = ["marker"]\n'
    return {
        "requirements.txt": "six==1.17.0\n./marker\n",
        "marker/pyproject.toml": project,
        "marker/marker.py": f'VALUE = "{value}"\n',
    }


def builds_of(site: Site, repo: Repo) -> list[tuple[str, str]]:
    return site.rows("SELECT status, coalesce(failure_reason, '') FROM builds WHERE repository = ? ORDER BY created_at", repo.url.removesuffix(".git"))  # fmt: skip


def until(is_so: Callable[[], bool], what: str, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"still not so: {what}"
        time.sleep(0.1)


def test_from_a_link_to_a_cell_that_ran_in_a_pod(
    start: Callable[..., Site], cluster_sites: ClusterSites, cluster_registry: RegistryServer, kube: Kube
) -> None:
    site = start(settings={"IDLE_SECONDS": str(IDLE_SECONDS)}, extra_config="c.JupyterHub.last_activity_interval = 1\n")
    value = secrets.token_hex(8)
    repo = site.repository("analysis", marked(value))
    ada = site.client(ADA)
    launch = ada.launch_and_wait(repo)
    # What runs is what the record says, which is what the registry has.
    pod = cluster_sites.session_pod(site)
    (notebook,) = [one for one in pod["spec"]["containers"] if one["name"] == "notebook"]
    name = launch["image_name"]
    repository, _, tag = name.rpartition(":")
    digest = cluster_registry.digest(repository, tag)
    host = cluster_registry.settings().host
    assert notebook["image"] == launch["image"] == f"{host}/{repository}@{digest}"
    assert site.rows("SELECT image_reference FROM builds") == [(launch["image"],)]
    # A cell prints the commit and the value; in it, the limit is the container's.
    code = (
        "import os, pathlib, subprocess, marker\n"
        "print(marker.VALUE, os.environ['REPLAY_COMMIT'], os.getuid())\n"
        "files = ['/sys/fs/cgroup/memory/memory.limit_in_bytes', '/sys/fs/cgroup/memory.max']\n"
        "print([pathlib.Path(f).read_text().strip() for f in files if pathlib.Path(f).exists()][0])\n"
        "print(pathlib.Path('/var/run/secrets/kubernetes.io').exists())\n"
    )
    assert printed_by_a_cell(ada, code).split() == [value, repo.commit, "1000", str(4 * GIB), "False"]
    resources = notebook["resources"]
    assert (int(resources["requests"]["memory"]), int(resources["limits"]["memory"])) == (2 * GIB, 4 * GIB)
    # Nobody uses it any more.
    until(lambda: site.server(ADA) is None, "the session was ended", 5 * IDLE_SECONDS)
    cluster_sites.nothing_is_left()
    # The same link again builds nothing.
    again = ada.launch_and_wait(repo)
    assert again["image"] == launch["image"]
    assert builds_of(site, repo) == [("succeeded", "")]
    site.stop_server(ADA)
    cluster_sites.nothing_is_left()


def test_twenty_people_at_once_get_one_build_and_twenty_sessions(
    start: Callable[..., Site], cluster_sites: ClusterSites, notebook_image: str
) -> None:
    # Twenty servers that begin at once take the processors of a small machine for longer than JupyterHub waits by itself.
    patience = "c.Spawner.http_timeout = 240\nc.Spawner.start_timeout = 300\n"
    site = start(people=CROWD, settings={"MEM_GUARANTEE": "32M", "MEM_LIMIT": "1G"}, extra_config=patience)
    repo = site.repository(
        "crowd", {"Dockerfile": f"FROM {notebook_image}\nUSER root\nRUN sleep 5; date > /srv/made\nUSER 1000\n"}
    )
    people = [site.client(person) for person in CROWD]
    with ThreadPoolExecutor(len(people)) as all_at_once:
        launches = list(all_at_once.map(lambda one: one.launch_and_wait(repo), people))
    assert len({launch["image"] for launch in launches}) == 1
    assert builds_of(site, repo) == [("succeeded", "")]
    assert len(cluster_sites.kube.pods(cluster_sites.users)) == len(CROWD)
    with ThreadPoolExecutor(len(people)) as all_at_once:
        list(all_at_once.map(site.stop_server, CROWD))
    cluster_sites.nothing_is_left()


class TestFaults:
    """Each ends in a sentence that a person understands, and in a clean state."""

    @pytest.fixture
    def site(self, start: Callable[..., Site]) -> Site:
        return start(extra_config=DEAD_SERVICES_ARE_STARTED_SOON, settings={"MEM_GUARANTEE": "64M", "MEM_LIMIT": "1G"})

    @pytest.fixture
    def ada(self, site: Site) -> ApiClient:
        return site.client(ADA)

    def test_the_service_is_killed_in_mid_build(
        self, site: Site, ada: ApiClient, cluster_sites: ClusterSites, notebook_image: str
    ) -> None:
        repo = site.repository("killed", {"Dockerfile": f"FROM {notebook_image}\nRUN for n in 1 2 3 4 5 6 7 8; do echo step-$n; sleep 1; done\nUSER 1000\n"})  # fmt: skip
        launch = ada.launch(repo).json()["id"]
        for _, event in ada.events(launch):
            if event["message"].endswith("step-3"):
                break
        killed = site.service_process()
        killed.kill()
        killed.wait(10)
        site.until_it_answers(f"{site.url}/services/replay/health")
        messages = [event["message"] for _, event in ada.events(launch)]
        told = [text.rpartition("step-")[2] for text in messages if "step-" in text and "for n" not in text]
        assert told == list("12345678")
        assert ada.get(launch)["state"] == "running"
        assert builds_of(site, repo) == [("succeeded", "")]
        site.stop_server(ADA)
        cluster_sites.nothing_is_left()

    def test_a_part_of_the_image_is_damaged(
        self, site: Site, ada: ApiClient, cluster_sites: ClusterSites, cluster_registry: RegistryServer, notebook_image: str
    ) -> None:  # fmt: skip
        repo = site.repository("damaged", {"Dockerfile": f"FROM {notebook_image}\nUSER root\nRUN head -c 5000 /dev/urandom > /srv/z\nUSER 1000\n"})  # fmt: skip
        # It is built, and no node gets it: there is no room for the session.
        with no_more_pods(cluster_sites):
            ada.launch_and_fail(repo)
        ((image,),) = site.rows("SELECT image_reference FROM builds WHERE repository LIKE '%damaged%'")
        cluster_registry.corrupt_last_layer(image)
        said = ada.launch_and_fail(repo)
        assert "image" in said, said
        cluster_sites.nothing_is_left()

    def test_the_node_is_full(
        self, site: Site, ada: ApiClient, cluster_sites: ClusterSites, notebook_image: str
    ) -> None:
        repo = site.repository("full", {"Dockerfile": f"FROM {notebook_image}\nUSER 1000\n"})
        ada.launch_and_wait(repo)
        site.stop_server(ADA)
        site.stop()
        site.settings["MEM_GUARANTEE"], site.settings["MEM_LIMIT"] = "900G", "900G"
        site.extra_config += "\nc.Spawner.start_timeout = 20\n"
        site.start()
        said = site.client(ADA).launch_and_fail(repo)
        assert "room" in said or "memory" in said, said
        cluster_sites.nothing_is_left()

    def test_the_quota_of_sessions_is_reached(
        self, site: Site, ada: ApiClient, cluster_sites: ClusterSites, notebook_image: str
    ) -> None:
        repo = site.repository("quota", {"Dockerfile": f"FROM {notebook_image}\nUSER 1000\n"})
        with no_more_pods(cluster_sites):
            said = ada.launch_and_fail(repo)
        assert "no room" in said, said
        cluster_sites.nothing_is_left()
        ada.launch_and_wait(repo)
        site.stop_server(ADA)
        cluster_sites.nothing_is_left()


@contextmanager
def no_more_pods(sites: ClusterSites) -> Iterator[None]:
    """The namespace of sessions may have none."""
    quota: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none", "namespace": sites.users},
        "spec": {"hard": {"pods": "0"}},
    }
    sites.kube.apply(quota)
    # What a quota has counted it keeps to.
    command = ("get", "resourcequota", "none", f"--namespace={sites.users}", "-o", "jsonpath={.status.hard.pods}")
    sites.kube.wait_until(lambda: sites.cluster.kubectl(*command) == "0", "the quota is counted")
    yield
    sites.cluster.kubectl("delete", "resourcequota", "none", f"--namespace={sites.users}")
