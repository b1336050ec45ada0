"""The provider ``osf``: projects, components and registrations of OSF, by id."""

from __future__ import annotations

from replay_build_service.providers.context import ProviderContext
from replay_build_service.providers.records import RecordProvider
from replay_build_service.sources.osf import Osf

__all__ = ["OsfProvider"]


class OsfProvider(RecordProvider):
    """Resolves ``osf/ID`` to the project as it is now, or to the registration."""

    def __init__(self, context: ProviderContext) -> None:
        super().__init__(Osf(), context)
