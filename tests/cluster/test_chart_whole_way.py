"""The whole way through the chart: the service is its pod, with its account and its rights, and builds are that pod's.

Of Zero to JupyterHub there is a hub with the overlay, as a process: see `tests.cluster.z2jh_hub`.
"""

import base64
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo.git_server import GitServer
from tests.cluster.accounts import HUB, Account
from tests.cluster.external import AnyCluster
from tests.cluster.kernels import printed_in_a_kernel
from tests.cluster.kube import Kube
from tests.cluster.release import Release, make_hubs_secret
from tests.cluster.z2jh_hub import OverlayHub
from tests.containers.engine import ContainerEngine
from tests.containers.site import repo2docker_configuration
from tests.containers.tools import build_variables
from tests.login_fixtures import free_ports
from tests.registry_server import RegistryServer
from tests.site import followed, make_repository
from tests.unit.chart_rendering import CHART, merged

pytestmark = pytest.mark.needs("cluster", "engine", "registry", "git-server", "proxy", "pages")

USER = "maria"


@pytest.fixture
def hub(
    cluster: AnyCluster, kube: Kube, release: Release, namespace: Callable[[str], str], tmp_path: Path
) -> OverlayHub:
    """With an account that may do what the two charts let the hub do."""
    first, second, third = free_ports(3)
    groups = {"researchers": [USER]}
    account = Account(cluster, kube, namespace("accounts"), tmp_path / "accounts")
    account.folder.mkdir()
    kubeconfig = account.with_rights({}, elsewhere={release.namespace: HUB})
    return OverlayHub(cluster, kubeconfig, tmp_path / "hub", (first, second, third), release.namespace, groups)


@pytest.fixture
def whole_values(
    values: dict[str, Any], hub: OverlayHub, base_image: str, builder_image: str, cluster_engine: ContainerEngine,
    cluster_git: GitServer,
) -> dict[str, Any]:  # fmt: skip
    """All that an administrator says for this cluster."""
    variables = build_variables()
    return merged(
        values,
        {
            "hub": {"url": hub.url, "apiUrl": hub.api_url},
            "repositories": {"exemptOrigins": [cluster_git.url.rstrip("/")]},
            "engine": {"hostSocket": str(cluster_engine.socket)},
            "builds": {
                "image": dict(zip(("name", "tag"), builder_image.split("@"), strict=True)),
                "repo2dockerConfig": repo2docker_configuration(base_image),
                "dnsPolicy": "Default",
                "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}},
            },
            "service": {"extraEnv": {"REPLAY_BUILD_ENVIRONMENT": ",".join(variables), **variables}},
        },
    )


def test_from_a_link_to_a_cell_with_the_service_in_its_own_pod(
    release: Release, volume: None, hub: OverlayHub, whole_values: dict[str, Any], cluster_registry: RegistryServer,
    cluster_git: GitServer, tmp_path: Path,
) -> None:  # fmt: skip
    token = make_hubs_secret(release)
    before = release.left()
    release.helm("install", "replay", str(CHART), values=whole_values)
    pod = release.ready()
    secret = release.kube.get("secrets", release.namespace, "replay")
    assert secret is not None
    shared = base64.b64decode(secret["data"]["service_token"]).decode()
    value = secrets.token_hex(8)
    repo = make_repository(cluster_git, tmp_path / "work", "chart-way", {"requirements.txt": "six==1.17.0\n", "value": value})  # fmt: skip

    with hub.running(f"http://{pod['status']['podIP']}:10101", token, shared):
        people = {"Authorization": f"token {hub.token_of(USER)}"}
        with httpx.Client(base_url=f"{hub.url}/services/replay/", headers=people, timeout=60) as maria:
            made = maria.post("api/launches", json={"repo": repo.spec})
            assert made.status_code == 201, made.text
            told = list(followed(maria, made.json()["id"]))
            assert told[-1][1]["phase"] == "ready", "\n".join(event["message"] for _, event in told[-20:])
            launch = maria.get(f"api/launches/{made.json()['id']}").json()

        repository, _, tag = launch["image_name"].rpartition(":")
        digest = cluster_registry.digest(repository, tag)
        (session,) = release.kube.pods(release.namespace, "component=singleuser-server")
        (notebook,) = [one for one in session["spec"]["containers"] if one["name"] == "notebook"]
        assert notebook["image"] == launch["image"] == f"{cluster_registry.settings().host}/{repository}@{digest}"
        code = "import os\nprint(open('value').read(), os.environ['REPLAY_COMMIT'])"
        server = hub.server_of(USER)
        assert server is not None
        url = f"{hub.url}{server['url']}"
        assert printed_in_a_kernel(url, people["Authorization"], code).split() == [value, repo.commit]

        found = release.doctor()
        faults = {name: one for name, one in found.items() if one["state"] == "failed"}
        assert not faults

        hub.ask("DELETE", f"/users/{USER}/server")
        release.kube.wait_until(lambda: hub.server_of(USER) is None, "the session has ended")

    builds = f"{release.namespace}-builds"
    release.kube.wait_until(lambda: release.kube.pods(builds) == [], "nothing is left of the build")
    release.helm("uninstall", "replay", "--wait")
    release.kube.wait_until(lambda: release.left() == before, "nothing is left but what was there before")
    release.kube.wait_until(lambda: not release.kube.has_namespace(builds), "the namespace of builds is gone")
