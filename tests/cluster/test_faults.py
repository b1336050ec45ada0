"""What goes wrong between a link and a session: each ends in a sentence that a person understands, and in a clean state."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from demo.people import ADA
from tests.cluster.external import AnyCluster
from tests.cluster.site import ClusterSites, builds_of
from tests.containers.engine import ContainerEngine
from tests.registry_server import RegistryServer
from tests.site import DEAD_SERVICES_ARE_STARTED_SOON, ApiClient, Repo, Site

pytestmark = pytest.mark.needs("cluster", "engine", "registry", "git-server", "proxy")

SMALL = {"MEM_GUARANTEE": "64M", "MEM_LIMIT": "1G"}


@pytest.fixture
def site(start: Callable[..., Site]) -> Site:
    return start(extra_config=DEAD_SERVICES_ARE_STARTED_SOON, settings=SMALL)


@pytest.fixture
def ada(site: Site) -> ApiClient:
    return site.client(ADA)


def counting(site: Site, image: str, name: str, steps: int) -> Repo:
    """A repository whose build prints ``step-1``, ``step-2``, … one a second."""
    numbers = " ".join(str(number) for number in range(1, steps + 1))
    return site.repository(
        name, {"Dockerfile": f"FROM {image}\nRUN for n in {numbers}; do echo step-$n; sleep 1; done\nUSER 1000\n"}
    )


def until_step(ada: ApiClient, repo: Repo, step: int) -> str:
    """The launch, once its build has come to that step."""
    launch = ada.launch(repo).raise_for_status().json()["id"]
    for _, event in ada.events(launch):
        if event["message"].endswith(f"step-{step}"):
            return launch
    raise AssertionError(f"it never came to step {step}: {ada.get(launch)}")


def messages(ada: ApiClient, launch: str) -> list[str]:
    return [event["message"] for _, event in ada.events(launch)]


def steps_told(told: list[str]) -> list[str]:
    return [text.rpartition("step-")[2] for text in told if "step-" in text and "for n" not in text]


def clean(site: Site, sites: ClusterSites) -> None:
    """Ends Ada's server, if there is one, and then nothing may be left."""
    site.stop_server(ADA)
    sites.nothing_is_left()


def test_the_service_is_killed_in_mid_build(
    site: Site, ada: ApiClient, cluster_sites: ClusterSites, notebook_image: str
) -> None:
    repo = counting(site, notebook_image, "killed", 8)
    launch = until_step(ada, repo, 3)
    killed = site.service_process()
    killed.kill()
    killed.wait(10)
    site.until_it_answers(f"{site.url}/services/replay/health")
    assert steps_told(messages(ada, launch)) == list("12345678")
    assert ada.get(launch)["state"] == "running"
    assert builds_of(site, repo) == [("succeeded", "")]
    clean(site, cluster_sites)


def test_the_builds_pod_is_deleted(
    site: Site, ada: ApiClient, cluster_sites: ClusterSites, notebook_image: str
) -> None:
    repo = counting(site, notebook_image, "deleted", 8)
    launch = until_step(ada, repo, 3)
    (pod,) = cluster_sites.kube.pods(cluster_sites.builds)
    cluster_sites.kube.delete("pods", cluster_sites.builds, pod["metadata"]["name"])
    told = messages(ada, launch)
    assert any("Another one starts" in text for text in told), told
    assert ada.get(launch)["state"] == "running"
    assert builds_of(site, repo) == [("succeeded", "")]
    clean(site, cluster_sites)


def test_the_api_server_is_away_for_30_seconds(
    site: Site, ada: ApiClient, cluster_sites: ClusterSites, cluster: AnyCluster, notebook_image: str
) -> None:
    repo = counting(site, notebook_image, "api-away", 40)
    launch = until_step(ada, repo, 3)
    cluster.stop_api_server()
    with ThreadPoolExecutor(1) as beside:
        told = beside.submit(messages, ada, launch)
        time.sleep(30)  # That long is what is asked for; the build goes on meanwhile.
        cluster.start_api_server()
        steps = steps_told(told.result(180))
    assert steps == [str(number) for number in range(1, 41)]
    assert ada.get(launch)["state"] == "running"
    clean(site, cluster_sites)


