"""A Kubernetes, an engine, a registry and images of our own making, as in the tests; or the cluster that the environment names."""

import subprocess
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from demo.git_server import GitServer
from tests.cluster.conftest import digest_of, made_builder_image, made_notebook_image, pushed
from tests.cluster.external import external_cluster
from tests.cluster.kube import Kube
from tests.cluster.kubernetes import Cluster
from tests.cluster.site import ClusterSites
from tests.containers.engine import ContainerEngine
from tests.containers.site import BASE_TAG
from tests.registry_server import RegistryServer

SECONDS = 600
"""For any one thing to happen."""


@dataclass(frozen=True)
class Bench:
    """What stands around launches and builds."""

    sites: ClusterSites
    """Without namespaces: each site has its own."""
    git: GitServer
    notebook_image: str
    folder: Path
    resources: ExitStack

    @property
    def kube(self) -> Kube:
        return self.sites.kube

    def namespaces(self) -> ClusterSites:
        """For one more site."""
        names = {
            name: self.resources.enter_context(self.kube.namespace(name)) for name in ("users", "builds", "accounts")
        }
        return replace(self.sites, **names)


@contextmanager
def bench(folder: Path) -> Generator[Bench]:
    for name in ("registry", "git"):
        (folder / name).mkdir(parents=True)
    with ExitStack() as made:
        cluster = external_cluster() or made.enter_context(Cluster())
        kube = made.enter_context(Kube(cluster))
        registry = RegistryServer(folder / "registry", host=cluster.host_address, port=cluster.registry_port)
        made.enter_context(registry)
        host = registry.settings().host
        cluster.trust_registry(host)
        engine = made.enter_context(ContainerEngine(insecure_registries=[host]))
        engine.import_base(f"{host}/{BASE_TAG}")
        pushed(engine, f"{host}/{BASE_TAG}")
        base, builder = digest_of(engine, f"{host}/{BASE_TAG}"), made_builder_image(engine, host)
        git = made.enter_context(GitServer(folder / "git", host=cluster.host_address, loopback_only=False))
        sites = ClusterSites(cluster, kube, engine, registry, base, builder, users="", builds="", accounts="")
        yield Bench(sites, git, made_notebook_image(engine, host), folder, made)


class PodWatch:
    """When pods of a namespace were made and when a container of theirs ran, as this machine heard of it.

    By the clock of `time.perf_counter`. A context manager.
    """

    def __init__(self, kube: Kube, namespace: str, container: str) -> None:
        started = f'{{.status.containerStatuses[?(@.name=="{container}")].state.running.startedAt}}'
        self._command = kube.cluster.kubectl_command(
            "get", "pods", f"--namespace={namespace}", "--watch-only", f'--output=jsonpath={{.metadata.uid}} {started}{{"\\n"}}'
        )  # fmt: skip
        self._process: subprocess.Popen[str] | None = None
        self.made: dict[str, float] = {}
        """By uid."""
        self.runs: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout
        for line in process.stdout:
            now, words = time.perf_counter(), line.split()
            if words:
                self.made.setdefault(words[0], now)
            if len(words) > 1:
                self.runs.setdefault(words[0], now)

    def last_since(self, moment: float) -> tuple[float, float]:
        """When the last one was made of the pods that were made since, and when the last one's container ran."""
        new = [uid for uid, made in self.made.items() if made > moment]
        return max(self.made[uid] for uid in new), max(self.runs[uid] for uid in new)


# ---- launches
