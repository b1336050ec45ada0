"""The provider ``doi``: any DOI, handed on to the provider of the archive that it belongs to.

Some DOIs say by their beginning whose they are. Of others doi.org is asked for the address that they are registered with, as repo2docker
does, and that address's host tells. Nothing is fetched from it by that: the archive's own provider asks where it always asks, so a
repository is the same by either spelling, and what people asked for stays what they see.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

from cachetools import TTLCache

from replay_build_service.errors import RepositoryNotFound
from replay_build_service.links import RepoSpec, ResolvedRef
from replay_build_service.providers.base import RepoProvider
from replay_build_service.providers.context import ProviderContext
from replay_build_service.providers.flights import MAX_ASKED_AT_ONCE, SingleFlight
from replay_build_service.sources.handles import DOI_ORIGIN, landing_page

__all__ = ["DoiProvider", "Installations", "Target"]

KEPT = 3600.0
"""Seconds for which it is believed where a DOI leads. It changes where a whole archive moves."""
_MAX_KEPT = 5_000

_ARCHIVES: Mapping[str, str] = {
    "zenodo": "Zenodo", "figshare": "figshare", "dataverse": "the Dataverses", "hydroshare": "HydroShare", "osf": "OSF",
    "swh": "Software Heritage", "ckan": "CKAN portals",
}  # fmt: skip
"""As people call them, by provider."""


class Installations(Protocol):
    """What is known of Dataverse's installations."""

    def is_installation(self, host: str) -> bool:
        """Whether a host, with its port if that is not HTTPS's, is one that is known."""
        ...

    def host_of(self, doi: str) -> str | None:
        """The installation that a DOI's beginning tells; none where it does not."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """A provider, and what the DOI's record is called there."""

    provider: str
    locator: str
    is_guess: bool = False
    """Whether only asking there can tell that it is one of theirs."""


class DoiProvider:
    """Resolves ``doi/10.PREFIX/NAME`` through the other providers. Implements `RepoProvider`.

    ``providers``: by name; those that are not there are not handed on to. ``origin``: of doi.org's API.
    """

    def __init__(
        self,
        context: ProviderContext,
        providers: Mapping[str, RepoProvider],
        installations: Installations,
        origin: str = DOI_ORIGIN,
    ) -> None:
        self._ask = context.ask
        self._providers = providers
        self._installations = installations
        self._origin = origin
        self._pages: TTLCache[str, str] = TTLCache(_MAX_KEPT, KEPT, context.clock)
        limit = asyncio.Semaphore(MAX_ASKED_AT_ONCE)
        self._flights = SingleFlight(self._asked, context.tasks, limit, context.clock)

    @property
    def name(self) -> str:
        """As it stands in links."""
        return "doi"

    async def resolve(self, spec: RepoSpec) -> ResolvedRef:
        """See `RepoProvider.resolve`. Raises `RepositoryNotFound` for a DOI of an archive that is not known here, with those that are."""
        doi = spec.locator
        page = ""
        target = target_by_doi(doi, self._installations)
        if target is None or target.provider not in self._providers:
            page = await self._page(doi.lower())
            target = target_by_page(page, doi, self._installations, self._is_portal)
            if target is None or target.provider not in self._providers:
                raise self._unknown(doi, page)
        try:
            resolved = await self._providers[target.provider].resolve(
                RepoSpec(target.provider, target.locator, spec.ref)
            )
        except RepositoryNotFound as error:
            if target.is_guess:
                raise self._unknown(doi, page) from error
            raise
        return replace(resolved, spec=spec)

    def _is_portal(self, page: str) -> bool:
        return self._ask.may_ask(page) and self._ask.is_portal(page)

    async def _page(self, doi: str) -> str:
        kept = self._pages.get(doi)
        return await self._flights.get(doi) if kept is None else kept

    async def _asked(self, doi: str) -> str:
        page = await landing_page(self._ask, doi, self._origin)
        self._pages[doi] = page
        return page

    def _unknown(self, doi: str, page: str) -> RepositoryNotFound:
        known = [name for provider, name in _ARCHIVES.items() if provider in self._providers]
        host = _host(_split(page)) or "no web address"
        return RepositoryNotFound(
            f"The DOI {doi} leads to {host[:100]}, which is none of the archives that this Replay can open: {', '.join(known)}. "
            "If what you are looking for is in one of them too, use its link there."
        )


