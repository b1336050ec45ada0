"""What a session's pod uses, and why it ended: a real cluster, with a metrics API and without. The API's figures are told by hand.

A metrics server cannot be had here. What stands in for it is a resource of the same group, version, names and shape, so that path,
rights and answers are the API server's own.
"""

import json
from collections.abc import Iterator

import pytest

from replay_spawner.usage.metrics import GROUP, VERSION
from tests.cluster.external import AnyCluster
from tests.cluster.kube import Kube
from tests.cluster.sessions import Images, KubeHub, serving_until
from tests.plan_hub import ADA, MIB, RESOURCES
from tests.registry_server import RegistryServer

pytestmark = [pytest.mark.needs("proxy", "cluster")]

LAUNCH = "replay.egi.eu/launch"

METRICS_API = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": f"pods.{GROUP}", "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"}},
    "spec": {
        "group": GROUP,
        "scope": "Namespaced",
        "names": {"plural": "pods", "singular": "pod", "kind": "PodMetrics", "listKind": "PodMetricsList"},
        "versions": [
            {
                "name": VERSION,
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


@pytest.fixture(scope="module")
def hub(cluster: AnyCluster, kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeHub]:
    with kube.namespace("measured") as namespace:
        made = KubeHub(tmp_path_factory.mktemp("hub"), cluster, kube, namespace, "")
        try:
            made.start()
            yield made
        finally:
            made.close()


@pytest.fixture(scope="module")
def images(cluster_registry: RegistryServer) -> Images:
    return Images(cluster_registry)


@pytest.fixture(autouse=True)
def _no_server_stays(hub: KubeHub) -> Iterator[None]:
    yield
    hub.stop_server()


@pytest.fixture
def metrics_api(cluster: AnyCluster) -> Iterator[None]:
    cluster.kubectl("apply", "-f", "-", input=json.dumps(METRICS_API))
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", f"crd/pods.{GROUP}")
    yield
    cluster.kubectl("delete", "crd", f"pods.{GROUP}")


def test_a_cluster_without_a_metrics_api_tells_no_figures_and_one_with_it_tells_them(
    hub: KubeHub, images: Images, cluster: AnyCluster, request: pytest.FixtureRequest
) -> None:
    pod = hub.launched(images.push("measured", serving_until("exit 0")), images.model())
    name = pod["metadata"]["name"]
    for _ in range(2):
        report = hub.report()
        assert (report.launch, report.resources, report.usage) == (pod["metadata"]["labels"][LAUNCH], RESOURCES, None)
    assert hub.log.count("This cluster does not tell what sessions use") == 1

    request.getfixturevalue("metrics_api")
    hub.stop()
    hub.start()  # It would look again by itself, after five minutes.
    hub.until(lambda: hub.server() is not None, "the hub has found the session")
    assert hub.report().usage is None, "there are no figures of this pod yet"
    figures = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "PodMetrics",
        "metadata": {"name": name, "namespace": hub.namespace},
        "window": "15.2s",
        "containers": [{"name": "notebook", "usage": {"cpu": "250000000n", "memory": "131072Ki"}}],
    }
    cluster.kubectl("apply", "-f", "-", input=json.dumps(figures))
    hub.until(lambda: hub.report().usage is not None, "the figures are told")
    report = hub.report()
    assert report.resources == RESOURCES, "a restarted hub knows it still"
    assert report.usage is not None
    assert report.usage.model_dump() == {
        "source": "metrics",
        "memory_used": 128 * MIB,
        "memory_limit": 512 * MIB,
        "cpu_used": 0.25,
        "cpu_limit": 1.5,
        "oom_kills": None,
    }
    hub.kube.run_in(hub.namespace, name, "touch", "/tmp/end")
    hub.until(lambda: hub.server() is None, "the hub notices")
    assert report.launch not in hub.plans.ended, "it was shut down from inside"
    hub.nothing_is_left()


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("exec tail /dev/zero", "The session ran out of memory, so it was ended: it may use at most 512 MB. What"),
        ("exit 3", "The session's server ended by itself, with status 3."),
    ],
    ids=["out-of-memory", "crashed"],
)
def test_a_session_that_ends_by_itself_is_told_why(hub: KubeHub, images: Images, end: str, told: str) -> None:
    pod = hub.launched(images.push("dying", serving_until(end)), images.model())
    hub.kube.run_in(hub.namespace, pod["metadata"]["name"], "touch", "/tmp/end")
    launch = pod["metadata"]["labels"][LAUNCH]
    hub.until(lambda: launch in hub.plans.ended, "the build service is told")
    assert hub.plans.ended[launch].startswith(told)
    hub.until(lambda: hub.server() is None, "the hub has removed it")
    hub.nothing_is_left()


def test_a_session_that_somebody_else_removes_is_told_so(hub: KubeHub, images: Images, cluster: AnyCluster) -> None:
    pod = hub.launched(images.push("removed", serving_until("exit 0")), images.model())
    cluster.kubectl("delete", "pod", "--wait=false", f"--namespace={hub.namespace}", pod["metadata"]["name"])
    launch = pod["metadata"]["labels"][LAUNCH]
    hub.until(lambda: launch in hub.plans.ended, "the build service is told")
    assert hub.plans.ended[launch].startswith("The session's pod was removed, and not by this hub.")
    hub.until(lambda: hub.server() is None, "the hub has removed it")


def test_of_a_session_that_is_stopped_no_reason_is_told(hub: KubeHub, images: Images) -> None:
    pod = hub.launched(images.push("stopped", serving_until("exit 0")), images.model())
    hub.stop_server(ADA)
    assert pod["metadata"]["labels"][LAUNCH] not in hub.plans.ended
    hub.nothing_is_left()
