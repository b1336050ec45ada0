"""What may be reached from here: the one rule for every outgoing request, whoever makes it.

Links come from strangers, so a link must not be able to make the service ask a host that nobody chose, nor an address
inside the site. The rule has three parts. A name has to be on the administrator's list, over HTTPS, on the default
port, without credentials in the URL. Every address that the name means at that moment has to be public. And the
connection is made to one of exactly those addresses, so that a name which changes its meaning between the check and
the connection gains nothing. An origin that the administrator lists as exempt (``scheme://host:port``, exactly) is
asked as it is, over HTTP and at a private address too.

Whoever connects asks `vet`, or keeps to `checked_addresses` as `outgoing_http` does for httpx. This room connects to
nothing itself: it imports the domain's errors and the standard library, no HTTP client, no provider and no git.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import re
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Self, TypeAlias, cast
from urllib.parse import urlsplit

from replay_build_service.errors import BadLink, OriginRefused, SourceFault

__all__ = [
    "DEFAULT_ALLOWED_HOSTS",
    "DEFAULT_ARCHIVE_HOSTS",
    "DEFAULT_PORTS",
    "Origin",
    "OutgoingRules",
    "Resolver",
    "VettedOrigin",
    "admit",
    "certificate_file",
    "checked_addresses",
    "is_public",
    "resolve_host",
    "vet",
]

DEFAULT_ALLOWED_HOSTS = frozenset(
    {
        "bitbucket.org",
        "codeberg.org",
        "framagit.org",
        "gist.github.com",
        "git.sr.ht",
        "github.com",
        "gitlab.com",
    }
)
"""Public forges that anybody can have a repository on. An administrator's own list replaces it."""

DEFAULT_ARCHIVE_HOSTS = frozenset(
    {
        "api.figshare.com",
        "api.osf.io",
        "archive.softwareheritage.org",
        "demo.ckan.org",
        "doi.org",
        "dvn-cloud.s3.amazonaws.com",
        "files.osf.io",
        "*.osf.io",
        "ndownloader.figshare.com",
        "osf.io",
        "s3-eu-west-1.amazonaws.com",
        "s3.hydroshare.org",
        "sandbox.zenodo.org",
        "storage.googleapis.com",
        "swhvaultstorage.blob.core.windows.net",
        "www.hydroshare.org",
        "zenodo.org",
    }
)
"""APIs of archives of records, and the storage that their downloads are redirected to (docs/archives.md has which is whose). Those of
Dataverse's installations come from their own list. An administrator's own list replaces it."""

_NO_PORTALS = DEFAULT_ALLOWED_HOSTS | (DEFAULT_ARCHIVE_HOSTS - {"demo.ckan.org"})

RESOLVE_TIMEOUT = 10.0
"""Seconds that a name may take to resolve."""

DEFAULT_PORTS: Mapping[str, int] = {"https": 443, "http": 80}
"""The schemes that may be asked at all, each with the port that it means."""

Resolver: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a host name and a port to the addresses it has now, in the order to try them. Raises `SourceFault`."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request goes: RFC 6454's scheme, host and port, in one canonical spelling."""

    scheme: str
    """``https`` or ``http``."""
    host: str
    """ASCII, in lower case, without a trailing dot; an IPv6 address stands without its brackets."""
    port: int

    @classmethod
    def of_url(cls, url: str) -> Self:
        """The origin of a URL. Strict, so that no two parsers can read two hosts from one text.

        Raises `BadLink` for what is no URL with a host, `OriginRefused` for another scheme than HTTP and HTTPS and for
        credentials in the URL.
        """
        if "\\" in url or " " in url or not url.isprintable():  # which no other space is
            raise BadLink("The address holds spaces, control characters or a backslash, so it is not a URL.")
        try:
            parts = urlsplit(url)
            port, name = parts.port, parts.hostname or ""
        except ValueError as error:
            raise BadLink("The address is not a URL. It should read https://host/path.") from error
        if parts.scheme not in DEFAULT_PORTS:
            raise OriginRefused(f"Replay fetches over https:// only, not over “{parts.scheme[:20]}:”.")
        if "@" in parts.netloc:
            raise OriginRefused(
                "The address holds a user name or a password. Replay sends no credentials; leave them out."
            )
        return cls(parts.scheme, _canonical_host(name), DEFAULT_PORTS[parts.scheme] if port is None else port)

    @property
    def netloc(self) -> str:
        """Host and port as a URL has them: the port where it is not the scheme's own."""
        host = _bracketed(self.host)
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{_bracketed(self.host)}:{self.port}"


@dataclass(frozen=True, slots=True)
class VettedOrigin:
    """An origin that may be asked, and the addresses that were checked: connect to these and to no other."""

    scheme: str
    host: str
    port: int
    addresses: tuple[str, ...]
    """In the order to try them. Empty only where a proxy resolves the name."""


