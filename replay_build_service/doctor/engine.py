"""The container engine of the builder “docker”; for “kubernetes” see `cluster`."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from urllib.parse import urlsplit

from replay_build_service.builders.docker.engine import Engine, EngineFault
from replay_build_service.doctor.deployment import Deployment
from replay_build_service.doctor.verdicts import Verdict, failed, ok


async def check_docker_engine(deployment: Deployment) -> Verdict:
    """Whether it answers."""
    host = deployment.settings.docker_host
    try:
        client = Engine(host)
    except ValueError as error:
        return failed(f"c.ReplayBuildService.docker_host: {error}", "Name the engine as DOCKER_HOST would.")
    if (missing := await asyncio.to_thread(_socket_problem, host)) is not None:
        return missing
    async with client:
        try:
            info = await client.info()
        except EngineFault as fault:
            return failed(
                f"The container engine {host} does not answer as one: {fault.detail}.",
                "Start it (systemctl start docker) or look into its log (journalctl -u docker).",
            )
    return ok(f"The container engine {host} answers; it keeps images in {info.data_root}.")


def _socket_problem(host: str) -> Verdict | None:
    parts = urlsplit(host)
    if parts.scheme != "unix":
        return None
    socket = Path(parts.path)
    try:
        if not stat.S_ISSOCK(socket.stat().st_mode):
            return failed(f"{socket} is no socket.", "Set c.ReplayBuildService.docker_host to the engine's.")
    except OSError as error:
        return failed(
            f"There is no container engine at {host}: {(error.strerror or 'it is not there').lower()}.",
            "Start it (systemctl start docker), or set c.ReplayBuildService.docker_host to where it listens.",
        )
    if not os.access(socket, os.R_OK | os.W_OK):
        return failed(
            f"This account may not use {socket}.",
            "Add the service's account to the socket's group (usermod -aG docker ACCOUNT) and start the hub anew.",
        )
    return None
