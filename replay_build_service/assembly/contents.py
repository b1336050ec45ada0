"""From settings to whoever brings contents into sessions."""

from pathlib import Path
from typing import cast

from replay_build_service.assembly.common import outgoing_rules
from replay_build_service.builders.base import Builder
from replay_build_service.content import Contents
from replay_build_service.contents.folders import FolderContents
from replay_build_service.settings import ServiceSettings


def make_contents(settings: ServiceSettings, state: Path, builder: Builder) -> Contents:
    """In pods where sessions are pods; otherwise in folders of this machine, which sessions share with the service."""
    limit, seconds = cast(int, settings.content_limit), settings.content_timeout
    if settings.builder == "kubernetes":
        # What it needs is installed where it is used: jupyterhub-replay[kubernetes].
        from replay_build_service.builders.kubernetes.builder import KubernetesBuilder
        from replay_build_service.contents.pods import PodContents

        return PodContents(cast(KubernetesBuilder, builder).settings, limit=limit, seconds=seconds)
    return FolderContents(
        state / "contents",
        outgoing_rules(settings),
        limit=limit,
        kept=cast(int, settings.contents_kept),
        seconds=seconds,
        free_disk=cast(int, settings.build_free_disk),
    )
