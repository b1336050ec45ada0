"""What an administrator decides about builds that a container engine does: this machine's, or a node's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from replay_build_service.outgoing import OutgoingRules

PATHS_HERE = frozenset(
    {
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
        "PIP_CERT",
        "CURL_CA_BUNDLE",
        "GIT_SSL_CAINFO",
        "NODE_EXTRA_CA_CERTS",
    }
)
"""Variables for what runs on this machine: in a build they would name files that are not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBuildSettings:
    """What holds wherever repo2docker runs. Times in seconds, sizes in bytes."""

    image_prefix: str = ""
    """What the names of images begin with, behind the registry's host: ``project``."""
    network: str | None = None
    """The network of a build's steps; ``None``: the engine's default."""
    cgroup_parent: str | None = None
    """A control group whose limits the administrator sets."""
    time_limit: float = 1800.0
    output_limit: int = 50_000_000
    repository_limit: int = 2_000_000_000
    disk_limit: int | None = 20_000_000_000
    """By how much the engine's disk may fill while a build runs; builds at the same time count together."""
    free_disk: int = 1_000_000_000
    """A build is ended where less than this is left on the engine's disk."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """Given to repo2docker, and to builds as build arguments: proxies, a mirror. It is no place for secrets. What names
    files of this machine (``SSL_CERT_FILE``) is not given to builds."""
    outgoing: OutgoingRules = field(default_factory=OutgoingRules)
    """What may be fetched from where."""

    @property
    def build_arguments(self) -> dict[str, str]:
        """Of the environment, what builds get to see."""
        return {name: value for name, value in self.environment.items() if name not in PATHS_HERE}


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerBuilderSettings(ImageBuildSettings):
    """Of a machine with an engine."""

    builds_dir: Path
    """A folder for each build while it runs: sources, log, and how it ended."""
    engine: str = "unix:///var/run/docker.sock"
    """As in ``DOCKER_HOST``."""
    docker_config: Path | None = None
    """The folder with ``config.json``: credentials for pushing and pulling. ``None``: the service's own account's."""
    base_image: str | None = None
    """What repo2docker's images stand on. ``None``: what ``configuration_file`` or repo2docker itself says."""
    configuration_file: Path | None = None
    """A configuration of repo2docker: buildpacks, and whatever else it has."""
    memory_limit: int | None = None
    """Of all steps of a build together. Control groups for it are made where ``cgroup_parent`` names none."""
    process_limit: int | None = None
    """Processes and threads of all steps of a build together."""
