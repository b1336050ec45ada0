"""A cluster to work with, which several test runs can share.

    python -m tests.cluster             start one, say how to use it, and stop it when this is ended
    python -m tests.cluster --prepare   make the programs that it needs, and start none

A run that shares it sets what is said here; two at once need two ports for their registries.
"""

import argparse
import signal
import time

from tests.cluster.binaries import kubernetes_programs, why_no_cluster
from tests.cluster.external import external_cluster
from tests.cluster.kubernetes import Cluster

_PORTS = range(5000, 5010)


def main() -> None:
    """As the module says."""
    options = argparse.ArgumentParser(prog="python -m tests.cluster", description="A Kubernetes for tests.")
    options.add_argument("--prepare", action="store_true", help="make its programs and end")
    if options.parse_args().prepare:
        _prepare()
        return
    with Cluster() as cluster:
        for port in _PORTS:
            cluster.trust_registry(f"{cluster.host_address}:{port}")
        print(f"export KUBECONFIG={cluster.kubeconfig} REPLAY_TEST_CLUSTER_HOST={cluster.host_address}")
        print(f"export REPLAY_TEST_CLUSTER_REGISTRY_PORT={_PORTS.start}  # to {_PORTS.stop - 1}", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


def _prepare() -> None:
    """Whoever cannot have a cluster hears it from the tests, which are then skipped by name."""
    begun = time.monotonic()
    if reason := None if external_cluster() else why_no_cluster():
        print(f"No Kubernetes is made: {reason}")
    elif external_cluster() is None:
        print(f"Kubernetes is in {kubernetes_programs()}, after {time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
