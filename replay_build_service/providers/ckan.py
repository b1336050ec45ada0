"""The provider ``ckan``: datasets of CKAN portals, by address."""

from __future__ import annotations

from replay_build_service.providers.context import ProviderContext
from replay_build_service.providers.records import RecordProvider
from replay_build_service.sources.ckan import Ckan

__all__ = ["CkanProvider"]


class CkanProvider(RecordProvider):
    """Resolves ``ckan/https%3A%2F%2FHOST%2Fdataset%2FNAME`` to the dataset as it is now."""

    def __init__(self, context: ProviderContext) -> None:
        super().__init__(Ckan(), context)
