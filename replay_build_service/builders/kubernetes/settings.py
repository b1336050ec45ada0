"""What an administrator decides about builds in pods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from replay_build_service.builders.docker.settings import ImageBuildSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesBuilderSettings(ImageBuildSettings):
    """Of a cluster. What is named ``Any`` is as in a pod's specification."""

    namespace: str
    builder_image: str
    """What build pods run: repo2docker and this package."""
    site: str
    """Tells this service's pods from those of another in the same namespace: what it is reached by."""
    pull_policy: str = "IfNotPresent"
    engine_socket: str = "/var/run/docker.sock"
    """Where a node has the socket of the engine that builds."""
    engine_data: str | None = None
    """Where a node has the engine's images; then the disk of builds is watched."""
    engine_pods: str | None = None
    """Label selector of the engines' pods; ``None``: the scheduler alone chooses the node."""
    node_selector: Mapping[str, str] = field(default_factory=dict[str, str])
    tolerations: Sequence[Mapping[str, Any]] = ()
    resources: Mapping[str, Any] = field(default_factory=dict[str, Any])
    dns_policy: str = "ClusterFirst"
    push_secret: str | None = None
    pull_secrets: Sequence[str] = ()
    ca_config_map: str | None = None
    priority_class: str | None = None
    pod_wait: float = 300.0
    """How long a pod may wait for a node, its image and its start."""
    base_image: str = ""
    """What repo2docker's images stand on: pinned."""
    configuration: str | None = None
    """The text of the administrator's configuration of repo2docker."""
