"""Contents of sessions in pods: each pod fetches its own, in an init container of the image that build pods run. Pure.

Nothing is kept between sessions, and nothing of a content passes through the service.
"""

from __future__ import annotations

from dataclasses import replace

from replay_build_service.builders.kubernetes.settings import KubernetesBuilderSettings
from replay_build_service.content_schemas import CONTENT_AUTHORITIES, CONTENT_VOLUME, ContentModel, FetcherModel
from replay_build_service.contents.instructions import MODULE, VARIABLE, ContentInstructions
from replay_build_service.domain import ResolvedRef

FOLDER = f"{CONTENT_VOLUME}/files"

_ROOM = 3
"""Times the limit: while a record's archive is unpacked there are both, and the session may write beside what came."""


class PodContents:
    """What a pod is told. Implements `Contents`."""

    def __init__(self, settings: KubernetesBuilderSettings, *, limit: int, seconds: float) -> None:
        """``limit``: bytes of one content; ``seconds`` that fetching it may take."""
        self._settings = settings
        self._limit = limit
        self._seconds = seconds
        authorities = None if settings.ca_config_map is None else f"{CONTENT_AUTHORITIES}/ca.crt"
        self._rules = replace(settings.outgoing, ca_file=authorities).to_json()

    async def ready(self, content: ResolvedRef) -> None:
        """See `Contents`. Whether it can be had turns out in the pod, whose start then fails with the reason."""

    def given(self, content: ResolvedRef) -> ContentModel:
        """See `Contents`."""
        return ContentModel.of(content, fetcher=self.fetcher(content))

    def fetcher(self, content: ResolvedRef) -> FetcherModel:
        """The init container that brings it."""
        told = ContentInstructions(
            url=content.fetch_url,
            version=content.version,
            outgoing_rules=self._rules,
            limit=self._limit,
            folder=FOLDER,
            seconds=self._seconds,
        )
        return FetcherModel(
            image=self._settings.builder_image,
            pull_policy=self._settings.pull_policy,
            command=["python3", "-m", MODULE],
            environment={VARIABLE: told.to_json(), "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"},
            ca_config_map=self._settings.ca_config_map,
            size_limit=_ROOM * self._limit,
        )
