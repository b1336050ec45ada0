"""The chart as helm installs it in a namespace of its own, and what its images and values are on this cluster."""

import json
import secrets
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.cluster.external import AnyCluster
from tests.cluster.kube import Kube
from tests.unit.chart_rendering import HELM

KINDS = (
    "pods,secrets,configmaps,services,deployments,replicasets,daemonsets,persistentvolumeclaims,serviceaccounts,roles,"
    "rolebindings,networkpolicies,poddisruptionbudgets"
)
OF_KUBERNETES = ("serviceaccount/default", "secret/default-token-", "configmap/kube-root-ca.crt")


@dataclass
class Release:
    """One release, “replay”, in a namespace of its own."""

    cluster: AnyCluster
    kube: Kube
    namespace: str

    def helm(self, *arguments: str, values: Mapping[str, Any] | None = None) -> str:
        command = [HELM, f"--kubeconfig={self.cluster.kubeconfig}", f"--namespace={self.namespace}", *arguments]
        given = ["--values=-"] if values is not None else []
        done = subprocess.run(
            [*command, *given], input=json.dumps(values or {}), capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def revision(self) -> int:
        return json.loads(self.helm("status", "replay", "--output=json"))["version"]

    def left(self, namespace: str = "") -> list[str]:
        """What is in the namespace and was not put there by Kubernetes itself."""
        told = self.cluster.kubectl("get", KINDS, f"--namespace={namespace or self.namespace}", "--output=name")
        names = (name.replace(".apps", "").partition("/") for name in told.split())
        found = (f"{kind.partition('.')[0]}/{name}" for kind, _, name in names)
        return sorted(name for name in found if not name.startswith(OF_KUBERNETES))

    def pods(self) -> list[dict[str, Any]]:
        return self.kube.pods(self.namespace, "app.kubernetes.io/component=service")

    def ready(self, checksum_before: str = "") -> dict[str, Any]:
        """The service's pod, once it is ready and no longer that with this configuration."""

        def is_so() -> bool:
            return [checksum(pod) != checksum_before and is_ready(pod) for pod in self.pods()] == [True]

        self.kube.wait_until(is_so, "the service is ready", 180)
        (pod,) = self.pods()
        return pod

    def doctor(self) -> dict[str, dict[str, str]]:
        """What the doctor in the service's pod says, by check."""
        (pod,) = self.pods()
        command = ["replay-build-service", "doctor", "--config", "/etc/replay/jupyterhub_config.py", "--json"]
        done = subprocess.run(
            self.cluster.kubectl_command(
                "exec", f"--namespace={self.namespace}", pod["metadata"]["name"], "--container=service", "--", *command
            ),
            capture_output=True,
            text=True,
            timeout=120,
        )
        return {one["check"]: one for one in json.loads(done.stdout)["checks"]}


def is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = {one["type"]: one["status"] for one in pod["status"].get("conditions", ())}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


def checksum(pod: Mapping[str, Any]) -> str:
    return pod["metadata"]["annotations"]["checksum/config"]


def health(pod: Mapping[str, Any]) -> int:
    address = pod["status"]["podIP"]
    return httpx.get(f"http://{address}:10101/services/replay/health", timeout=10, trust_env=False).status_code


@contextmanager
def volume_for(release: Release, folder: Path) -> Iterator[None]:
    """A disk for the service's claim, as a cluster with a provisioner of volumes would make it."""
    folder.mkdir()
    folder.chmod(0o777)
    for above in folder.parents:
        if above.stat().st_uid == 0 and above.is_relative_to("/tmp/pytest-of-root"):
            above.chmod(above.stat().st_mode | 0o011)
    name = f"volume-{secrets.token_hex(4)}"
    spec = {
        "capacity": {"storage": "5Gi"},
        "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": str(folder)},
        "claimRef": {"namespace": release.namespace, "name": "replay"},
    }
    release.kube.apply({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec})
    yield
    release.cluster.kubectl("delete", "persistentvolume", name, "--wait=false")


def make_hubs_secret(release: Release) -> str:
    """As Zero to JupyterHub makes it. The token in it."""
    token = secrets.token_hex(32)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hub", "namespace": release.namespace}}
    release.kube.apply({**secret, "stringData": {"hub.services.replay.apiToken": token}})
    return token