# ---- whose a DOI is. Pure, so that it can be told without asking.

_ZENODO = re.compile(r"10\.(?:5281|5072)/zenodo\.[0-9]{1,12}", re.IGNORECASE | re.ASCII)
_FIGSHARE = re.compile(r"10\.6084/m9\.figshare\.\S+", re.IGNORECASE)
_HYDROSHARE = re.compile(r"10\.4211/hs\.(?P<id>[0-9a-f]{32})", re.IGNORECASE | re.ASCII)
_OSF = re.compile(r"10\.17605/osf\.io/(?P<id>[a-z0-9]{5,6})", re.IGNORECASE | re.ASCII)

_ZENODO_HOSTS = {"zenodo.org": "10.5281", "www.zenodo.org": "10.5281", "sandbox.zenodo.org": "10.5072"}
_ZENODO_PAGE = re.compile(r"/(?:records?/|doi/10\.[0-9]{4,9}/zenodo\.)(?P<number>[0-9]{1,12})/?")
_FIGSHARE_PAGE = re.compile(r"/articles/(?:[a-z_-]+/)?[^/]+/[0-9]+(?:/[0-9]+)?/?")
"""Also of portals that institutions have under names of their own. figshare is asked whether the DOI is one of its articles'."""
_HYDROSHARE_PAGE = re.compile(r"/resource/(?P<id>[0-9a-f]{32})/?", re.IGNORECASE | re.ASCII)
_OSF_PAGE = re.compile(r"/(?P<id>[a-z0-9]{5,6})/?", re.IGNORECASE | re.ASCII)
_SWH_PAGE = re.compile(r"/(?:browse/)?(?P<swhid>swh:1:(?:cnt|dir|rev|rel|snp):[0-9a-f]{40})(?:;.*)?/?")
_CKAN_PAGE = re.compile(r"(?:/.*)?/dataset/[^/]+/?")


def target_by_doi(doi: str, installations: Installations) -> Target | None:
    """Whose a DOI is, where its beginning tells."""
    if _ZENODO.fullmatch(doi):
        return Target("zenodo", doi)
    if _FIGSHARE.fullmatch(doi):
        return Target("figshare", doi)
    if (match := _HYDROSHARE.fullmatch(doi)) is not None:
        return Target("hydroshare", match["id"].lower())
    if (match := _OSF.fullmatch(doi)) is not None:
        return Target("osf", match["id"].lower())
    return Target("dataverse", doi) if installations.host_of(doi) is not None else None


def target_by_page(
    page: str, doi: str, installations: Installations, may_be_asked: Callable[[str], bool]
) -> Target | None:
    """Whose a DOI is, by the address that it is registered with. ``may_be_asked``: whether the rules allow such an address of a portal."""
    parts = _split(page)
    host = _host(parts)
    if parts is None or not host:
        return None
    if installations.is_installation(parts.netloc.lower().removesuffix(":443")):
        return Target("dataverse", doi)
    if host in _ZENODO_HOSTS:
        match = _ZENODO_PAGE.fullmatch(parts.path)
        return None if match is None else Target("zenodo", f"{_ZENODO_HOSTS[host]}/zenodo.{match['number']}")
    for hosts, pattern, provider, group in (
        ({"hydroshare.org", "www.hydroshare.org"}, _HYDROSHARE_PAGE, "hydroshare", "id"),
        ({"osf.io"}, _OSF_PAGE, "osf", "id"),
        ({"archive.softwareheritage.org"}, _SWH_PAGE, "swh", "swhid"),
    ):
        if host in hosts:
            match = pattern.fullmatch(parts.path)
            return None if match is None else Target(provider, match[group].lower())
    if host == "figshare.com" or host.endswith(".figshare.com"):
        return Target("figshare", doi)
    if _FIGSHARE_PAGE.fullmatch(parts.path):
        return Target("figshare", doi, is_guess=True)
    is_dataset = _CKAN_PAGE.fullmatch(parts.path) is not None
    return Target("ckan", page) if is_dataset and may_be_asked(page) else None


def _split(page: str) -> SplitResult | None:
    try:
        parts = urlsplit(page)
    except ValueError:
        return None
    return parts if parts.scheme in {"http", "https"} else None


def _host(parts: SplitResult | None) -> str:
    return ((parts.hostname if parts is not None else None) or "").lower()
