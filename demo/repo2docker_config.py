"""repo2docker's configuration in the demo with containers: Dockerfiles as they are, all else by PyPI and Debian."""

import os
from pathlib import Path

from repo2docker.buildpacks import DockerBuildPack

from replay_build_service.buildpacks import BuildSettings, PyPIBuildPack

c = get_config()  # noqa: F821 - the name is given by traitlets

authorities = Path("/usr/local/share/ca-certificates")
PyPIBuildPack.settings = BuildSettings(
    certificates=authorities if any(authorities.glob("*.crt")) else None,
    index_url=os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("PIP_INDEX_URL") or None,
)
c.Repo2Docker.buildpacks = [DockerBuildPack, PyPIBuildPack]
c.Repo2Docker.default_buildpack = PyPIBuildPack
c.Repo2Docker.base_image = "docker.io/library/debian:bookworm-slim"