@dataclass(frozen=True, slots=True)
class OutgoingRules:
    """What the administrator allows. Plain data: it travels to detached builders as JSON.

    Raises `ValueError` for an entry that could never match, so that a typing error shows at the start of the service.
    """

    allowed_hosts: frozenset[str] = DEFAULT_ALLOWED_HOSTS
    """``example.org`` (that name alone), ``*.example.org`` (every name below it, not itself); ``:port`` for another port than 443."""
    exempt_origins: frozenset[str] = frozenset()
    """``scheme://host:port`` that are asked over HTTP too and at any address. Exact, never a pattern."""
    proxy: str | None = None
    """A forward proxy for all but the exempt origins. It resolves names, so it is then the one that keeps to public addresses."""
    ca_file: str | None = None
    """PEM file of the certificate authorities to trust; ``None`` for the system's, or ``SSL_CERT_FILE``."""
    submodules: bool = False
    """Whether what a repository's own files name is asked for, too: its submodules, by the same rules."""
    lfs_limit: int = 0
    """Bytes of files in Git LFS that are asked for with a repository; 0 for none."""
    archive_hosts: frozenset[str] = DEFAULT_ARCHIVE_HOSTS
    """Spelled like ``allowed_hosts``: what may be asked beside these for records of archives, and never with git."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "allowed_hosts", frozenset(_host_rule(entry) for entry in self.allowed_hosts))
        object.__setattr__(self, "archive_hosts", frozenset(_host_rule(entry) for entry in self.archive_hosts))
        object.__setattr__(self, "exempt_origins", frozenset(_exempt_origin(entry) for entry in self.exempt_origins))

    def is_exempt(self, origin: Origin) -> bool:
        """Whether the administrator listed exactly this origin."""
        return str(origin) in self.exempt_origins

    def allows(self, host: str, port: int) -> bool:
        """Whether the host is on the list, at that port."""
        return _is_among(self.allowed_hosts, host, port)

    def is_portal(self, origin: Origin) -> bool:
        """Whether it is an archive that the administrator has added: what the API of any portal of CKAN may be asked of.

        No host that is for git, nor another archive's or its storage's: strangers can put there what looks like a portal's answers.
        """
        host, port = origin.host, origin.port
        is_added = _is_among(self.archive_hosts, host, port) and not _is_among(_NO_PORTALS, host, port)
        return self.is_exempt(origin) or is_added

    def for_archives(self) -> Self:
        """The same for what is asked of archives of records: their hosts, too."""
        return replace(self, allowed_hosts=self.allowed_hosts | self.archive_hosts)

    def to_json(self) -> str:
        """For `from_json`, in another process."""
        return json.dumps(
            {
                "allowed_hosts": sorted(self.allowed_hosts),
                "exempt_origins": sorted(self.exempt_origins),
                "proxy": self.proxy,
                "ca_file": self.ca_file,
                "submodules": self.submodules,
                "lfs_limit": self.lfs_limit,
                "archive_hosts": sorted(self.archive_hosts),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`. Raises `ValueError` for anything else."""
        try:
            fields = cast("dict[str, Any]", json.loads(text))
            return cls(
                frozenset(cast("list[str]", fields["allowed_hosts"])),
                frozenset(cast("list[str]", fields["exempt_origins"])),
                cast("str | None", fields["proxy"]),
                cast("str | None", fields["ca_file"]),
                fields.get("submodules") is True,
                int(fields.get("lfs_limit", 0)),
                frozenset(cast("list[str]", fields["archive_hosts"])),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError("These are no outgoing rules.") from error


def _is_among(hosts: frozenset[str], host: str, port: int) -> bool:
    suffix = "" if port == 443 else f":{port}"
    labels = host.split(".")
    below = ("*." + ".".join(labels[start:]) for start in range(1, len(labels)))
    return any(f"{name}{suffix}" in hosts for name in (host, *below))


def admit(url: str, rules: OutgoingRules) -> Origin:
    """The part of the rule that needs no network: scheme, host, port, credentials.

    Raises `BadLink` and `OriginRefused`.
    """
    origin = Origin.of_url(url)
    if rules.is_exempt(origin):
        return origin
    if not rules.allows(origin.host, 443 if origin.scheme == "http" and origin.port == 80 else origin.port):
        port = "" if origin.port == DEFAULT_PORTS[origin.scheme] else f" at port {origin.port}"
        raise OriginRefused(
            f"{origin.host}{port} is not among the hosts that this Replay fetches from. "
            "An administrator of this hub can add it."
        )
    if origin.scheme != "https":
        raise OriginRefused(
            f"Replay asks {origin.host} over https:// only. Use the https:// address, or ask an administrator "
            "of this hub to add this one."
        )
    return origin


async def resolve_host(host: str, port: int) -> Sequence[str]:
    """The system's resolver. Raises `SourceFault` where the name does not resolve in time or not at all."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise SourceFault(f"The name {host} could not be resolved. Check the spelling, or try again later.") from error
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


async def vet(url: str, rules: OutgoingRules, *, resolver: Resolver = resolve_host) -> VettedOrigin:
    """The whole rule, right before a connection: the origin and the addresses to connect to.

    Raises `BadLink`, `OriginRefused`, and `SourceFault` where the name cannot be resolved now.
    """
    origin = admit(url, rules)
    if rules.proxy is not None and not rules.is_exempt(origin):
        return VettedOrigin(origin.scheme, origin.host, origin.port, ())
    addresses = await checked_addresses(origin.host, origin.port, resolver, any_address=rules.is_exempt(origin))
    return VettedOrigin(origin.scheme, origin.host, origin.port, addresses)


async def checked_addresses(host: str, port: int, resolver: Resolver, *, any_address: bool) -> tuple[str, ...]:
    """What a name means now, in the order to try: all of it public, unless ``any_address``.

    Raises `OriginRefused`, and `SourceFault` where the name cannot be resolved now.
    """
    literal = _literal(host)
    addresses = (host,) if literal is not None else tuple(await resolver(host, port))
    if not addresses:
        raise SourceFault(f"The name {host} has no address at the moment. Try again later.")
    if not any_address and not all(is_public(address) for address in addresses):
        raise OriginRefused(
            f"{host} leads to an address that is not public, and Replay asks public ones only. "
            "An administrator of this hub can add its origin."
        )
    return addresses


# What ipaddress calls global although no public server lives there, or did so in some Python versions: deprecated
# relays (RFC 7526), documentation (RFC 9637), protocol assignments with Teredo (RFC 2928), a cloud's host channel.
_NEVER_PUBLIC_V4 = tuple(map(ipaddress.IPv4Network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")))
_NEVER_PUBLIC_V6 = tuple(map(ipaddress.IPv6Network, ("2001::/23", "3fff::/20")))
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")  # RFC 4291: nothing else is assigned to hosts of the internet
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052


def is_public(address: str) -> bool:
    """Whether an address is one of the public internet; an IPv4 address inside an IPv6 one counts as what it leads to.

    From the IANA special-purpose registries (RFC 6890); text that is no address is not public.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv4Address):
        return _is_public_v4(parsed)
    inner = _embedded(parsed)
    if inner is not None:
        return _is_public_v4(inner)
    return (
        parsed.scope_id is None
        and parsed in _GLOBAL_UNICAST
        and parsed.is_global
        and not any(parsed in network for network in _NEVER_PUBLIC_V6)
    )


