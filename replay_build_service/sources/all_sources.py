"""The archives that this version of Replay fetches records from, by their names in links: one table for the service and for its builders."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from replay_build_service.sources.base import RecordSource
from replay_build_service.sources.ckan import Ckan
from replay_build_service.sources.dataverse import Dataverse
from replay_build_service.sources.figshare import Figshare
from replay_build_service.sources.hydroshare import HydroShare
from replay_build_service.sources.osf import Osf
from replay_build_service.sources.swh import SoftwareHeritage
from replay_build_service.sources.zenodo import Zenodo

__all__ = ["SOURCES"]

_ALL: tuple[RecordSource, ...] = (
    Zenodo(),
    Figshare(),
    Dataverse(),
    HydroShare(),
    SoftwareHeritage(),
    Osf(),
    Ckan(),
)

SOURCES: Mapping[str, RecordSource] = MappingProxyType({source.name: source for source in _ALL})
"""Each where its archive is for everybody."""
