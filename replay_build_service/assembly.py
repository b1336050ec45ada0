"""From settings to objects: which builder, with what registry; which providers; the rules for what goes out.

Whatever an administrator has set that cannot work is told here, at the start, as `UnusableSettings`.
"""

import asyncio
import base64
import json
import logging
import os
import subprocess
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from replay_build_service.builders.base import Builder
from replay_build_service.builders.docker.builder import DockerBuilder
from replay_build_service.builders.docker.cgroup import GroupClaim
from replay_build_service.builders.docker.engine import Engine, EngineFault
from replay_build_service.builders.docker.recipe import configured_base_image, pinned_base_image, recipe_of
from replay_build_service.builders.docker.settings import DockerBuilderSettings
from replay_build_service.builders.venv.builder import VenvBuilder, VenvBuilderSettings, running_version
from replay_build_service.domain import Resources
from replay_build_service.errors import SourceFault
from replay_build_service.outgoing import OutgoingRules
from replay_build_service.providers.base import RepoProvider
from replay_build_service.providers.gh import GitHubProvider
from replay_build_service.providers.git import GitProvider
from replay_build_service.registry import Images, Registry, RegistrySettings
from replay_build_service.settings import ServiceSettings

log = logging.getLogger(__name__)

NOTICES = {
    "venv": (
        "Builds and sessions on this site are ordinary processes of one account on one machine: they are not isolated "
        "from each other, nor from the hub.",
        "The memory limit holds for each process of a session, where the operating system allows it; "
        "memory and CPU are not reserved.",
    ),
    "docker": (
        "Sessions on this site are containers on one machine: they share its kernel and its network, and memory is "
        "limited, not reserved.",
    ),
}
"""What people should know of how a builder's sessions run, before they agree."""


_BUILD_NETWORKS = ("", "default", "none", "host")
"""What buildx takes."""


class UnusableSettings(Exception):
    """What an administrator has set cannot work. The message is a sentence for them."""


def outgoing_rules(settings: ServiceSettings) -> OutgoingRules:
    """What may be asked of the world outside. Raises `UnusableSettings` where an entry could never match."""
    checks: dict[str, Callable[[], OutgoingRules]] = {
        "allowed_hosts": lambda: OutgoingRules(allowed_hosts=frozenset(settings.allowed_hosts)),
        "exempt_origins": lambda: OutgoingRules(exempt_origins=frozenset(settings.exempt_origins)),
    }
    for name, check in checks.items():
        try:
            check()
        except ValueError as error:
            raise UnusableSettings(f"ReplayBuildService.{name}: {error}") from error
    return OutgoingRules(
        allowed_hosts=frozenset(settings.allowed_hosts),
        exempt_origins=frozenset(settings.exempt_origins),
        proxy=settings.outgoing_proxy or None,
        ca_file=settings.ca_file or None,
    )


def session_resources(settings: ServiceSettings) -> Resources:
    """What a session gets."""
    memory = cast(int, settings.mem_guarantee), cast(int, settings.mem_limit)
    return Resources(*memory, settings.cpu_guarantee, settings.cpu_limit)


def make_providers(settings: ServiceSettings, tasks: asyncio.TaskGroup) -> dict[str, RepoProvider]:
    """The providers, by the name that links have for them."""
    rules = outgoing_rules(settings)
    found: list[RepoProvider] = [GitProvider(rules, tasks), GitHubProvider(rules, tasks)]
    return {provider.name: provider for provider in found}


async def make_builder(settings: ServiceSettings, state: Path, resources: AsyncExitStack) -> Builder:
    """The builder that the settings name. Raises `UnusableSettings`."""
    if settings.builder == "docker":
        return await _make_docker_builder(settings, state, resources)
    return VenvBuilder(
        VenvBuilderSettings(
            builds_dir=state / "builds",
            cache_dir=Path(settings.uv_cache_dir) if settings.uv_cache_dir else None,
            outgoing=outgoing_rules(settings),
            environment=dict(cast(dict[str, str], settings.build_environment)),
            python_downloads=settings.python_downloads,
            default_python=settings.default_python or running_version(),
            time_limit=settings.build_timeout,
            output_limit=cast(int, settings.build_output_limit),
            repository_limit=cast(int, settings.repository_limit),
            memory_limit=cast(int | None, settings.build_memory_limit),
        )
    )


