"""The provider ``dataverse``: datasets of any installation of Dataverse that is known, by DOI."""

from __future__ import annotations

from replay_build_service.providers.context import ProviderContext
from replay_build_service.providers.records import RecordProvider
from replay_build_service.sources.dataverse import Dataverse

__all__ = ["DataverseProvider"]


class DataverseProvider(RecordProvider):
    """Resolves ``dataverse/10.7910/DVN/NAME``, of a dataset or of a file in it, to its newest published version.

    ``source``: with the installations that are known, where these are not those that Replay knows itself.
    """

    def __init__(self, context: ProviderContext, source: Dataverse | None = None) -> None:
        super().__init__(source or Dataverse(), context)
