"""The provider ``figshare``: articles of figshare and of the portals that institutions have there, by DOI."""

from __future__ import annotations

from replay_build_service.providers.context import ProviderContext
from replay_build_service.providers.records import RecordProvider
from replay_build_service.sources.figshare import Figshare

__all__ = ["FigshareProvider"]


class FigshareProvider(RecordProvider):
    """Resolves ``figshare/10.6084/m9.figshare.NUMBER``: with ``.vN`` that version, else the newest."""

    def __init__(self, context: ProviderContext, source: Figshare | None = None) -> None:
        super().__init__(source or Figshare(), context)
