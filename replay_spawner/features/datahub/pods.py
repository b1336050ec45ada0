"""The sidecar that mounts a person's spaces, and what of it the session sees. Pure.

The session's own container gets nothing privileged: it only reads the folder of links, and sees what the sidecar mounts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from replay_spawner.features.base import PodParts

CONTAINER = "datahub"
FILES = "/run/replay-datahub"
"""In the sidecar: what it reads, its token among it."""

TREE = "/replay-datahub"
"""In the sidecar: the folder of links."""

MOUNTS = "/mnt/datahub"
"""In both containers: what is below is mounted by the sidecar. Links lead there."""

MOUNT = f"{MOUNTS}/spaces"

_TREE_VOLUME = "replay-datahub-links"
_MOUNT_VOLUME = "replay-datahub-mount"


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What the admin says of it."""

    image: str
    pull_policy: str
    command: Sequence[str]
    resources: Mapping[str, Any]
    security_context: Mapping[str, Any]
    is_propagated: bool
    """Whether what it mounts is brought into the session's container, which Kubernetes allows privileged ones only."""


def pod_parts(sidecar: Sidecar, provider: str, folder: str) -> PodParts:
    """``provider``: its host. ``folder``: where the session finds the links, an absolute path."""
    outwards = {"mountPropagation": "Bidirectional"} if sidecar.is_propagated else {}
    inwards = {"mountPropagation": "HostToContainer"} if sidecar.is_propagated else {}
    environment = {"DATAHUB_FILES": FILES, "DATAHUB_TREE": TREE, "DATAHUB_MOUNT": MOUNT}
    container = {
        "name": CONTAINER,
        "image": sidecar.image,
        "imagePullPolicy": sidecar.pull_policy,
        "command": ["/bin/sh", f"{FILES}/mount.sh"],
        "args": [word.replace("{oneprovider}", provider) for word in sidecar.command],
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "resources": dict(sidecar.resources),
        "securityContext": dict(sidecar.security_context),
        "volumeMounts": [
            {"name": _TREE_VOLUME, "mountPath": TREE},
            {"name": _MOUNT_VOLUME, "mountPath": MOUNTS, **outwards},
        ],
    }
    volumes = [
        {"name": _TREE_VOLUME, "emptyDir": {"sizeLimit": "64Mi"}},
        {"name": _MOUNT_VOLUME, "emptyDir": {}},
    ]
    # Read only, or a stranger's code could plant links that the privileged sidecar follows. What is mounted below has its own say.
    mounts = [
        {"name": _TREE_VOLUME, "mountPath": folder, "readOnly": True},
        {"name": _MOUNT_VOLUME, "mountPath": MOUNTS, "readOnly": True, **inwards},
    ]
    return PodParts(containers=[container], volumes=volumes, mounts=mounts)


def folder_in(home: str, name: str) -> str:
    """Where the links are: in the session's own folder, or at the root where that is unknown, or can be no mount's path."""
    path = PurePosixPath(home)
    # The API server takes no colon in a mount's path.
    usable = path.is_absolute() and path != PurePosixPath("/") and ".." not in path.parts and ":" not in home
    return str(path / name) if usable else f"/{name}"
