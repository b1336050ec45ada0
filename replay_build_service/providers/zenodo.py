"""The provider ``zenodo``: records of Zenodo and of its sandbox, by DOI."""

from __future__ import annotations

from replay_build_service.providers.context import ProviderContext
from replay_build_service.providers.records import RecordProvider
from replay_build_service.sources.zenodo import Zenodo

__all__ = ["ZenodoProvider"]


class ZenodoProvider(RecordProvider):
    """Resolves ``zenodo/10.5281/zenodo.NUMBER``: of a version that version, of all versions the newest.

    ``source``: Zenodo with other origins than its own two.
    """

    def __init__(self, context: ProviderContext, source: Zenodo | None = None) -> None:
        super().__init__(source or Zenodo(), context)
