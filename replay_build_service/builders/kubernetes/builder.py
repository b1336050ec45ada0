"""The builder of a cluster: each build is a pod, with repo2docker in it, and an engine of its node makes the image.

A build is known by its pod, which is named after its image; so a service that died finds its builds again, and no two pods
make the same image. Images are in a registry, and nowhere else as far as this service knows.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from replay_build_service.builders.base import IMAGE_GONE, SESSION_COMMAND, RunningBuild, SessionCommand
from replay_build_service.builders.docker.instructions import Instructions
from replay_build_service.builders.kubernetes import places
from replay_build_service.builders.kubernetes.build import PodBuild
from replay_build_service.builders.kubernetes.client import Cluster, ClusterFault, ClusterRefusal
from replay_build_service.builders.kubernetes.pods import (
    build_of,
    deadline,
    engine_address,
    is_ours,
    pod_name,
    pod_of,
    selector,
)
from replay_build_service.builders.kubernetes.routing import node_for, ready_nodes
from replay_build_service.builders.kubernetes.settings import KubernetesBuilderSettings
from replay_build_service.builders.registry_images import ImageRegistry, RegistryImages
from replay_build_service.domain import (
    BuildFailure,
    BuildId,
    BuildJob,
    BuildRecipe,
    RunnableImage,
)
from replay_build_service.errors import SourceFault

log = logging.getLogger(__name__)


class KubernetesBuilder:
    """Makes images in pods. Implements `Builder`."""

    def __init__(
        self, settings: KubernetesBuilderSettings, recipe: BuildRecipe, cluster: Cluster, registry: ImageRegistry
    ) -> None:
        self.settings = settings
        self.cluster = cluster
        self._recipe = recipe
        self._images = RegistryImages(registry, settings.image_prefix)
        self._cache_from: dict[BuildId, list[str]] = {}

    @property
    def recipe(self) -> BuildRecipe:
        return self._recipe

    @property
    def pod_wait(self) -> float:
        return self.settings.pod_wait

    @property
    def time_limit(self) -> float:
        return self.settings.time_limit

    @property
    def output_limit(self) -> int:
        return self.settings.output_limit

    @property
    def deadline(self) -> float:
        return deadline(self.settings)

    async def start(self, job: BuildJob, cache_from: Sequence[RunnableImage] = ()) -> RunningBuild:
        """See `Builder.start`. Where the pod cannot be made now, following the build tries again."""
        self._cache_from[job.build_id] = await self._images.caches(cache_from)
        build = PodBuild(self, job, pod_name(self._images.full_name(job.image_name)))
        try:
            build.pod = await self.make_pod(job, build.attempt)
        except ClusterFault as fault:
            log.info("The pod of build %s was not made at once: %s", job.build_id, fault.detail)
        return build

    async def make_pod(self, job: BuildJob, attempt: int) -> Mapping[str, Any] | None:
        """The pod of this build, made or found; ``None`` while one that is on its way out has its name.

        Raises `ClusterFault`.
        """
        name = pod_name(self._images.full_name(job.image_name))
        found = await self.cluster.pod(name)
        if found is None:
            node = await self._node_for(job)
            pod = pod_of(self.settings, job, self._instructions(job), attempt=attempt, node=node)
            if (made := await self.cluster.create_pod(pod)) is not None:
                return made
            found = await self.cluster.pod(name)
        if found is None:
            return None
        if not is_ours(self.settings, found):
            log.error("%s belongs to another service: give each a registry, a prefix or a namespace of its own", name)
            return None
        if build_of(found) == job.build_id:
            return None if "deletionTimestamp" in found["metadata"] else found
        # Of an earlier build of this image, which is on record as ended: the name is this one's now.
        await self.cluster.delete_pod(name, found["metadata"]["uid"], 0)
        return None

    def _instructions(self, job: BuildJob) -> Instructions:
        settings = self.settings
        outgoing = replace(
            settings.outgoing, ca_file=places.AUTHORITIES_FILE if settings.ca_config_map is not None else None
        )
        return Instructions.of(
            job,
            settings,
            outgoing_rules=outgoing.to_json(),
            image=self._images.full_name(job.image_name),
            push=True,
            cache_from=self._cache_from.get(job.build_id, []),
            base_image=settings.base_image,
            configuration_file=places.CONFIGURATION_FILE if settings.configuration is not None else None,
            engine=engine_address(settings),
            data_root=places.ENGINE_DATA if settings.engine_data is not None else None,
            memory_limit=None,
            process_limit=None,
        )

    async def _node_for(self, job: BuildJob) -> str | None:
        if self.settings.engine_pods is None:
            return None
        try:
            engines = await self.cluster.pods(self.settings.engine_pods)
        except ClusterFault as fault:
            # It takes longer elsewhere, and makes the same.
            log.warning("The engines cannot be listed, so the scheduler alone chooses: %s", fault.detail)
            return None
        return node_for(job.resolved.repository.url, ready_nodes(engines))

    async def outcome(self, job: BuildJob, digest: str) -> RunnableImage | BuildFailure:
        """What a build that ended well has made. Raises `SourceFault` where the registry cannot say."""
        return await self._images.outcome(job, digest)

    async def exists(self, image: RunnableImage, *, thoroughly: bool = False) -> bool:
        """See `Builder.exists`."""
        return await self._images.exists(image, thoroughly=thoroughly)

    async def session(self, image: RunnableImage) -> SessionCommand:
        """See `Builder.session`."""
        configuration = await self._images.configuration(image)
        if configuration is None:
            raise SourceFault(IMAGE_GONE)
        return SessionCommand(SESSION_COMMAND, {}, None, configuration)

    async def tidy(self, job: BuildJob) -> None:
        """The pod goes; all that it kept goes with it. Raises `ClusterFault`."""
        self._cache_from.pop(job.build_id, None)
        pod = await self.cluster.pod(pod_name(self._images.full_name(job.image_name)))
        if pod is not None and is_ours(self.settings, pod) and build_of(pod) == job.build_id:
            await self.cluster.delete_pod(pod["metadata"]["name"], pod["metadata"]["uid"])

    async def discard(self, job: BuildJob) -> None:
        """As `tidy`: what a build left in its node's engine, the node's own cleaning takes. Raises `ClusterFault`."""
        await self.tidy(job)

    async def sweep(self, running: Collection[BuildId], kept: Collection[BuildId]) -> list[BuildId]:
        """Removes the pods of builds that have ended, and says which. Raises `OSError` where there is no looking."""
        removed: list[BuildId] = []
        try:
            pods = await self.cluster.pods(selector(self.settings))
        except ClusterFault as fault:
            raise OSError(0, f"build pods cannot be listed ({fault.detail})") from fault
        for pod in pods:
            build_id = BuildId(build_of(pod) or "")
            if build_id in running:
                continue
            try:
                await self.cluster.delete_pod(pod["metadata"]["name"], pod["metadata"]["uid"])
            except ClusterRefusal as fault:
                log.warning("%s cannot be removed: %s", pod["metadata"]["name"], fault.detail)
            else:
                removed.append(build_id)
        return removed
