"""A cluster that somebody else keeps, in the place of one of the tests' own; and what the two have in common.

Chosen by the environment:

``KUBECONFIG``
    The cluster, and a user who may do all there.
``REPLAY_TEST_CLUSTER_HOST``
    The address of this machine by which that cluster's pods reach it. Only with both is that cluster used.
``REPLAY_TEST_CLUSTER_REGISTRY_PORT``
    The port of the tests' registry at that address, 5000 where it is not said. The cluster's nodes must take images
    from ``address:port`` without TLS.

Builds mount the socket of a container engine of this machine: they need a cluster whose node is this machine.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.cluster.binaries import kubectl

_HOST, _PORT = "REPLAY_TEST_CLUSTER_HOST", "REPLAY_TEST_CLUSTER_REGISTRY_PORT"


class NotHere(Exception):
    """What cannot be done with this cluster; says why."""


class AnyCluster(Protocol):
    """What tests may rely on."""

    @property
    def kubeconfig(self) -> Path:
        """For a user who may do all, on this machine."""
        ...

    @property
    def host_address(self) -> str:
        """By which pods reach this machine."""
        ...

    @property
    def node_address(self) -> str:
        """Of one of its nodes."""
        ...

    @property
    def registry_port(self) -> int | None:
        """Where the registry of the tests must listen; none where any port will do."""
        ...

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        """Standard output of Kubernetes' command line. Fails with what it says."""
        ...

    def kubectl_command(self, *arguments: str) -> list[str]:
        """For those who run it otherwise."""
        ...

    def trust_registry(self, host: str) -> None:
        """Let pods have images of the registry at ``address:port``, which has no TLS."""
        ...

    def import_image(self, archive: Path) -> None:
        """Give the node an image, from what ``docker save`` wrote. Raises `NotHere`."""
        ...

    def stop_api_server(self) -> None:
        """Take the API away; what runs, runs on. Raises `NotHere`."""
        ...

    def start_api_server(self) -> None:
        """Return once it answers. Raises `NotHere`."""
        ...


def run_kubectl(command: list[str], input: str | None = None) -> str:
    """Standard output. Fails with what it says."""
    done = subprocess.run(command, input=input, capture_output=True, text=True)
    assert done.returncode == 0, f"kubectl {' '.join(command[1:])}: {done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class ExternalCluster:
    """As `tests.cluster.kubernetes.Cluster`, as far as one may go with what is somebody else's."""

    kubeconfig: Path
    host_address: str
    registry_port: int | None = 5000

    @property
    def node_address(self) -> str:
        path = 'jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}'
        return self.kubectl("get", "nodes", "-o", path).split()[0]

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        return run_kubectl(self.kubectl_command(*arguments), input)

    def kubectl_command(self, *arguments: str) -> list[str]:
        return [kubectl(), f"--kubeconfig={self.kubeconfig}", *arguments]

    def trust_registry(self, host: str) -> None:
        """Its nodes are configured by whoever keeps them."""

    def import_image(self, archive: Path) -> None:
        raise NotHere("images come into an external cluster by the registry alone")

    def stop_api_server(self) -> None:
        raise NotHere("the API of an external cluster is not the tests' own to stop")

    start_api_server = stop_api_server


def external_cluster() -> ExternalCluster | None:
    """The one that the environment names, if it names one."""
    named, host = os.environ.get("KUBECONFIG"), os.environ.get(_HOST)
    if not named or not host:
        return None
    return ExternalCluster(Path(named), host, int(os.environ.get(_PORT, "5000")))


def why_no_control() -> str | None:
    """Why the cluster's own programs cannot be stopped; none where they can."""
    return None if external_cluster() is None else "an external cluster's own programs are not the tests' to stop"
