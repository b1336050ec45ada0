"""The bench itself: that the cluster of tests is one, and does what tests of builds and of sessions rely on."""

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from demo.git_server import GitServer
from tests.cluster.external import AnyCluster
from tests.cluster.kube import Kube, small_pod
from tests.registry_server import RegistryServer

pytestmark = [pytest.mark.needs("cluster"), pytest.mark.hub_independent]

Namespaces = Callable[[str], str]


def container_status(pod: dict[str, Any]) -> dict[str, Any]:
    (status,) = pod["status"]["containerStatuses"]
    return status


def test_its_node_is_ready(cluster: AnyCluster, kube: Kube) -> None:
    nodes = kube.request("GET", "/api/v1/nodes").raise_for_status().json()["items"]
    ready = [condition["status"] for condition in nodes[0]["status"]["conditions"] if condition["type"] == "Ready"]
    assert ready == ["True"]
    addresses = [address["address"] for node in nodes for address in node["status"]["addresses"]]
    assert cluster.node_address in addresses


def test_a_pod_from_the_registry_runs_within_its_limits(kube: Kube, namespace: Namespaces, small_image: str) -> None:
    builds = namespace("builds")
    limits = {"memory": "64Mi", "cpu": "500m"}
    pod = small_pod("limited", small_image, resources={"limits": limits, "requests": {"memory": "16Mi", "cpu": "10m"}})
    kube.create("pods", builds, pod)
    running = kube.wait_for_phase(builds, "limited", "Running")

    assert container_status(running)["imageID"].endswith(small_image.partition("@")[2])
    both_versions = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true"
    assert kube.run_in(builds, "limited", "sh", "-c", both_versions).split() == [str(64 << 20)]
    warnings = [event for event in kube.events(builds, "limited") if event["type"] != "Normal"]
    assert warnings == []


def test_a_pod_that_ended_has_its_status_and_its_log(kube: Kube, namespace: Namespaces, small_image: str) -> None:
    builds = namespace("builds")
    kube.create("pods", builds, small_pod("counting", small_image, ["sh", "-c", "seq 20000; exit 3"]))

    ended = kube.wait_for_phase(builds, "counting", "Failed")

    assert container_status(ended)["state"]["terminated"]["exitCode"] == 3
    assert kube.log(builds, "counting").split() == [str(number) for number in range(1, 20001)]


def test_what_needs_more_memory_than_its_limit_is_killed(kube: Kube, namespace: Namespaces, small_image: str) -> None:
    builds = namespace("builds")
    resources = {"limits": {"memory": "32Mi"}}
    kube.create("pods", builds, small_pod("hungry", small_image, ["tail", "/dev/zero"], resources=resources))

    ended = container_status(kube.wait_for_phase(builds, "hungry", "Failed"))["state"]["terminated"]

    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)


def test_an_image_that_is_not_there_is_told(
    kube: Kube, namespace: Namespaces, cluster_registry: RegistryServer
) -> None:
    users = namespace("users")
    kube.create("pods", users, small_pod("absent", f"{cluster_registry.settings().host}/absent:1"))

    def has_failed() -> bool:
        return any(
            event["reason"] == "Failed" and "absent:1" in event["message"] for event in kube.events(users, "absent")
        )

    kube.wait_until(has_failed, "the pull failed")
    assert kube.phase(users, "absent") == "Pending"


def test_a_changed_secret_reaches_the_pod_that_mounts_it(kube: Kube, namespace: Namespaces, small_image: str) -> None:
    users = namespace("users")
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "token", "namespace": users}}
    kube.apply({**secret, "stringData": {"token": "first"}})
    pod = small_pod("reader", small_image, volumeMounts=[{"name": "token", "mountPath": "/token"}])
    pod["spec"]["volumes"] = [{"name": "token", "secret": {"secretName": "token"}}]
    kube.create("pods", users, pod)
    kube.wait_for_phase(users, "reader", "Running")

    def read() -> str:
        return kube.run_in(users, "reader", "cat", "/token/token")

    assert read() == "first"
    kube.patch("secrets", users, "token", {"stringData": {"token": "second"}})
    kube.patch("pods", users, "reader", {"metadata": {"annotations": {"changed": "1"}}})  # or it takes a minute
    kube.wait_until(lambda: read() == "second", "the pod sees the new token")


def test_pods_and_this_machine_reach_each_other(
    kube: Kube, namespace: Namespaces, small_image: str, cluster_git: GitServer, cluster: AnyCluster
) -> None:
    users = namespace("users")
    kube.create("pods", users, small_pod("web", small_image, ["httpd", "-f", "-p", "8080", "-h", "/etc"]))
    address = kube.wait_for_phase(users, "web", "Running")["status"]["podIP"]

    asked = f"printf 'GET /none.git/HEAD HTTP/1.0\\r\\n\\r\\n' | nc {cluster.host_address} {cluster_git.port}"
    assert "404" in kube.run_in(users, "web", "sh", "-c", asked).splitlines()[0]
    kube.wait_until(lambda: _status(f"http://{address}:8080/") == 404, "the pod's server answers")


def _status(url: str) -> int | None:
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code
    except httpx.TransportError:
        return None


def test_nothing_of_a_namespace_stays(kube: Kube, small_image: str) -> None:
    with kube.namespace("builds") as builds:
        kube.create("pods", builds, small_pod("waiting", small_image))
        assert kube.left(builds) == ["pods/waiting"]
        kube.delete("pods", builds, "waiting", seconds=0)
        kube.assert_nothing_left(builds)
    kube.wait_until(lambda: not kube.has_namespace(builds), "the namespace is gone")


@pytest.mark.needs("cluster-control")
def test_logs_are_rotated_as_everywhere(cluster: AnyCluster) -> None:
    (name,) = cluster.kubectl("get", "nodes", "--output=jsonpath={.items[*].metadata.name}").split()
    told = json.loads(cluster.kubectl("get", "--raw", f"/api/v1/nodes/{name}/proxy/configz"))["kubeletconfig"]
    assert (told["containerLogMaxSize"], told["containerLogMaxFiles"]) == ("10Mi", 5)


@pytest.mark.needs("cluster-control")
def test_pods_run_on_while_the_api_is_away(
    cluster: AnyCluster, kube: Kube, namespace: Namespaces, small_image: str
) -> None:
    builds = namespace("builds")
    script = "while true; do date +%s; sleep 0.2; done"
    kube.create("pods", builds, small_pod("clock", small_image, ["sh", "-c", script]))
    kube.wait_for_phase(builds, "clock", "Running")

    cluster.stop_api_server()
    gone = time.time()
    with pytest.raises(AssertionError, match="kubectl"):
        cluster.kubectl("get", "pods", "--all-namespaces", "--request-timeout=5s")
    time.sleep(2)  # of its own clock: the time that the pod is to show
    back = time.time()
    cluster.start_api_server()

    kube.wait_until(lambda: int(kube.log(builds, "clock").split()[-1]) > back, "the pod's log goes on")
    seconds = {int(second) for second in kube.log(builds, "clock").split()}
    assert set(range(int(gone) + 1, int(back))) <= seconds
