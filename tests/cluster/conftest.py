"""One cluster for all tests here, and what stands around it: a registry, an engine that builds, a git server, images.

Images come to pods by the registry alone, so that all of this holds for an external cluster too (see `external`).
"""

import json
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from demo.git_server import GitServer
from tests.cluster.external import AnyCluster, NotHere, external_cluster
from tests.cluster.images import push_small_image
from tests.cluster.kube import Kube
from tests.cluster.kubernetes import Cluster
from tests.cluster.release import Release, volume_for
from tests.cluster.site import ClusterSites
from tests.containers.engine import ContainerEngine
from tests.containers.site import BASE_TAG, NOTEBOOK_TAG
from tests.containers.tools import build_variables, engine_root
from tests.registry_server import RegistryServer
from tests.requirements import REQUIRED, ROOT
from tests.site import Site, Sites

SECONDS = 900
"""For each test here: the first one waits for the cluster, the engine and all images."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """What this cluster does not have is as what a machine does not have."""
    try:
        return (yield)
    except NotHere as error:
        if "cluster-control" in REQUIRED:
            pytest.fail(f"cluster-control is required: {error}", pytrace=False)
        pytest.skip(f"cluster-control: {error}")


@pytest.fixture(scope="session")
def cluster() -> Iterator[AnyCluster]:
    """The one that the environment names, or one of our own."""
    external = external_cluster()
    if external is not None:
        yield external
        return
    with Cluster() as own:
        yield own


@pytest.fixture(scope="session")
def kube(cluster: AnyCluster) -> Iterator[Kube]:
    """Asks the cluster."""
    with Kube(cluster) as asked:
        yield asked


@pytest.fixture
def namespace(kube: Kube) -> Iterator[Callable[[str], str]]:
    """Makes new ones, ``builds-…`` of ``builds``; all are removed after the test."""
    with ExitStack() as made:
        yield lambda prefix: made.enter_context(kube.namespace(prefix))


@pytest.fixture(scope="session")
def cluster_registry(cluster: AnyCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """Where pods, the engine and this process have it at the same address; images can be deleted."""
    folder = tmp_path_factory.mktemp("cluster-registry")
    with RegistryServer(folder, host=cluster.host_address, port=cluster.registry_port) as registry:
        cluster.trust_registry(registry.settings().host)
        yield registry


@pytest.fixture(scope="session")
def small_image(cluster_registry: RegistryServer) -> str:
    """Busybox, by digest."""
    return push_small_image(cluster_registry)


@pytest.fixture(scope="session")
def cluster_engine(cluster: AnyCluster, cluster_registry: RegistryServer) -> Iterator[ContainerEngine]:
    """Its socket is for build pods, as a path of their node. The base image is in the registry."""
    # All of this machine's registries, by its address.
    with ContainerEngine(insecure_registries=[f"{cluster.host_address}/32"]) as engine:
        base = f"{cluster_registry.settings().host}/{BASE_TAG}"
        engine.import_base(base)
        pushed(engine, base)
        yield engine


@pytest.fixture(scope="session")
def base_image(cluster_engine: ContainerEngine, cluster_registry: RegistryServer) -> str:
    """A Debian with Python, by digest."""
    return digest_of(cluster_engine, f"{cluster_registry.settings().host}/{BASE_TAG}")


@pytest.fixture(scope="session")
def notebook_image(cluster_engine: ContainerEngine, cluster_registry: RegistryServer) -> str:
    """One in which JupyterLab runs for JupyterHub, by digest."""
    return made_notebook_image(cluster_engine, cluster_registry.settings().host)


@pytest.fixture(scope="session")
def builder_image(cluster_engine: ContainerEngine, cluster_registry: RegistryServer) -> str:
    """The chart's image for build pods, as this checkout makes it, by digest."""
    return made_builder_image(cluster_engine, cluster_registry.settings().host)


@pytest.fixture(scope="session")
def cluster_git(cluster: AnyCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitServer]:
    """Serves repositories to pods and to this process, by the same URL."""
    folder = tmp_path_factory.mktemp("cluster-git") / "repositories"
    folder.mkdir()
    with GitServer(folder, host=cluster.host_address, loopback_only=False) as server:
        yield server


