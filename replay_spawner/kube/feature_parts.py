"""What features add to a session's pod: Secrets for their files, volumes, sidecars. Pure.

A file is a key of a Secret that is mounted as a folder, never by ``subPath``: such a file would not be renewed. What is no
secret is in the pod's own annotations, so that it needs no object of its own.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from replay_spawner.features.base import PodParts, SessionFile
from replay_spawner.features.places import path_in_session
from replay_spawner.kube.pods import NAMED_USER, NOTEBOOK, Manifest, NotTheLaunch, Plain
from replay_spawner.kube.states import SIDECARS
from replay_spawner.plans import LAUNCH_LABEL

SECRET_MODE = 0o440
"""For the user by the group of the pod's volumes: files of a Secret are root's."""
OPEN_MODE = 0o444

RENEWED = "replay.egi.eu/renewed"
"""A pod's annotation. Any change of a pod makes its node look at its Secrets at once, instead of within a minute or so."""


@dataclass(frozen=True, slots=True)
class FileFolder:
    """The files of one folder of one container: one Secret, or annotations of the pod."""

    name: str
    """Of the volume, and of the Secret."""
    container: str
    """Empty for the session's own."""
    path: str
    files: tuple[SessionFile, ...]

    @property
    def is_secret(self) -> bool:
        """Whether it is a Secret's."""
        return bool(self.container) or any(file.is_secret for file in self.files)

    @property
    def annotations(self) -> dict[str, str]:
        """What the pod's own annotations hold of it."""
        if self.is_secret:
            return {}
        return {
            self._annotation(file): file.content.decode("utf8", "replace")
            for file in self.files
            if file.content is not None
        }

    def _annotation(self, file: SessionFile) -> str:
        mark = hashlib.sha256(f"{self.path}/{file.name}".encode()).hexdigest()[:16]
        return f"replay.egi.eu/file-{mark}"

    @property
    def data(self) -> dict[str, str]:
        """What the Secret holds, as the API has it; what comes later is not in it yet."""
        return {file.name: base64.b64encode(file.content).decode() for file in self.files if file.content is not None}

    def secret_object(self, labels: Mapping[str, str], owner: Mapping[str, str]) -> dict[str, Any]:
        """The Secret, owned by the pod: it goes with that. ``owner`` has the pod's name and uid."""
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "Opaque",
            "metadata": {
                "name": self.name,
                "labels": dict(labels),
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", **owner}],
            },
            "data": self.data,
        }

    @property
    def volume(self) -> dict[str, Any]:
        if self.is_secret:
            return {"name": self.name, "secret": {"secretName": self.name, "defaultMode": SECRET_MODE}}
        items = [
            {"path": file.name, "fieldRef": {"fieldPath": f"metadata.annotations['{self._annotation(file)}']"}}
            for file in self.files
        ]
        return {"name": self.name, "downwardAPI": {"defaultMode": OPEN_MODE, "items": items}}

    @property
    def mount(self) -> dict[str, Any]:
        return {"name": self.name, "mountPath": self.path, "readOnly": True}


def folders_of(files: Iterable[SessionFile], launch: str, home: str) -> list[FileFolder]:
    """The Secrets of a session. Their names are the same whenever they are asked for."""
    found: dict[tuple[str, str], list[SessionFile]] = {}
    for file in files:
        path = path_in_session(file, home).rpartition("/")[0]
        found.setdefault((file.container, path), []).append(file)
    return [
        FileFolder(_name(launch, container, path), container, path, tuple(its))
        for (container, path), its in found.items()
    ]


def _name(launch: str, container: str, path: str) -> str:
    mark = hashlib.sha256(f"{container}:{path}".encode()).hexdigest()[:8]
    return f"replay-{launch}-{mark}"


def sidecar_trouble(pod: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """What the person is told where a sidecar of these does not run; none where they do, or are still to start.

    ``pod`` is the API's. A sidecar that has ended is not started anew.
    """
    for status in (pod.get("status") or {}).get("containerStatuses") or []:
        if status.get("name") not in names:
            continue
        state: Mapping[str, Any] = status.get("state") or {}
        reason = str((state.get("waiting") or {}).get("reason") or "")
        if "terminated" in state:
            reason = str((state["terminated"] or {}).get("reason") or "it ended")
            return f"What brings it into the session has ended ({reason}), and is not started again in this session."
        if reason not in {"", "ContainerCreating", "PodInitializing"}:
            return f"What brings it into the session does not start ({reason}). Tell the administrators."
    return None


def secret_labels(launch: str) -> dict[str, str]:
    """What a session's Secrets are found by."""
    return {LAUNCH_LABEL: launch, "app.kubernetes.io/managed-by": "replay"}


def add_features(pod: Manifest, parts: Sequence[PodParts], folders: Sequence[FileFolder], plain: Plain) -> None:
    """Add to a session's pod what its features give. Raises `NotTheLaunch` where names are taken."""
    spec = pod.spec
    notebook = next(one for one in spec.containers if plain(one)["name"] == NOTEBOOK)
    sidecars = [dict(container) for part in parts for container in part.containers]
    volumes = [dict(volume) for part in parts for volume in part.volumes]
    _refuse_taken("containers", [plain(one)["name"] for one in spec.containers], [one["name"] for one in sidecars])
    _refuse_taken("volumes", [plain(one)["name"] for one in spec.volumes or []], [one["name"] for one in volumes])
    mounts = [dict(mount) for part in parts for mount in part.mounts]
    for folder in folders:
        volumes.append(folder.volume)
        if not folder.container:
            mounts.append(folder.mount)
        for sidecar in sidecars:
            if sidecar["name"] == folder.container:
                sidecar["volumeMounts"] = [*(sidecar.get("volumeMounts") or []), folder.mount]
    for folder in folders:
        pod.metadata.annotations = {**(pod.metadata.annotations or {}), **folder.annotations}
    if sidecars:
        names = ",".join(sorted(one["name"] for one in sidecars))
        pod.metadata.annotations = {**(pod.metadata.annotations or {}), SIDECARS: names}
    spec.containers = [*spec.containers, *sidecars]
    spec.volumes = [*(spec.volumes or []), *volumes]
    notebook.volume_mounts = [*(notebook.volume_mounts or []), *mounts]
    if any(folder.is_secret for folder in folders):
        _let_the_group_read(spec, plain)


def _let_the_group_read(spec: Manifest, plain: Plain) -> None:
    """A pod has one group for its volumes; all its containers are in it. The admin's, or else the usual one."""
    context = dict(plain(spec.security_context) or {})
    context.setdefault("fsGroup", NAMED_USER)
    # A claim of somebody's that is large would otherwise be walked through at each start.
    context.setdefault("fsGroupChangePolicy", "OnRootMismatch")
    spec.security_context = context


def _refuse_taken(what: str, there: Sequence[str], new: Sequence[str]) -> None:
    names = [*there, *new]
    if twice := sorted({name for name in new if names.count(name) > 1}):
        raise NotTheLaunch(
            f"Features of this hub and its other settings use the same names of {what}: {', '.join(twice)}."
        )
