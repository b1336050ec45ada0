"""The provider ``hydroshare``: resources of HydroShare, by id."""

from __future__ import annotations

from replay_build_service.providers.context import ProviderContext
from replay_build_service.providers.records import RecordProvider
from replay_build_service.sources.hydroshare import HydroShare

__all__ = ["HydroShareProvider"]


class HydroShareProvider(RecordProvider):
    """Resolves ``hydroshare/ID`` to the resource as it is now."""

    def __init__(self, context: ProviderContext) -> None:
        super().__init__(HydroShare(), context)