def test_the_registry_refuses(
    site: Site, ada: ApiClient, cluster_sites: ClusterSites, cluster_registry: RegistryServer, notebook_image: str
) -> None:
    repo = counting(site, notebook_image, "refused", 4)
    launch = until_step(ada, repo, 2)
    with cluster_registry.that_cannot_store():
        said = ada.failure_of(launch)
    assert "registry" in said, said
    assert "administrators" in said or "again" in said, "what to do"
    assert builds_of(site, repo) == [("failed", "registry")]
    clean(site, cluster_sites)
    # Once it takes images again, so does the link.
    assert ada.launch_and_wait(repo)["state"] == "running"
    clean(site, cluster_sites)


def test_the_engine_goes_away(
    start: Callable[..., Site], cluster_sites: ClusterSites, cluster: AnyCluster, notebook_image: str
) -> None:
    with ContainerEngine(insecure_registries=[f"{cluster.host_address}/32"]) as engine:
        site = start(settings={**SMALL, "BUILD_ENGINE_SOCKET": str(engine.socket)})
        ada = site.client(ADA)
        repo = counting(site, notebook_image, "engine-gone", 60)
        launch = until_step(ada, repo, 2)
        engine.stop()
        said = ada.failure_of(launch)
    assert said.startswith("The container engine of this site went away while it built. Open the link again"), said
    assert builds_of(site, repo) == [("failed", "engine")]
    clean(site, cluster_sites)


def test_a_part_of_the_image_is_damaged(
    site: Site, ada: ApiClient, cluster_sites: ClusterSites, cluster_registry: RegistryServer, notebook_image: str
) -> None:
    repo = site.repository("damaged", {"Dockerfile": f"FROM {notebook_image}\nUSER root\nRUN head -c 5000 /dev/urandom > /srv/z\nUSER 1000\n"})  # fmt: skip
    # It is built, and no node gets it: there is no room for the session.
    with no_more_pods(cluster_sites):
        assert "no room" in ada.launch_and_fail(repo)
    ((image,),) = site.rows("SELECT image_reference FROM builds WHERE repository LIKE '%damaged%'")
    cluster_registry.corrupt_last_layer(image)
    said = ada.launch_and_fail(repo)
    assert "image" in said, said
    assert "pull" in said or "fetch" in said or "damaged" in said, said
    clean(site, cluster_sites)


def test_the_node_is_full(site: Site, ada: ApiClient, cluster_sites: ClusterSites, notebook_image: str) -> None:
    repo = site.repository("full", {"Dockerfile": f"FROM {notebook_image}\nUSER 1000\n"})
    ada.launch_and_wait(repo)
    site.stop_server(ADA)
    site.stop()
    site.settings["MEM_GUARANTEE"], site.settings["MEM_LIMIT"] = "900G", "900G"
    site.extra_config += "\nc.Spawner.start_timeout = 20\n"
    site.start()
    said = site.client(ADA).launch_and_fail(repo)
    assert "no room" in said, said
    clean(site, cluster_sites)


def test_the_quota_of_sessions_is_reached(
    site: Site, ada: ApiClient, cluster_sites: ClusterSites, notebook_image: str
) -> None:
    repo = site.repository("quota", {"Dockerfile": f"FROM {notebook_image}\nUSER 1000\n"})
    with no_more_pods(cluster_sites):
        said = ada.launch_and_fail(repo)
    assert "no room" in said, said
    cluster_sites.nothing_is_left()
    ada.launch_and_wait(repo)
    clean(site, cluster_sites)


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
