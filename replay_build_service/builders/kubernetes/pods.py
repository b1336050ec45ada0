"""The specification of a build's pod. Pure.

Two containers share the build's folder: ``builder`` makes the image, and ``log`` keeps the build's log within reach, also
when the builder was killed. Kubernetes' own copy of a container's output is rotated and loses lines, so it is not relied on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from replay_build_service.builders.docker.instructions import Instructions
from replay_build_service.builders.kubernetes import places
from replay_build_service.builders.kubernetes.settings import KubernetesBuilderSettings
from replay_build_service.domain import BuildJob

BUILDER = "builder"
LOG = "log"
"""The names of the containers."""

GRACE_SECONDS = 3
"""Between the wish to end a pod and its end: enough for the runner to say so."""

OVERTIME_SECONDS = 120
"""Over its time limit the runner ends its build by itself, and then the service reads the log."""

_LABEL = "replay.egi.eu"
BUILD_LABEL = f"{_LABEL}/build"
SITE_LABEL = f"{_LABEL}/site"
ATTEMPT_ANNOTATION = f"{_LABEL}/attempt"
_INSTRUCTIONS_ANNOTATION = f"{_LABEL}/instructions"
_CONFIGURATION_ANNOTATION = f"{_LABEL}/repo2docker-config"

_RUNNER = "replay_build_service.builders.kubernetes.runner"

_WHOLE_FOLDERS = {"/", "/run", "/var/run"}
"""Of a node: too much to mount for one socket in it."""

_NARROW: Mapping[str, Any] = {
    # Root's own files and the engine's socket are root's; none of its other rights are needed.
    "runAsUser": 0,
    "runAsGroup": 0,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def pod_name(image: str) -> str:
    """One for each image: a second build of the same one cannot have a pod. ``image``: its full name."""
    return f"replay-build-{hashlib.sha256(image.encode()).hexdigest()[:40]}"


def deadline(settings: KubernetesBuilderSettings) -> float:
    """Seconds after which Kubernetes ends a pod. Its runner ends the build sooner."""
    return round(settings.time_limit + settings.pod_wait + OVERTIME_SECONDS)


def is_ours(settings: KubernetesBuilderSettings, pod: Mapping[str, Any]) -> bool:
    """Whether this service made the pod."""
    labels: Mapping[str, str] = pod["metadata"].get("labels") or {}
    return labels.get(SITE_LABEL) == site_label(settings)


def build_of(pod: Mapping[str, Any]) -> str | None:
    """The id of the build that the pod is for."""
    labels: Mapping[str, str] = pod["metadata"].get("labels") or {}
    return labels.get(BUILD_LABEL)


def site_label(settings: KubernetesBuilderSettings) -> str:
    """What the pods of this service alone have."""
    return hashlib.sha256(settings.site.encode()).hexdigest()[:20]


def selector(settings: KubernetesBuilderSettings) -> str:
    """Finds all build pods of this service."""
    return f"app.kubernetes.io/component=replay-build,{SITE_LABEL}={site_label(settings)}"


def engine_address(settings: KubernetesBuilderSettings) -> str:
    """The engine as the builder's container reaches it."""
    return f"unix://{places.ENGINE}/{PurePosixPath(settings.engine_socket).name}"


def pod_of(
    settings: KubernetesBuilderSettings, job: BuildJob, instructions: Instructions, *, attempt: int, node: str | None
) -> dict[str, Any]:
    """The pod of one attempt at a build; ``node`` is where it is best off, which is no must."""
    labels = {
        "app.kubernetes.io/name": "replay",
        "app.kubernetes.io/component": "replay-build",
        "app.kubernetes.io/managed-by": "replay-build-service",
        SITE_LABEL: site_label(settings),
        BUILD_LABEL: job.build_id,
    }
    annotations = {
        _INSTRUCTIONS_ANNOTATION: instructions.to_json(),
        _CONFIGURATION_ANNOTATION: settings.configuration or "",
        ATTEMPT_ANNOTATION: str(attempt),
        f"{_LABEL}/repository": job.resolved.repository.url,
        f"{_LABEL}/commit": job.resolved.version,
    }
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "activeDeadlineSeconds": deadline(settings),
        "dnsPolicy": settings.dns_policy,
        "nodeSelector": dict(settings.node_selector),
        "tolerations": [dict(one) for one in settings.tolerations],
        "imagePullSecrets": [{"name": name} for name in settings.pull_secrets],
        "containers": [_builder(settings), _log(settings)],
        "volumes": _volumes(settings),
    }
    if settings.priority_class:
        spec["priorityClassName"] = settings.priority_class
    if node is not None:
        here = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}
        preferred = [{"weight": 100, "preference": here}]
        spec["affinity"] = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod_name(instructions.image), "labels": labels, "annotations": annotations},
        "spec": spec,
    }


