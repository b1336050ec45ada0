"""From settings to objects: which builder, with what registry; which providers; the rules for what goes out.

Whatever an administrator has set that cannot work is told here, at the start, as `UnusableSettings`.
"""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

from replay_build_service.assembly.common import (
    UnusableSettings,
    credentials_of,
    outgoing_rules,
    source_tokens,
    split_registry,
)
from replay_build_service.assembly.contents import make_contents
from replay_build_service.assembly.docker import make_docker_builder
from replay_build_service.assembly.policies import make_policies, session_resources
from replay_build_service.assembly.providers import make_providers
from replay_build_service.builders.base import Builder
from replay_build_service.builders.venv.builder import VenvBuilder, VenvBuilderSettings, running_version
from replay_build_service.settings import ServiceSettings

__all__ = [
    "NOTICES",
    "UnusableSettings",
    "credentials_of",
    "make_builder",
    "make_contents",
    "make_policies",
    "make_providers",
    "outgoing_rules",
    "session_resources",
    "source_tokens",
    "split_registry",
]

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
    "kubernetes": (),
}
"""What people should know of how a builder's sessions run, before they agree."""


async def make_builder(settings: ServiceSettings, state: Path, resources: AsyncExitStack) -> Builder:
    """The builder that the settings name. Raises `UnusableSettings`."""
    if settings.builder == "docker":
        return await make_docker_builder(settings, state, resources)
    if settings.builder == "kubernetes":
        # What it needs is installed where it is used: jupyterhub-replay[kubernetes].
        from replay_build_service.assembly.kubernetes import make_kubernetes_builder

        return await make_kubernetes_builder(settings, state, resources)
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