async def _make_docker_builder(settings: ServiceSettings, state: Path, resources: AsyncExitStack) -> DockerBuilder:
    try:
        client = Engine(settings.docker_host)
    except ValueError as error:
        raise UnusableSettings(f"ReplayBuildService.docker_host: {error}") from error
    engine = await resources.enter_async_context(client)
    if settings.build_network not in _BUILD_NETWORKS:
        raise UnusableSettings(
            f"ReplayBuildService.build_network: builds know the networks {', '.join(filter(None, _BUILD_NETWORKS))} and no "
            f"{settings.build_network!r}."
        )
    if settings.build_network == "host":
        log.warning(
            "build_network is “host”: strangers' builds reach the loopback of the hub, this service and the proxy"
        )
    registry_url, prefix = split_registry(settings.registry)
    chosen = DockerBuilderSettings(
        builds_dir=state / "images",
        engine=settings.docker_host,
        docker_config=Path(settings.docker_config) if settings.docker_config else None,
        image_prefix=prefix,
        base_image=settings.base_image or None,
        configuration_file=Path(settings.repo2docker_config) if settings.repo2docker_config else None,
        network=settings.build_network or None,
        cgroup_parent=settings.build_cgroup_parent or None,
        time_limit=settings.build_timeout,
        output_limit=cast(int, settings.build_output_limit),
        repository_limit=cast(int, settings.repository_limit),
        disk_limit=cast(int | None, settings.build_disk_limit),
        free_disk=cast(int, settings.build_free_disk),
        memory_limit=cast(int | None, settings.build_memory_limit),
        process_limit=settings.build_process_limit,
        environment=dict(cast(dict[str, str], settings.build_environment)),
        outgoing=outgoing_rules(settings),
    )
    await asyncio.to_thread(_check_commands, chosen)
    await _check_limits(chosen, engine)
    registry = None
    if registry_url:
        credentials = credentials_of(chosen.docker_config, urlsplit(registry_url).netloc)
        known = RegistrySettings(registry_url, *credentials, ca_file=settings.ca_file or None)
        registry = Images(await resources.enter_async_context(Registry(known)), known.host)
    base_image = await _base_image(chosen, engine, state / "base_image")
    log.info("Images stand on %s", base_image)
    return DockerBuilder(chosen, recipe_of(chosen, base_image), base_image, engine, registry)


def split_registry(url: str) -> tuple[str, str]:
    """Where it answers, and what the names of images begin with there. Raises `UnusableSettings`."""
    if not url:
        return "", ""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.query:
        raise UnusableSettings(
            "ReplayBuildService.registry should read https://host[:port][/prefix], without a password."
        )
    return f"{parts.scheme}://{parts.netloc}", parts.path.strip("/")


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
    """Pinned. What it was at the last start is kept, for starts at which the engine does not answer."""
    try:
        name = configured_base_image(chosen)
    except Exception as error:
        raise UnusableSettings(f"{chosen.configuration_file} cannot be used: {error!r}") from error
    try:
        pinned = await pinned_base_image(name, engine)
    except SourceFault as fault:
        pinned = await asyncio.to_thread(_kept_base_image, kept, name)
        if pinned is None:
            detail = f" ({fault.detail})" if isinstance(fault, EngineFault) else ""
            raise UnusableSettings(f"{fault.sentence}{detail}") from fault
        log.warning("%s The base image stays %s.", fault.sentence, pinned)
        return pinned
    await asyncio.to_thread(kept.write_text, f"{name} {pinned}\n", encoding="utf-8")
    return pinned


def _kept_base_image(kept: Path, name: str) -> str | None:
    """What the name was pinned to before."""
    if not kept.exists():
        return None
    was, _, pinned = kept.read_text(encoding="utf-8").strip().partition(" ")
    return pinned if was == name and pinned else None


def credentials_of(folder: Path | None, host: str) -> tuple[str | None, str | None]:
    """Name and password for a registry, as ``docker login`` keeps them; none where there are none.

    None, too, where a program keeps them (``credsStore``, ``credHelpers``), which the engine's command line alone asks: the
    service then asks the registry without an account. Raises `UnusableSettings` where the file cannot be read.
    """
    file = (folder or Path(os.environ.get("DOCKER_CONFIG", "~/.docker")).expanduser()) / "config.json"
    try:
        told = cast("dict[str, dict[str, dict[str, str]]]", json.loads(file.read_text(encoding="utf-8")))
        entry = told.get("auths", {}).get(host, {}).get("auth")
        if not entry:
            return None, None
        name, _, password = base64.b64decode(entry, validate=True).decode().partition(":")
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UnusableSettings(
            f"{file} has no credentials that can be read for {host}: {type(error).__name__}."
        ) from error
    return name, password
