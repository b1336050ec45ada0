"""What an administrator decides about builds with a container engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from replay_build_service.outgoing import OutgoingRules


@dataclass(frozen=True, slots=True)
class DockerBuilderSettings:
    """Times in seconds, sizes in bytes."""

    builds_dir: Path
    """A folder for each build while it runs: sources, log, and how it ended."""
    engine: str = "unix:///var/run/docker.sock"
    """As in ``DOCKER_HOST``."""
    docker_config: Path | None = None
    """The folder with ``config.json``: credentials for pushing and pulling. ``None``: the service's own account's."""
    image_prefix: str = ""
    """What the names of images begin with, behind the registry's host: ``project``."""
    base_image: str | None = None
    """What repo2docker's images stand on. ``None``: what ``configuration_file`` or repo2docker itself says."""
    configuration_file: Path | None = None
    """A configuration of repo2docker: buildpacks, and whatever else it has."""
    network: str | None = None
    """The network of a build's steps; ``None``: the engine's default."""
    cgroup_parent: str | None = None
    """A control group whose limits the administrator sets; ``None``: made for each build where there are limits."""
    time_limit: float = 1800.0
    output_limit: int = 50_000_000
    repository_limit: int = 2_000_000_000
    disk_limit: int | None = 20_000_000_000
    """By how much the engine's disk may fill while a build runs; builds at the same time count together."""
    free_disk: int = 1_000_000_000
    """A build is ended where less than this is left on the engine's disk."""
    memory_limit: int | None = None
    """Of all steps of a build together."""
    process_limit: int | None = None
    """Processes and threads of all steps of a build together."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """Given to repo2docker, and to builds as build arguments: proxies, a mirror. It is no place for secrets. What names
    files of this machine (``SSL_CERT_FILE``) is not given to builds."""
    outgoing: OutgoingRules = field(default_factory=OutgoingRules)
    """What may be fetched from where."""
