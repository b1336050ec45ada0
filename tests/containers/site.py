"""A whole Replay whose builds and sessions are containers."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.people import Person
from tests.containers.engine import ContainerEngine
from tests.containers.tools import build_variables
from tests.registry_server import RegistryServer
from tests.site import Site, Sites

BASE_TAG = "base:1"
NOTEBOOK_TAG = "notebook:1"

_CONFIGURATION = """
from pathlib import Path
from repo2docker.buildpacks import DockerBuildPack
from replay_build_service.buildpacks import BuildSettings, PyPIBuildPack

authorities = Path("/usr/local/share/ca-certificates")
PyPIBuildPack.settings = BuildSettings(certificates=authorities if list(authorities.glob("*.crt")) else None)
c.Repo2Docker.buildpacks = [DockerBuildPack, PyPIBuildPack]
c.Repo2Docker.default_buildpack = PyPIBuildPack
c.Repo2Docker.base_image = {base!r}
"""


def repo2docker_configuration(base: str) -> str:
    """A configuration file of repo2docker's: our buildpack for plain Python repositories, on that base image."""
    return _CONFIGURATION.format(base=base)


@dataclass(frozen=True)
class ContainerSites:
    """Starts sites on one engine; without a registry, images stay there."""

    engine: ContainerEngine
    registry: RegistryServer | None
    base: str | None = None
    """The base image's name; that in the registry where none is given."""

    def settings(self, folder: Path) -> dict[str, str]:
        """For the reference configuration, without the prefix ``REPLAY_``."""
        base = self.base or (f"{self.registry.settings().host}/{BASE_TAG}" if self.registry else BASE_TAG)
        configuration = folder / "repo2docker_config.py"
        configuration.write_text(repo2docker_configuration(base))
        return {
            "BUILDER": "docker",
            "DOCKER_HOST": self.engine.host,
            "DOCKER_CONFIG": str(self.engine.config_folder),
            "HUB_ADDRESS": self.engine.gateway,
            "REPO2DOCKER_CONFIG": str(configuration),
            "BUILD_ENVIRONMENT": ",".join(build_variables()),
            "REGISTRY": self.registry.url if self.registry else "",
        }

    def start(self, make: "Sites | Callable[..., Site]", **more: Any) -> Site:
        """A site with these settings, and ``more`` of them."""
        start = make.start if isinstance(make, Sites) else make
        own = self.settings(self.engine.folder)
        settings: Mapping[str, str] = more.pop("settings", {})
        # The service calls the engine's own command line.
        return start(settings={**own, **settings}, environment={"PATH": self.engine.environment["PATH"]}, **more)


def session_container(engine: ContainerEngine, site: Site, person: Person) -> dict[str, Any]:
    """What the engine says of the container of a person's session."""
    server = site.server(person)
    assert server is not None, "there is no server"
    launch = server["user_options"]["launch"]
    (found,) = json.loads(
        engine.docker("inspect", *engine.docker("ps", "-q", "--filter", f"label=replay.egi.eu/launch={launch}").split())
    )
    return found


def until(is_so: Callable[[], bool], what: str, seconds: float = 90) -> None:
    """Wait for what has no event."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"still not so: {what}"
        time.sleep(0.05)
