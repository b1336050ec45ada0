"""The builder of a machine with a container engine: images made by repo2docker.

Each build is a detached process with a folder of its own (`builders.detached`); what it does is in `steps`. With a
registry, an image is pushed there and known by the digest of its manifest; without one, by its id in the engine.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from replay_build_service.builders.base import IMAGE_GONE, SESSION_COMMAND, RunningBuild, SessionCommand
from replay_build_service.builders.detached.build import (
    DetachedBuild,
    FailedBuild,
    folder_path,
    launch_runner,
    remove_build,
    sweep_folders,
)
from replay_build_service.builders.detached.failures import disk_failure
from replay_build_service.builders.detached.folder import BuildFolder, write_whole
from replay_build_service.builders.docker.cgroup import remove_idle_groups
from replay_build_service.builders.docker.credentials import narrowed_config
from replay_build_service.builders.docker.engine import Engine, EngineFault
from replay_build_service.builders.docker.instructions import Instructions
from replay_build_service.builders.docker.settings import DockerBuilderSettings
from replay_build_service.builders.registry_images import (
    NOT_THERE,
    ImageRegistry,
    KnownConfigurations,
    RegistryImages,
    refusal,
)
from replay_build_service.domain import (
    BuildFailure,
    BuildId,
    BuildJob,
    BuildRecipe,
    FailureReason,
    ImageConfiguration,
    ImageName,
    RunnableImage,
)
from replay_build_service.errors import SourceFault

log = logging.getLogger(__name__)

ENGINE_PREFIX = "engine@"
"""What the reference of an image begins with that is in no registry."""

_RUNNER = "replay_build_service.builders.docker.runner"


class DockerBuilder:
    """Makes images with repo2docker. Implements `Builder`."""

    def __init__(
        self,
        settings: DockerBuilderSettings,
        recipe: BuildRecipe,
        base_image: str,
        engine: Engine,
        registry: ImageRegistry | None,
    ) -> None:
        """``base_image`` is pinned, and part of the recipe. Without a registry, images stay in the engine."""
        self.settings = settings
        self._recipe = recipe
        self._base_image = base_image
        self._engine = engine
        self._images = None if registry is None else RegistryImages(registry, settings.image_prefix)
        self._registry_host = None if registry is None else registry.host
        self._data_root: str | None = None
        self._in_engine = KnownConfigurations()

    @property
    def recipe(self) -> BuildRecipe:
        return self._recipe

    def full_name(self, name: ImageName) -> str:
        """``registry/prefix/repository:tag``, or without the registry."""
        if self._images is not None:
            return self._images.full_name(name)
        prefix = self.settings.image_prefix.strip("/")
        return f"{prefix}/{name}" if prefix else str(name)

    async def start(self, job: BuildJob, cache_from: Sequence[RunnableImage] = ()) -> RunningBuild:
        """Starts the build, or attaches to it where it was started before; returns once its runner has claimed it.

        Where it cannot be started, the outcome of what is returned says why.
        """
        folder = self._folder(job.build_id)
        if folder.read_process() is None and folder.read_exit() is None:
            try:
                instructions = await self._instructions(job, cache_from)
                await asyncio.to_thread(self._prepare, folder, instructions)
                await launch_runner(folder, _RUNNER, self._environment(folder))
            except OSError as error:
                return FailedBuild(disk_failure(error))
        return _ImageBuild(folder, self.settings.time_limit, self, job)

    def _folder(self, build_id: BuildId) -> BuildFolder:
        return BuildFolder(folder_path(self.settings.builds_dir, build_id))

    async def _instructions(self, job: BuildJob, cache_from: Sequence[RunnableImage]) -> Instructions:
        settings = self.settings
        return Instructions.of(
            job,
            settings,
            image=self.full_name(job.image_name),
            push=self._images is not None,
            cache_from=[] if self._images is None else await self._images.caches(cache_from),
            base_image=self._base_image,
            configuration_file=str(settings.configuration_file.resolve()) if settings.configuration_file else None,
            engine=self._engine.host,
            data_root=await self._local_data_root(),
            memory_limit=settings.memory_limit,
            process_limit=settings.process_limit,
        )

    async def _local_data_root(self) -> str | None:
        """Where the engine keeps images, if that is on this machine: then its disk can be watched."""
        if self._data_root is None and self._engine.host.startswith("unix:"):
            try:
                self._data_root = (await self._engine.info()).data_root
            except EngineFault as error:
                log.warning("The disk of builds is not watched: %s", error.detail)
        return self._data_root

    def _prepare(self, folder: BuildFolder, instructions: Instructions) -> None:
        for path in (folder.path, folder.home, folder.temporary):
            path.mkdir(parents=True, exist_ok=True)
        folder.path.chmod(0o700)
        config = self.settings.docker_config or Path(os.environ.get("DOCKER_CONFIG", "~/.docker")).expanduser()
        self._docker_config(folder).mkdir(exist_ok=True)
        write_whole(
            self._docker_config(folder) / "config.json",
            narrowed_config(config / "config.json", self._registry_host),
        )
        write_whole(folder.instructions, instructions.to_json())

    @staticmethod
    def _docker_config(folder: BuildFolder) -> Path:
        return folder.home / ".docker"

    def _environment(self, folder: BuildFolder) -> dict[str, str]:
        """All that the runner, repo2docker and the engine's command line get to see of this process."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            # Otherwise a configuration that fails is passed over as a whole, and with it every limit in it.
            "TRAITLETS_APPLICATION_RAISE_CONFIG_FILE_ERROR": "1",
            **self.settings.environment,
            "DOCKER_HOST": self._engine.host,
            "DOCKER_CONFIG": str(self._docker_config(folder)),
            "BUILDX_CONFIG": str(folder.temporary / "buildx"),
            "HOME": str(folder.home),
            "TMPDIR": str(folder.temporary),
        }

    async def outcome(self, job: BuildJob, digest: str) -> RunnableImage | BuildFailure:
        """What a build that ended well has made. Raises `SourceFault` where registry or engine cannot say."""
        if self._images is not None:
            return await self._images.outcome(job, digest)
        image = RunnableImage(f"{ENGINE_PREFIX}{digest}", digest)
        configuration = await self._find_configuration(image)
        if configuration is None:
            return BuildFailure(FailureReason.ENGINE, NOT_THERE.format(where="the container engine"))
        return refusal(configuration) or image

    async def exists(self, image: RunnableImage, *, thoroughly: bool = False) -> bool:
        """Whether the image can be run now: the engine has it, or the registry does."""
        if not self._is_in_registry(image):
            return await self._engine.image(image.location) is not None
        try:
            if await self._engine.image(image.location) is not None:
                return True
        except EngineFault as error:
            log.warning("Asking the registry alone for %s: %s", image.location, error.detail)
        return self._images is not None and await self._images.exists(image, thoroughly=thoroughly)

    @staticmethod
    def _is_in_registry(image: RunnableImage) -> bool:
        return not image.reference.startswith(ENGINE_PREFIX)

    async def discard(self, job: BuildJob) -> None:
        """Removes all that the build has left on disk and in the engine. Ends what still runs of it.

        Raises `OSError`, and `EngineFault` where the engine cannot be asked.
        """
        # The tag first: what is left where the engine is away is then found by the next start, by its folder.
        await self._engine.remove_tag(self.full_name(job.image_name))
        await self.tidy(job)

    async def tidy(self, job: BuildJob) -> None:
        """The image is in the registry or the engine: the folder goes. Raises `OSError`."""
        await asyncio.to_thread(remove_build, self._folder(job.build_id))
        await self._remove_idle_groups()

    async def sweep(self, running: Collection[BuildId], kept: Collection[BuildId]) -> list[BuildId]:
        """Removes the folders of builds that have ended, and the names in the engine of those that made no image.

        Says which builds. Raises `OSError` where there is no looking.
        """
        for name in await asyncio.to_thread(_names_of_left, self.settings.builds_dir, {*running, *kept}):
            try:
                await self._engine.remove_tag(name)
            except EngineFault as error:
                log.warning("The engine still has %s: %s", name, error.detail)
        removed = await asyncio.to_thread(sweep_folders, self.settings.builds_dir, frozenset(running))
        await self._remove_idle_groups()
        return removed

    async def _remove_idle_groups(self) -> None:
        """Builds remove their own, those apart whose runner was killed."""
        if self.settings.memory_limit is not None or self.settings.process_limit is not None:
            await asyncio.to_thread(remove_idle_groups)

    async def session(self, image: RunnableImage) -> SessionCommand:
        """How a server is started from this image. Raises `SourceFault` where its configuration cannot be had now."""
        configuration = await self._find_configuration(image)
        if configuration is None:
            raise SourceFault(IMAGE_GONE)
        return SessionCommand(SESSION_COMMAND, {}, None, configuration)

    async def _find_configuration(self, image: RunnableImage) -> ImageConfiguration | None:
        if self._images is not None and self._is_in_registry(image) and self._images.place_of(image) is not None:
            return await self._images.configuration(image)
        if (known := self._in_engine.get(image.reference)) is not None:
            return known
        found = await self._engine.image(image.location)
        if found is None:
            return None
        self._in_engine.keep(image.reference, found.configuration)
        return found.configuration


def _names_of_left(builds_dir: Path, known: Collection[str]) -> list[str]:
    """What the images of unknown builds are called, as far as their folders tell. Blocking."""
    names: list[str] = []
    for file in builds_dir.glob("*/job.json"):
        if file.parent.name not in known:
            try:
                names.append(Instructions.from_json(file.read_text(encoding="utf-8")).image)
            except (OSError, ValueError, TypeError) as error:
                log.warning("%s does not tell what was built: %s", file, error)
    return names


@dataclass(frozen=True, slots=True)
class _ImageBuild(DetachedBuild):
    """A build that was started."""

    builder: DockerBuilder
    job: BuildJob

    async def outcome(self) -> RunnableImage | BuildFailure:
        digest = await self.digest()
        return digest if isinstance(digest, BuildFailure) else await self.builder.outcome(self.job, digest)
