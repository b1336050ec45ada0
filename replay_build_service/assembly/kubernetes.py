"""From settings to the builder of a cluster."""

import asyncio
import logging
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

from kubernetes_asyncio.config.config_exception import ConfigException

from replay_build_service.assembly.common import (
    UnusableSettings,
    base_image_name,
    check_build_network,
    image_build_settings,
    images_of,
    pinned_or_kept,
)
from replay_build_service.builders.detached.sources import recipe_parameters
from replay_build_service.builders.docker.recipe import PINNED, recipe_of
from replay_build_service.builders.kubernetes.builder import KubernetesBuilder
from replay_build_service.builders.kubernetes.client import Cluster, own_namespace
from replay_build_service.builders.kubernetes.settings import KubernetesBuilderSettings
from replay_build_service.errors import SourceFault
from replay_build_service.registry import Images, Registry, RegistrySettings
from replay_build_service.settings import ServiceSettings

log = logging.getLogger(__name__)

_DOCKER_HUB = "registry-1.docker.io"
_NOT_SET = {"build_memory_limit", "build_process_limit"}
"""Settings that only the engine's own machine could keep."""


async def make_kubernetes_builder(
    settings: ServiceSettings, state: Path, resources: AsyncExitStack
) -> KubernetesBuilder:
    """The builder of a cluster. Raises `UnusableSettings`."""
    check_build_network(settings)
    if not settings.builder_image:
        raise UnusableSettings(
            "The builder “kubernetes” needs ReplayBuildService.builder_image: what build pods run. "
            "charts/replay/images/Dockerfile makes one."
        )
    for name in sorted(_NOT_SET):
        if getattr(settings, name) is not None:
            raise UnusableSettings(
                f"ReplayBuildService.{name} cannot be kept by a pod: builds run in their node's engine. Limit the engine, or "
                "name a control group with limits of your own in build_cgroup_parent."
            )
    images = await images_of(settings, resources)
    if images is None:
        raise UnusableSettings("The builder “kubernetes” needs ReplayBuildService.registry, which keeps its images.")
    cluster = await _cluster(settings, resources)
    configuration = Path(settings.repo2docker_config) if settings.repo2docker_config else None
    name = await asyncio.to_thread(base_image_name, settings.base_image, configuration)
    base_image = await pinned_or_kept(name, _pinned(name, images, settings), state / "base_image")
    log.info("Images stand on %s, and build pods run in %s", base_image, cluster.namespace)
    chosen = _chosen(settings, cluster.namespace, base_image, configuration)
    more = {"builder_image": chosen.builder_image, **recipe_parameters(chosen.outgoing)}
    recipe = recipe_of("kubernetes", base_image, configuration, chosen.build_arguments, **more)
    return KubernetesBuilder(chosen, recipe, cluster, images)


async def _cluster(settings: ServiceSettings, resources: AsyncExitStack) -> Cluster:
    namespace = settings.build_namespace or await asyncio.to_thread(own_namespace)
    if namespace is None:
        raise UnusableSettings(
            "This service runs in no pod, so ReplayBuildService.build_namespace has to say where build pods run."
        )
    try:
        return await resources.enter_async_context(Cluster(namespace, settings.kubeconfig or None))
    except (ConfigException, OSError) as error:
        raise UnusableSettings(
            f"Nothing says how the cluster is reached ({error}). Run the service in a pod with an account of its own, or set "
            "ReplayBuildService.kubeconfig."
        ) from error


def _chosen(
    settings: ServiceSettings, namespace: str, base_image: str, configuration: Path | None
) -> KubernetesBuilderSettings:
    return KubernetesBuilderSettings(
        namespace=namespace,
        builder_image=settings.builder_image,
        site=settings.public_url or settings.registry,
        pull_policy=settings.builder_image_pull_policy,
        engine_socket=settings.build_engine_socket,
        engine_data=settings.build_engine_data or None,
        engine_pods=settings.build_engine_pods or None,
        node_selector=dict(cast("dict[str, str]", settings.build_node_selector)),
        tolerations=list(settings.build_tolerations),
        resources=dict(settings.build_resources),
        dns_policy=settings.build_dns_policy,
        push_secret=settings.build_push_secret or None,
        pull_secrets=list(settings.build_pull_secrets),
        ca_config_map=settings.build_ca_config_map or None,
        priority_class=settings.build_priority_class or None,
        pod_wait=settings.build_pod_wait,
        base_image=base_image,
        configuration=configuration.read_text(encoding="utf-8") if configuration is not None else None,
        **image_build_settings(settings),
    )


async def _pinned(name: str, images: Images, settings: ServiceSettings) -> str:
    """The same image by what its registry says: our own with its account, any other without one. Raises `SourceFault`."""
    if PINNED.fullmatch(name):
        return name
    folder, slash, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    repository = f"{folder}{slash}{last}"
    host, path = _split_repository(repository)
    if host == images.host:
        digest = await images.digest(path, tag or "latest")
    else:
        there = RegistrySettings(f"https://{host}", ca_file=settings.ca_file or None)
        async with Registry(there) as registry:
            digest = await Images(registry, host).digest(path, tag or "latest")
    if digest is None:
        raise SourceFault(
            f"The base image {name} is not in its registry. Name another in ReplayBuildService.base_image."
        )
    return f"{repository}@{digest}"


def _split_repository(repository: str) -> tuple[str, str]:
    """Registry and path of a repository as engines read it: without a host it is Docker Hub's."""
    host, slash, path = repository.partition("/")
    if slash and ("." in host or ":" in host or host == "localhost"):
        return (_DOCKER_HUB if host == "docker.io" else host), path
    return _DOCKER_HUB, repository if slash else f"library/{repository}"