def _builder(settings: KubernetesBuilderSettings) -> dict[str, Any]:
    mounts = [
        {"name": "build", "mountPath": places.BUILD_VOLUME},
        {"name": "private", "mountPath": places.PRIVATE},
        {"name": "told", "mountPath": places.TOLD, "readOnly": True},
        _engine_mount(settings),
    ]
    if settings.push_secret:
        mounts.append({"name": "credentials", "mountPath": places.CREDENTIALS, "readOnly": True})
    if settings.ca_config_map:
        mounts.append({"name": "authorities", "mountPath": places.AUTHORITIES, "readOnly": True})
    if settings.engine_data:
        mounts.append({"name": "engine-data", "mountPath": places.ENGINE_DATA, "readOnly": True})
    return {
        "name": BUILDER,
        "image": settings.builder_image,
        "imagePullPolicy": settings.pull_policy,
        "command": ["python3", "-m", _RUNNER],
        "workingDir": places.BUILD_VOLUME,
        "resources": dict(settings.resources),
        "securityContext": dict(_NARROW),
        "volumeMounts": mounts,
    }


def _engine_mount(settings: KubernetesBuilderSettings) -> dict[str, Any]:
    socket = PurePosixPath(settings.engine_socket)
    if str(socket.parent) in _WHOLE_FOLDERS:
        return {"name": "engine", "mountPath": f"{places.ENGINE}/{socket.name}"}
    return {"name": "engine", "mountPath": places.ENGINE}


def _log(settings: KubernetesBuilderSettings) -> dict[str, Any]:
    return {
        "name": LOG,
        "image": settings.builder_image,
        "imagePullPolicy": settings.pull_policy,
        # What it prints is for “kubectl logs”, and for the service where nothing else is left of the pod.
        "command": ["tail", "--lines=+1", "--follow=name", "--retry", places.LOG_FILE],
        "workingDir": "/",
        "resources": {
            "requests": {"cpu": "5m", "memory": "16Mi"},
            "limits": {"cpu": "500m", "memory": "64Mi"},
        },
        "securityContext": dict(_NARROW),
        "volumeMounts": [{"name": "build", "mountPath": places.BUILD_VOLUME, "readOnly": True}],
    }


def _volumes(settings: KubernetesBuilderSettings) -> list[dict[str, Any]]:
    socket = PurePosixPath(settings.engine_socket)
    if str(socket.parent) in _WHOLE_FOLDERS:
        engine = {"path": str(socket), "type": "Socket"}
    else:
        # The folder: an engine that starts again makes a new socket.
        engine = {"path": str(socket.parent), "type": "Directory"}
    told = [
        {"path": PurePosixPath(file).name, "fieldRef": {"fieldPath": f"metadata.annotations['{annotation}']"}}
        for file, annotation in (
            (places.INSTRUCTIONS_FILE, _INSTRUCTIONS_ANNOTATION),
            (places.CONFIGURATION_FILE, _CONFIGURATION_ANNOTATION),
        )
    ]
    volumes: list[dict[str, Any]] = [
        {"name": "build", "emptyDir": {"sizeLimit": str(3 * settings.repository_limit + 10 * settings.output_limit)}},
        {"name": "private", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "told", "downwardAPI": {"items": told}},
        {"name": "engine", "hostPath": engine},
    ]
    if settings.push_secret:
        items = [{"key": ".dockerconfigjson", "path": "config.json"}]
        secret = {"secretName": settings.push_secret, "items": items, "defaultMode": 0o400}
        volumes.append({"name": "credentials", "secret": secret})
    if settings.ca_config_map:
        items = [{"key": "ca.crt", "path": PurePosixPath(places.AUTHORITIES_FILE).name}]
        volumes.append({"name": "authorities", "configMap": {"name": settings.ca_config_map, "items": items}})
    if settings.engine_data:
        volumes.append({"name": "engine-data", "hostPath": {"path": settings.engine_data, "type": "Directory"}})
    return volumes
