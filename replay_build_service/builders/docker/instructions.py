"""What a build of an image is told, and repo2docker's command line and configuration made from it. Pure but for a file.

Nothing stands between a person and stock repo2docker: it decides what the files of a repository mean. What is set here
is where the sources lie, what the image is called, and what the administrator's own configuration file says.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self, cast

from replay_build_service.builders.docker.settings import ImageBuildSettings
from replay_build_service.domain import BuildJob
from replay_build_service.image_labels import TOP_LEVEL, top_level_label

USER_ID = 1000
USER_NAME = "jovyan"
"""As everywhere in the field; Dockerfiles count on it."""

METADATA_FILE = "image-metadata.json"


@dataclass(frozen=True, slots=True)
class Instructions:
    """All that a runner needs to know. No secrets: those are in the folder that ``DOCKER_CONFIG`` names."""

    url: str
    version: str
    repository: str
    """The canonical address, for the image's label."""
    outgoing_rules: str
    """`OutgoingRules` as JSON."""
    image: str
    """``registry/repository:tag``, or a name in the engine alone."""
    push: bool
    cache_from: list[str]
    """Images in the registry."""
    base_image: str | None
    """By digest; ``None``: as repo2docker has it."""
    configuration_file: str | None
    """The administrator's own."""
    build_arguments: Mapping[str, str]
    network: str | None
    cgroup_parent: str | None
    """The administrator's own; ``None``: one is made where there are limits to set."""
    build: str
    """Its id."""
    engine: str
    data_root: str | None
    """Where the engine keeps its images, where that is on this machine."""
    time_limit: float
    output_limit: int
    repository_limit: int
    disk_limit: int | None
    free_disk: int
    memory_limit: int | None
    process_limit: int | None

    @classmethod
    def of(cls, job: BuildJob, settings: ImageBuildSettings, **here: Any) -> Self:
        """For a job, by an administrator's settings; ``here``: what depends on where it is built."""
        common: dict[str, Any] = {
            "url": job.resolved.fetch_url,
            "version": job.resolved.version,
            "repository": job.resolved.repository.url,
            "outgoing_rules": settings.outgoing.to_json(),
            "build_arguments": settings.build_arguments,
            "network": settings.network,
            "cgroup_parent": settings.cgroup_parent,
            "build": job.build_id,
            "time_limit": settings.time_limit,
            "output_limit": settings.output_limit,
            "repository_limit": settings.repository_limit,
            "disk_limit": settings.disk_limit,
            "free_disk": settings.free_disk,
        }
        return cls(**(common | here))

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls(**cast("dict[str, Any]", json.loads(text)))

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def command_line(
    job: Instructions,
    configuration: str,
    source: str,
    *,
    steps_of: str | None = None,
    top_level: Iterable[str] | None = None,
) -> tuple[str, ...]:
    """``python -m repo2docker …``. ``configuration`` and ``source`` are paths; ``steps_of`` says whose steps these are alone.

    ``top_level``: names of what the session's own folder will have of the repository; none where that is not known.
    """
    return (
        sys.executable, "-m", "repo2docker",
        "--no-run", "--json-logs",
        "--config", configuration,
        "--image-name", job.image,
        "--user-id", str(USER_ID), "--user-name", USER_NAME,
        *(("--push",) if job.push else ()),
        *(part for image in job.cache_from for part in ("--cache-from", image)),
        "--label", f"repo2docker.repo={job.repository}",
        "--label", f"repo2docker.ref={job.version}",
        # Also where it is not known: the image may stand on another one that says it of itself.
        "--label", f"{TOP_LEVEL}={top_level_label(top_level)}",
        # What a build caches (RUN --mount=type=cache) is its own: a stranger's could plant packages for everybody else.
        "--build-arg", f"BUILDKIT_CACHE_MOUNT_NS={job.build}",
        *(("--build-arg", f"BUILDKIT_SANDBOX_HOSTNAME={_hostname(steps_of)}") if steps_of is not None else ()),
        *(part for name, value in job.build_arguments.items() for part in ("--build-arg", f"{name}={value}")),
        source,
    )  # fmt: skip


def _hostname(steps_of: str) -> str:
    """For the steps of a repository's own Dockerfile, so that no step of another repository's is taken for the same one.

    BuildKit does not count what a step finds in a cache mount among what makes it the same step; the host's name it does.
    Who wrote another repository could otherwise have a step with planted packages ready for this one.
    """
    return f"build-{hashlib.sha256(steps_of.encode()).hexdigest()[:16]}"


def configuration_text(job: Instructions, metadata: str, cgroup_parent: str | None) -> str:
    """repo2docker's configuration file: the administrator's own, and then what Replay must know or limit."""
    arguments = ["--metadata-file", metadata]
    if job.push:
        # So that an engine that has nothing yet can take over what the image has, layer by layer.
        arguments += ["--cache-to", "type=inline"]
    if job.network is not None:
        arguments += ["--network", job.network]
    if cgroup_parent is not None:
        arguments += ["--cgroup-parent", cgroup_parent]
    lines = [
        "from repo2docker.contentproviders import Local",
        "c = get_config()",
        *([f"load_subconfig({job.configuration_file!r})"] if job.configuration_file else []),
        "c.Repo2Docker.content_providers = [Local]",
        f"c.DockerEngine.extra_buildx_build_args.extend({arguments!r})",
        *([f"c.Repo2Docker.base_image = {job.base_image!r}"] if job.base_image else []),
    ]
    return "\n".join([*lines, ""])
