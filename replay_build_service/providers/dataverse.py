"""The provider ``dataverse``: datasets of any installation of Dataverse that is known, by DOI."""

from __future__ import annotations

from collections.abc import Sequence

from replay_build_service.providers.context import ProviderContext
from replay_build_service.providers.records import RecordProvider
from replay_build_service.sources.dataverse import Dataverse
from replay_build_service.sources.dataverse_installations import Installation, shipped_installations

__all__ = ["DataverseProvider"]


class DataverseProvider(RecordProvider):
    """Resolves ``dataverse/10.7910/DVN/NAME``, of a dataset or of a file in it, to its newest published version.

    ``installations``: more of them, before those that Replay knows itself.
    """

    def __init__(self, context: ProviderContext, installations: Sequence[Installation] = ()) -> None:
        super().__init__(Dataverse((*installations, *shipped_installations())), context)
