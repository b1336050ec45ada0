"""The provider ``swh``: what Software Heritage has archived, by SWHID."""

from __future__ import annotations

from replay_build_service.providers.context import ProviderContext
from replay_build_service.providers.records import VERSION_KEPT, RecordProvider
from replay_build_service.sources.swh import SoftwareHeritage

__all__ = ["SoftwareHeritageProvider"]


class SoftwareHeritageProvider(RecordProvider):
    """Resolves ``swh/swh:1:rev:SHA`` to the directory of that revision, and so on for ``dir``, ``rel``, ``snp`` and ``cnt``.

    What an SWHID names is computed from what it names, so an answer is good for long, and the archive takes few questions.
    """

    def __init__(self, context: ProviderContext, source: SoftwareHeritage | None = None) -> None:
        super().__init__(source or SoftwareHeritage(), context, newest_kept=VERSION_KEPT)