@pytest.fixture
def cluster_sites(
    cluster: AnyCluster, kube: Kube, cluster_engine: ContainerEngine, cluster_registry: RegistryServer, base_image: str,
    builder_image: str, namespace: Callable[[str], str],
) -> ClusterSites:  # fmt: skip
    """Makes sites in two namespaces of the test's."""
    return ClusterSites(
        cluster, kube, cluster_engine, cluster_registry, base_image, builder_image, namespace("users"), namespace("builds"),
        namespace("accounts"),
    )  # fmt: skip


@pytest.fixture
def start(cluster_sites: ClusterSites, tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Starts a site of `cluster_sites`."""
    with Sites(tmp_path / "sites") as made:
        yield lambda **more: cluster_sites.start(made.start, tmp_path, **more)


@pytest.fixture(scope="session")
def service_image(cluster_engine: ContainerEngine, cluster_registry: RegistryServer) -> str:
    """The chart's image of the service, as this checkout makes it, by digest."""
    host = cluster_registry.settings().host
    arguments = [f"--build-arg={name}={value}" for name, value in build_variables().items()]
    cluster_engine.docker(
        "buildx", "build", "--quiet", f"--tag={host}/replay-service:1", f"--build-arg=BASE={host}/{BASE_TAG}",
        f"--file={ROOT}/charts/replay/images/Dockerfile", "--target=service", *arguments, str(ROOT),
    )  # fmt: skip
    return pushed(cluster_engine, f"{host}/replay-service:1")


@pytest.fixture
def release(cluster: AnyCluster, kube: Kube, namespace: Callable[[str], str]) -> Release:
    """One that is not installed yet."""
    return Release(cluster, kube, namespace("chart"))


@pytest.fixture
def volume(release: Release, tmp_path: Path) -> Iterator[None]:
    """For the service of `release`."""
    with volume_for(release, tmp_path / "volume"):
        yield


@pytest.fixture
def values(service_image: str, base_image: str, cluster_registry: RegistryServer) -> dict[str, Any]:
    """For the engine that the node has."""
    image = dict(zip(("name", "tag"), service_image.split("@"), strict=True))
    return {
        "service": {"image": image, "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}}},
        "builds": {"image": image, "baseImage": base_image},
        "registry": {"url": cluster_registry.url},
        "engine": {"enabled": False},
        "vos": {"researchers": ""},
    }


def made_notebook_image(engine: ContainerEngine, host: str) -> str:
    """As `notebook_image`, on an engine that has the base image, in the registry at that host."""
    engine.make_notebook_image(f"{host}/{BASE_TAG}", f"{host}/{NOTEBOOK_TAG}", "jupyterhub jupyterlab")
    return pushed(engine, f"{host}/{NOTEBOOK_TAG}")


def made_builder_image(engine: ContainerEngine, host: str) -> str:
    """As `builder_image`, on an engine that has the base image, in the registry at that host."""
    tag = f"{host}/replay-builder:1"
    arguments = [f"--build-arg={name}={value}" for name, value in build_variables().items()]
    engine.docker(
        "buildx", "build", "--quiet", f"--tag={tag}", f"--file={ROOT}/charts/replay/images/Dockerfile", "--target=builder",
        f"--build-arg=BASE={host}/{BASE_TAG}", f"--build-context=engine={engine_root()}", *arguments, str(ROOT),
    )  # fmt: skip
    return pushed(engine, tag)


def pushed(engine: ContainerEngine, tag: str) -> str:
    """Push an image; returns ``host/name@sha256:…``."""
    engine.docker("push", "--quiet", tag)
    return digest_of(engine, tag)


def digest_of(engine: ContainerEngine, tag: str) -> str:
    """The name by digest of an image that was pushed."""
    known: list[str] = json.loads(engine.docker("image", "inspect", "--format", "{{json .RepoDigests}}", tag))
    return next(name for name in known if name.startswith(f"{tag.rpartition(':')[0]}@"))
