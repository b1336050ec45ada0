"""What a session's container is made of: the plan, and of the admin's settings what a stranger's code may have.

Pure: nothing here asks the engine, and whatever the admin set for ordinary servers comes in as values.
"""

import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from docker.types import DeviceRequest

from replay_build_service.schemas import ResourcesModel

LOOPBACK = "127.0.0.1"
"""Where sessions are published: the hub and its proxy reach them, the network does not."""

CPU_PERIOD = 100_000
"""Microseconds, the engine's own default; and the least quota that it takes is 1000."""

_LOCATION = re.compile(r"(?:(?P<repository>[A-Za-z0-9\[][A-Za-z0-9._:/\[\]-]*)@)?(?P<digest>sha256:[0-9a-f]{64})")

_KEPT = frozenset(
    {
        # How it finds the hub, and what the site says of names.
        "dns", "dns_search", "dns_opt", "extra_hosts",
        # How much of the machine it has beside the plan's memory and CPU, and what runs it.
        "runtime", "cgroup_parent", "cpuset_cpus", "cpuset_mems", "cpu_shares", "cpu_period", "blkio_weight",
        "device_read_bps", "device_write_bps", "device_read_iops", "device_write_iops",
        "shm_size", "storage_opt", "ulimits", "log_config", "init",
    }
)  # fmt: skip
"""Of ``extra_host_config``, by docker-py's names. All else is for the admin's own images: mounts, devices, capabilities."""

_PROFILES = ("seccomp=", "apparmor=", "label=")
_NO_PROFILES = ("unconfined", "disable")

_ENGINES_OWN = (
    "/run/docker.sock",
    "/run/docker",
    "/run/podman",
    "/run/containerd",
    "/run/crio",
    "/run/user",
    "/var/lib/docker",
    "/var/lib/containerd",
    "/var/lib/containers",
)
_SOCKETS = frozenset({"docker.sock", "podman.sock", "containerd.sock", "crio.sock"})


_ENGINES_GPU = "nvidia.com/gpu"


class NotForSessions(Exception):
    """The hub's configuration would give a session the machine itself. The text is for the administrators."""


@dataclass(frozen=True, slots=True)
class ImageLocation:
    """An image that cannot change: ``repository@sha256:…`` in a registry, or ``sha256:…``, an id on the engine."""

    repository: str | None
    digest: str

    @classmethod
    def parse(cls, text: str) -> "ImageLocation | None":
        """None where the text names something that may change, such as a tag."""
        found = _LOCATION.fullmatch(text)
        return cls(found["repository"], found["digest"]) if found else None


def container_name(launch: str) -> str:
    """Valid for whatever the person is called, and nobody else's: it has nothing of the person's name."""
    return f"replay-{launch}"


def host_config(
    admins: Mapping[str, Any],
    resources: ResourcesModel,
    *,
    network: str,
    links: Mapping[str, str],
    binds: Mapping[str, Any],
    publish: int | None,
    most_processes: int,
) -> dict[str, Any]:
    """docker-py's arguments for ``create_host_config``.

    ``admins`` is what ``extra_host_config`` became, ``publish`` the container's port that is to be reached on loopback,
    none where the hub reaches containers by their own addresses. Raises `NotForSessions`.
    """
    network = admins.get("network_mode") or network
    if network == "host" or network.startswith("container:"):
        raise NotForSessions(
            f"DockerSpawner's network is {network!r}: a stranger's code would reach whatever listens on that loopback, "
            "the hub's API and other people's sessions too. Give launches a network of their own kind: bridge, or one "
            "made with “docker network create”."
        )
    config: dict[str, Any] = {name: value for name, value in admins.items() if name in _KEPT}
    config.setdefault("init", True)
    profiles = [
        option
        for option in admins.get("security_opt") or []
        if option.startswith(_PROFILES) and not option.endswith(_NO_PROFILES)
    ]
    config |= {
        "network_mode": network,
        "binds": dict(binds),
        "security_opt": [*profiles, "no-new-privileges"],
        "cap_drop": ["ALL"],
        "pids_limit": most_processes,
        # The reason why a session ended is read from its container, so the engine must not remove that by itself.
        "auto_remove": False,
    }
    if links:
        config["links"] = dict(links)
    if publish is not None:
        config["port_bindings"] = {publish: (LOOPBACK,)}
    if (limit := resources.memory_limit) is not None:
        # Memory and swap together: none of it may be swap.
        config |= {"mem_limit": limit, "memswap_limit": limit}
    if (guarantee := resources.memory_guarantee) is not None:
        config["mem_reservation"] = guarantee if limit is None else min(guarantee, limit)
    if resources.gpus is not None:
        if resources.gpus.resource != _ENGINES_GPU:
            raise NotForSessions(
                f"The policy wants {resources.gpus.resource} for sessions, and a container engine knows {_ENGINES_GPU} only."
            )
        # As “docker run --gpus COUNT” has it: https://docs.docker.com/engine/containers/gpu/
        config["device_requests"] = [DeviceRequest(count=resources.gpus.count, capabilities=[["gpu"]])]
    if resources.cpu_limit is not None:
        period = config.setdefault("cpu_period", CPU_PERIOD)
        config["cpu_quota"] = max(1000, int(resources.cpu_limit * period))
    return config


def refuse_the_engine(sources: Iterable[str], engine: str) -> None:
    """Raise `NotForSessions` where a mount's source gives a session the engine, and with that the machine.

    ``engine`` is the engine's address. A name that is no path is a volume's.
    """
    sensitive = {*_ENGINES_OWN, *([_plain(engine.partition("unix://")[2])] if "unix://" in engine else [])}
    for source in sources:
        if not source.startswith("/"):
            continue
        path = _plain(source)
        if posixpath.basename(path) in _SOCKETS or any(_holds(path, one) or _holds(one, path) for one in sensitive):
            raise NotForSessions(
                f"ReplayDockerSpawner.replay_session_volumes mounts {source}: that gives a stranger's code the "
                "container engine, which is root on this machine."
            )


def _plain(path: str) -> str:
    plain = posixpath.normpath(f"/{path.lstrip('/')}")
    return plain.removeprefix("/var") if plain == "/var/run" or plain.startswith("/var/run/") else plain


def _holds(folder: str, path: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")
