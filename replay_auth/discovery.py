"""The provider's endpoints, from its issuer: read once for everybody, and checked before they are used.

OpenID Connect Discovery 1.0. This room makes no request itself and knows no settings of the hub: the authenticator
hands it the way to fetch, and decides whether what was found or what an administrator set counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import cast
from urllib.parse import urlsplit

ENDPOINTS: Mapping[str, str] = {
    "authorize_url": "authorization_endpoint",
    "token_url": "token_endpoint",
    "userdata_url": "userinfo_endpoint",
    "jwks_url": "jwks_uri",
}
"""The trait that an administrator may set, and where the provider's configuration tells the same."""

FURTHER_ENDPOINTS: Mapping[str, str] = {
    "introspection_url": "introspection_endpoint",
    "revocation_url": "revocation_endpoint",
    "end_session_url": "end_session_endpoint",
}
"""The same of what a provider may leave out."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What is used of a provider's configuration."""

    endpoints: Mapping[str, str]
    grant_types: frozenset[str]


class Discovery:
    """The endpoints of one issuer. Any number of callers share one reading; one that failed is not remembered.

    ``fetch`` gets the JSON object at an address; ``unusable`` makes the error for one that cannot be used, from the
    reason.
    """

    def __init__(
        self,
        issuer: str,
        *,
        fetch: Callable[[str], Awaitable[Mapping[str, object]]],
        unusable: Callable[[str], Exception],
    ) -> None:
        self._issuer = issuer
        self._fetch = fetch
        self._unusable = unusable
        self._reading: asyncio.Task[_Found] | None = None

    @property
    def url(self) -> str:
        """Where the issuer's configuration is."""
        return f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"

    async def endpoints(self) -> Mapping[str, str]:
        """From the keys of `ENDPOINTS`, and of those of `FURTHER_ENDPOINTS` that there are, to addresses. Raises what ``fetch`` raises and ``unusable`` makes."""
        return (await self._found()).endpoints

    async def grant_types(self) -> frozenset[str]:
        """By what its token endpoint gives tokens. Raises as `endpoints`."""
        return (await self._found()).grant_types

    async def _found(self) -> _Found:
        if self._reading is None or _has_failed(self._reading):
            self._reading = asyncio.ensure_future(self._read())
        return await asyncio.shield(self._reading)

    async def _read(self) -> _Found:
        document = await self._fetch(self.url)
        if document.get("issuer") != self._issuer:
            raise self._unusable(f"{self.url} is the configuration of the issuer {document.get('issuer')!r}")
        schemes = {"https", urlsplit(self._issuer).scheme}
        found: dict[str, str] = {}
        for name, key in {**ENDPOINTS, **FURTHER_ENDPOINTS}.items():
            endpoint = document.get(key)
            if endpoint is None and name in FURTHER_ENDPOINTS:
                continue
            if not isinstance(endpoint, str) or urlsplit(endpoint).scheme not in schemes:
                raise self._unusable(f"{self.url} has {endpoint!r} as {key}")
            found[name] = endpoint
        return _Found(found, _grant_types(document.get("grant_types_supported")))


def _grant_types(listed: object) -> frozenset[str]:
    """Who lists none means the two of a login (OpenID Connect Discovery 1.0, 3)."""
    if not isinstance(listed, list):
        return frozenset({"authorization_code", "implicit"})
    return frozenset(name for name in cast("list[object]", listed) if isinstance(name, str))


def _has_failed(reading: asyncio.Task[_Found]) -> bool:
    return reading.done() and (reading.cancelled() or reading.exception() is not None)


def check_issuer(issuer: str, *, may_be_insecure: bool) -> None:
    """Raises `ValueError` for what is no issuer, and for one that is reached in the clear beyond this machine."""
    parts = urlsplit(issuer)
    host = parts.hostname or ""
    if parts.query or parts.fragment or not host or parts.scheme not in {"https", "http"}:
        raise ValueError(f"EGICheckinAuthenticator.issuer is {issuer!r}, which is no https URL.")
    if parts.scheme == "http" and not (_is_loopback(host) or may_be_insecure):
        raise ValueError(
            f"EGICheckinAuthenticator.issuer is {issuer!r}: http is for loopback only. Use https, or set "
            "insecure_issuer on a closed test network."
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
