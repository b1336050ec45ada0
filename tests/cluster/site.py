"""A whole Replay whose builds and sessions are pods: the hub is a process of this machine, as is the service."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.people import ADA, Person
from tests.cluster.accounts import BUILDS, HUB, Account
from tests.cluster.external import AnyCluster
from tests.cluster.kube import Kube
from tests.containers.engine import ContainerEngine
from tests.containers.site import repo2docker_configuration
from tests.containers.tools import build_variables
from tests.registry_server import RegistryServer
from tests.site import Repo, Site

# Pods of this cluster have no service for names, and events would be full of that.
_CONFIGURATION = """
c.KubeSpawner.extra_pod_config = {"dnsPolicy": "Default"}
c.KubeSpawner.delete_grace_period = 1
"""


@dataclass(frozen=True)
class ClusterSites:
    """Starts sites on one cluster, each with namespaces of its own."""

    cluster: AnyCluster
    kube: Kube
    engine: ContainerEngine
    registry: RegistryServer
    base_image: str
    builder_image: str
    users: str
    """The namespace of sessions."""
    builds: str
    """The namespace of builds."""
    accounts: str
    """The namespace of the account that hub and service have, which are one here."""

    def settings(self, folder: Path) -> dict[str, str]:
        """For the reference configuration, without the prefix ``REPLAY_``."""
        configuration = folder / "repo2docker_config.py"
        configuration.write_text(repo2docker_configuration(self.base_image))
        return {
            "BUILDER": "kubernetes",
            "NAMESPACE": self.users,
            "BUILD_NAMESPACE": self.builds,
            "REGISTRY": self.registry.url,
            "BASE_IMAGE": self.base_image,
            "BUILDER_IMAGE": self.builder_image,
            "BUILD_ENGINE_SOCKET": str(self.engine.socket),
            "BUILD_DNS_POLICY": "Default",
            "BUILD_RESOURCES": '{"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}}',
            "HUB_ADDRESS": self.cluster.host_address,
            "REPO2DOCKER_CONFIG": str(configuration),
            "BUILD_ENVIRONMENT": ",".join(build_variables()),
        }

    def start(self, make: Callable[..., Site], folder: Path, **more: Any) -> Site:
        """A site with these settings, and ``more`` of them."""
        settings: Mapping[str, str] = more.pop("settings", {})
        extra: str = more.pop("extra_config", "")
        # KubeSpawner reads where its cluster is as early as it is imported.
        environment = {"KUBECONFIG": str(self._kubeconfig(folder)), **more.pop("environment", {})}
        return make(
            settings={**self.settings(folder), **settings},
            extra_config=_CONFIGURATION + extra,
            git_host=self.cluster.host_address,
            environment=environment,
            **more,
        )

    def _kubeconfig(self, folder: Path) -> Path:
        """Of an account with the rights of both, and no others."""
        accounts = folder / "accounts"
        accounts.mkdir(exist_ok=True)
        account = Account(self.cluster, self.kube, self.accounts, accounts)
        return account.with_rights({}, elsewhere={self.users: HUB, self.builds: BUILDS})

    def session_pod(self, site: Site, person: Person = ADA) -> dict[str, Any]:
        """What the cluster says of the pod of a person's session."""
        server = site.server(person)
        assert server is not None, "there is no server"
        launch = server["user_options"]["launch"]
        found = [
            pod
            for pod in self.kube.pods(self.users)
            if pod["metadata"]["annotations"].get("replay.egi.eu/launch") == launch
        ]
        assert len(found) == 1, found
        return found[0]

    def nothing_is_left(self) -> None:
        """Of sessions and builds there is nothing in the cluster."""
        for namespace in (self.users, self.builds):
            self.kube.wait_until(lambda at=namespace: self.kube.left(at) == [], f"nothing is left in {namespace}")


def builds_of(site: Site, repo: Repo) -> list[tuple[str, str]]:
    """Status and reason of each build of a repository."""
    return site.rows("SELECT status, coalesce(failure_reason, '') FROM builds WHERE repository = ? ORDER BY created_at", repo.url.removesuffix(".git"))  # fmt: skip
