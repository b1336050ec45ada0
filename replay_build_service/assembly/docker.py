"""From settings to the builder of a machine with a container engine."""

import asyncio
import logging
import os
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

from replay_build_service.assembly.common import (
    UnusableSettings,
    base_image_name,
    check_build_network,
    image_build_settings,
    images_of,
    pinned_or_kept,
)
from replay_build_service.builders.detached.sources import recipe_parameters
from replay_build_service.builders.docker.builder import DockerBuilder
from replay_build_service.builders.docker.cgroup import GroupClaim
from replay_build_service.builders.docker.engine import Engine, EngineFault
from replay_build_service.builders.docker.recipe import pinned_base_image, recipe_of
from replay_build_service.builders.docker.settings import DockerBuilderSettings
from replay_build_service.settings import ServiceSettings

log = logging.getLogger(__name__)


async def make_docker_builder(settings: ServiceSettings, state: Path, resources: AsyncExitStack) -> DockerBuilder:
    """The builder of a machine with a container engine. Raises `UnusableSettings`."""
    try:
        client = Engine(settings.docker_host)
    except ValueError as error:
        raise UnusableSettings(f"ReplayBuildService.docker_host: {error}") from error
    engine = await resources.enter_async_context(client)
    check_build_network(settings)
    chosen = DockerBuilderSettings(
        builds_dir=state / "images",
        engine=settings.docker_host,
        docker_config=Path(settings.docker_config) if settings.docker_config else None,
        base_image=settings.base_image or None,
        configuration_file=Path(settings.repo2docker_config) if settings.repo2docker_config else None,
        memory_limit=cast(int | None, settings.build_memory_limit),
        process_limit=settings.build_process_limit,
        **image_build_settings(settings),
    )
    await asyncio.to_thread(_check_commands, chosen)
    await _check_limits(chosen, engine)
    registry = await images_of(settings, resources)
    base_image = await _base_image(chosen, engine, state / "base_image")
    log.info("Images stand on %s", base_image)
    more = recipe_parameters(chosen.outgoing)
    recipe = recipe_of("docker", base_image, chosen.configuration_file, chosen.build_arguments, **more)
    return DockerBuilder(chosen, recipe, base_image, engine, registry)


def _check_commands(chosen: DockerBuilderSettings) -> None:
    """That repo2docker finds what it calls."""
    config = {"DOCKER_CONFIG": str(chosen.docker_config.resolve())} if chosen.docker_config else {}
    try:
        subprocess.run(("docker", "buildx", "version"), check=True, capture_output=True, env={**os.environ, **config})
    except (OSError, subprocess.CalledProcessError) as error:
        raise UnusableSettings(
            "The builder “docker” needs the commands “docker” and “docker buildx” on the service's PATH. "
            "Install them, or set ReplayBuildService.builder to “venv”."
        ) from error


async def _check_limits(chosen: DockerBuilderSettings, engine: Engine) -> None:
    """That limits on memory and processes hold, rather than being set and meaning nothing."""
    if chosen.memory_limit is None and chosen.process_limit is None:
        return
    if chosen.cgroup_parent:
        raise UnusableSettings(
            "build_cgroup_parent is a control group with limits of your own: set them there, and neither "
            "build_memory_limit nor build_process_limit."
        )
    way_out = (
        "Name a control group with limits of your own in ReplayBuildService.build_cgroup_parent, or set neither "
        "build_memory_limit nor build_process_limit."
    )
    try:
        driver = (await engine.info()).cgroup_driver
    except EngineFault as error:
        log.warning("The container engine does not answer yet: %s", error.detail)
        driver = "cgroupfs"
    if driver != "cgroupfs" or not chosen.engine.startswith("unix:"):
        raise UnusableSettings(f"Limits of builds cannot be set on this engine (control groups by {driver}). {way_out}")
    try:
        claim = await asyncio.to_thread(GroupClaim.first_free)
        try:
            claim.group.create(chosen.memory_limit, chosen.process_limit)
        finally:
            claim.group.remove()
            claim.release()
    except OSError as error:
        raise UnusableSettings(f"Limits of builds cannot be set: {error}. {way_out}") from error


async def _base_image(chosen: DockerBuilderSettings, engine: Engine, kept: Path) -> str:
    """Pinned by what the engine has, or else by what its registry says."""
    name = base_image_name(chosen.base_image or "", chosen.configuration_file)
    return await pinned_or_kept(name, pinned_base_image(name, engine), kept)