def _is_public_v4(address: IPv4Address) -> bool:
    never = address.is_multicast or address.is_reserved or any(address in network for network in _NEVER_PUBLIC_V4)
    return address.is_global and not never


def _embedded(address: IPv6Address) -> IPv4Address | None:
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


_HOST = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")


@lru_cache(maxsize=1_000)
def _canonical_host(name: str) -> str:
    """Raises `BadLink` for a text that is no host's name."""
    literal = _literal(name)
    if literal is not None:
        return str(literal)
    try:
        host = name.removesuffix(".").encode("idna").decode("ascii").lower()
    except UnicodeError as error:
        raise BadLink("The address names no host that could exist.") from error
    if len(host) > 253 or not _HOST.fullmatch(host):
        raise BadLink("The address names no host that could exist.")
    return host


def _host_rule(entry: str) -> str:
    name, _, port = entry.strip().partition(":")
    pattern = "*." if name.startswith("*.") else ""
    try:
        host = _canonical_host(name.removeprefix("*."))
    except BadLink as error:
        raise ValueError(f"“{entry}” is neither a host's name nor a pattern such as *.example.org.") from error
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"“{entry}” names no port that could exist.")
    return f"{pattern}{host}" + (f":{int(port)}" if port and int(port) != 443 else "")


def _exempt_origin(entry: str) -> str:
    try:
        parts = urlsplit(entry.strip())
        origin = Origin.of_url(entry.strip())
    except (ValueError, BadLink, OriginRefused) as error:
        raise ValueError(f"“{entry}” is no origin such as http://127.0.0.1:8080.") from error
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError(f"“{entry}” is more than an origin: an exemption covers a whole scheme://host:port.")
    return str(origin)


def certificate_file(rules: OutgoingRules) -> str | None:
    """The file of certificate authorities to trust, ``None`` for the system's own."""
    return rules.ca_file or os.environ.get("SSL_CERT_FILE") or None
