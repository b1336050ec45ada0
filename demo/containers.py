"""``make demo REPLAY_BUILDER=docker``: what the demo needs to know of the container engine of this machine.

Images stay in the engine; there is no registry. Plain Python repositories are built by our own buildpack, which needs
neither conda nor its gigabytes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

__all__ = ["NoEngine", "container_settings", "remove_containers"]

CONFIGURATION = Path(__file__).parent / "repo2docker_config.py"
LABEL = "replay.egi.eu/launch"


class NoEngine(Exception):
    """Why there is no engine to work with, and what to do."""


def container_settings() -> dict[str, str]:
    """Settings of the reference configuration, without ``REPLAY_``. Raises `NoEngine`."""
    if shutil.which("docker") is None:
        raise NoEngine("REPLAY_BUILDER=docker needs Docker, and there is no command “docker” here.")
    _run(("buildx", "version"), "REPLAY_BUILDER=docker needs the buildx plugin of Docker.")
    host = (
        os.environ.get("DOCKER_HOST")
        or json.loads(_run(("context", "inspect"), "Docker does not say where its engine is."))[0]["Endpoints"][
            "docker"
        ]["Host"]
    )
    gateway = _run(
        ("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}"),
        "The container engine does not answer. Start Docker, and see that “docker ps” works for your account.",
    ).strip()
    # Where the engine runs in a virtual machine, its bridge is not on this one, and it has a name for us.
    reached = {"HUB_ADDRESS": gateway} if sys.platform == "linux" else {"HUB_ADDRESS": "127.0.0.1", "HUB_NAME": "host.docker.internal"}  # fmt: skip
    given = {
        name: os.environ[f"REPLAY_{name}"]
        for name in ("BASE_IMAGE", "REPO2DOCKER_CONFIG", "REGISTRY", "DOCKER_CONFIG", "HUB_ADDRESS", "HUB_NAME")
        if f"REPLAY_{name}" in os.environ
    }
    # The hub's services do not inherit it, and plugins of one account are found by it.
    config = os.environ.get("DOCKER_CONFIG") or str(Path.home() / ".docker")
    own = {"BUILDER": "docker", "DOCKER_HOST": host, "DOCKER_CONFIG": config, "REPO2DOCKER_CONFIG": str(CONFIGURATION)}
    return {**own, **reached, **given}


def remove_containers(hub_port: int) -> None:
    """Sessions of this demo's hub that are left, such as after a ``kill -9`` of the hub."""
    listed = subprocess.run(
        ("docker", "ps", "--all", "--quiet", "--filter", f"label={LABEL}"), capture_output=True, text=True, check=False
    )
    left = [name for name in listed.stdout.split() if _is_of_hub(name, hub_port)]
    if left:
        subprocess.run(("docker", "rm", "--force", "--volumes", *left), check=False, stdout=subprocess.DEVNULL)


def _is_of_hub(container: str, hub_port: int) -> bool:
    told = subprocess.run(("docker", "inspect", container), capture_output=True, text=True, check=False)
    if told.returncode != 0:
        return False  # It has gone by itself.
    (found,) = cast("list[dict[str, Any]]", json.loads(told.stdout))
    addresses = [
        entry for entry in cast("list[str]", found["Config"]["Env"]) if entry.startswith("JUPYTERHUB_API_URL=")
    ]
    return any(f":{hub_port}/" in address for address in addresses)


def _run(arguments: Sequence[str], sentence: str) -> str:
    done = subprocess.run(("docker", *arguments), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NoEngine(
            f"{sentence} ({done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'no reason given'})"
        )
    return done.stdout
