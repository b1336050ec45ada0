"""The builder of a cluster as the service makes it, on a namespace of a test's own."""

import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from demo.git_server import GitServer
from replay_build_service.builders.docker.recipe import recipe_of
from replay_build_service.builders.kubernetes.builder import KubernetesBuilder
from replay_build_service.builders.kubernetes.client import Cluster
from replay_build_service.builders.kubernetes.pods import pod_name
from replay_build_service.builders.kubernetes.settings import KubernetesBuilderSettings
from replay_build_service.domain import BuildId, BuildJob, ImageName, ResolvedRef
from replay_build_service.links import Repository, RepoSpec
from replay_build_service.outgoing import OutgoingRules
from replay_build_service.registry import Images, Registry
from tests.cluster.accounts import BUILDS, Account
from tests.cluster.external import AnyCluster
from tests.cluster.kube import Kube
from tests.containers.engine import ContainerEngine
from tests.containers.tools import build_variables
from tests.registry_server import RegistryServer
from tests.site import make_repository


@dataclass
class BuildBench:
    """What builds of one test have around them."""

    cluster: AnyCluster
    kube: Kube
    engine: ContainerEngine
    registry: RegistryServer
    forge: GitServer
    base_image: str
    builder_image: str
    namespace: str
    folder: Path
    _names: set[str] = field(default_factory=set[str])

    def settings(self, **changes: Any) -> KubernetesBuilderSettings:
        chosen = KubernetesBuilderSettings(
            namespace=self.namespace,
            builder_image=self.builder_image,
            site=self.namespace,
            engine_socket=str(self.engine.socket),
            dns_policy="Default",
            base_image=self.base_image,
            environment=build_variables(),
            outgoing=OutgoingRules(exempt_origins=frozenset({self.forge.url.rstrip("/")})),
            resources={"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}},
            time_limit=300.0,
            pod_wait=120.0,
        )
        return replace(chosen, **changes)

    @cached_property
    def kubeconfig(self) -> Path:
        """Of an account with the rights that the chart gives the service, and no others."""
        folder = self.folder / "accounts"
        folder.mkdir()
        return Account(self.cluster, self.kube, self.namespace, folder).with_rights(BUILDS)

    @asynccontextmanager
    async def builder(
        self, *, registry: RegistryServer | None = None, **changes: Any
    ) -> AsyncIterator[KubernetesBuilder]:
        """One service's builder; several may be at work on the same pods, one after the other."""
        settings = self.settings(**changes)
        known = (registry or self.registry).settings()
        async with Cluster(self.namespace, str(self.kubeconfig)) as cluster, Registry(known) as client:
            recipe = recipe_of("kubernetes", settings.base_image, None, settings.build_arguments)
            yield KubernetesBuilder(settings, recipe, cluster, Images(client, known.host))

    def job(self, builder: KubernetesBuilder, files: Mapping[str, str], name: str = "") -> BuildJob:
        """A build of a commit with these files; of a new repository where no name is given."""
        name = name or f"r{secrets.token_hex(4)}"
        made = make_repository(self.forge, self.folder / f"work-{name}", name, files)
        resolved = ResolvedRef(Repository.of_url(made.url), RepoSpec("git", made.url, "HEAD"), made.url, made.commit)
        identity = BuildId(secrets.token_hex(8))
        return BuildJob(identity, ImageName.of(resolved, builder.recipe), resolved, builder.recipe)

    def dockerfile(self, *lines: str) -> dict[str, str]:
        """A repository that is nothing but a Dockerfile on the base image."""
        return {"Dockerfile": "\n".join([f"FROM {self.base_image}", *lines, "USER 1000", ""])}

    def pod_name(self, job: BuildJob) -> str:
        return pod_name(f"{self.registry.settings().host}/{job.image_name}")

    def pod(self, job: BuildJob) -> dict[str, Any] | None:
        return self.kube.pod(self.namespace, self.pod_name(job))

    def push_secret(self, name: str, host: str, account: str) -> None:
        """``account``: base64 of ``user:password``."""
        document = json.dumps({"auths": {host: {"auth": account}}})
        self.kube.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": name, "namespace": self.namespace},
                "type": "kubernetes.io/dockerconfigjson",
                "stringData": {".dockerconfigjson": document},
            }
        )
