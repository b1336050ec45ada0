"""What refs a repository has, asked over git's smart HTTP without a process (https://git-scm.com/docs/gitprotocol-http).

One request as a rule: protocol version 0 tells all refs in the answer to the first, version 2 in that to a second. Only of a
repository with more refs than are read, branches and tags alone are asked for, which takes version 2; that this has to be is
remembered, and the next question is one request again.

Which faults are told, and which are tried with git: what HTTP says (a status, a redirect, a page instead of a repository, no connection,
too much) is told here, in the words of `git_process`. An answer with the status 200 that is not understood is `NotUnderstood`, as is a
certificate that nobody known here has signed, and git itself is asked: it knows older servers and how they err, and whom the system trusts.

Each redirect is looked at before it is followed. Nothing is sent but what is written here: no credential, no cookie.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote, urljoin, urlsplit

import httpx
from cachetools import LRUCache

from replay_build_service.errors import BadLink, OriginRefused, RepositoryNotFound, SourceFault
from replay_build_service.git_listing import (
    Abilities,
    NotUnderstood,
    RemoteRefs,
    read_abilities,
    read_advertisement,
    read_ls_refs,
    write_ls_refs,
)
from replay_build_service.git_process import improper_answer, no_repository, too_many_refs, unanswered, without_scheme
from replay_build_service.outgoing import Origin, OutgoingRules, Resolver, admit, resolve_host
from replay_build_service.outgoing_http import PACKED, GuardedTransport, TooLongAnswer, UnreadableAnswer, read_bounded
from replay_build_service.rate_limits import SHORT_PAUSE, RateLimits, asked_too_often

__all__ = ["BRANCHES_AND_TAGS", "GitHttp", "canonical_url"]

BRANCHES_AND_TAGS = ("HEAD", "refs/heads/", "refs/tags/")
MAX_REDIRECTS = 5
CONNECT_SECONDS = 5.0
"""For one address of a host, before the next is tried."""
MAX_ABILITIES = 64 * 1024
"""Bytes of what a server says that it can do; git's own says 200."""
LONGEST_PATH = 8_000
"""Bytes; https://www.rfc-editor.org/rfc/rfc9110#section-4.1 has servers take as many."""
MAX_REMEMBERED = 1_000
"""Repositories with more refs than are read."""
READ_AT_ONCE = 16 * 1024
"""Bytes of a list that the event loop reads itself, in a millisecond or less."""

_AGENT = "git/replay"  # begins so for GitHub, which tells git from browsers by it (https://github.com/jelmer/dulwich/issues/562)
_REDIRECTS = {301, 302, 303, 307, 308}
_ADVERTISEMENT = "application/x-git-upload-pack-advertisement"
_RESULT = "application/x-git-upload-pack-result"
_HEADERS = {"User-Agent": _AGENT, "Accept": "*/*", "Pragma": "no-cache", **PACKED}
_VERSION_2 = {"Git-Protocol": "version=2"}


class GitHttp:
    """Asks git servers. An asynchronous context manager, which ends its connections.

    ``limits``: what hosts have said of the requests that they take, shared by all who ask them; without it nothing is held back.
    """

    def __init__(
        self, rules: OutgoingRules, *, limits: RateLimits | None = None, resolver: Resolver = resolve_host
    ) -> None:
        self._rules = rules
        self._transport = GuardedTransport(rules, resolver=resolver)
        self._limits = limits
        self._long: LRUCache[str, tuple[str, Abilities]] = LRUCache(MAX_REMEMBERED)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._transport.aclose()

    async def when_allowed(self, address: str) -> None:
        """Returns when the address's host may be asked, where that is soon. Raises `SourceFault` where it is not."""
        if self._limits is not None:
            await self._limits.when_allowed(Origin.of_url(address).host)

    def is_held_back(self, address: str) -> bool:
        """Whether to ask again now would not help, since the host has said that it takes no requests."""
        return self._limits is not None and self._limits.seconds_left(Origin.of_url(address).host) > SHORT_PAUSE

    async def refs(self, address: str, prefixes: Sequence[str], most: int) -> RemoteRefs:
        """The refs of the repository at a `canonical_url`: all of them, or, where these are more than ``most`` bytes, those that
        begin in one of these ways.

        Raises `NotUnderstood`, `BadLink`, `OriginRefused`, `RepositoryNotFound`, `Refused` (too many even so) and `SourceFault`.
        """
        known = self._long.get(address)
        if known is not None:
            try:
                return await self._ls_refs(*known, prefixes, most)
            except (NotUnderstood, RepositoryNotFound):
                self._long.pop(address, None)  # it may have moved, or its server may be another now
        try:
            found, body = await self._advertised(address, {}, most)
        except TooLongAnswer:
            return await self._narrowed(address, prefixes, most)
        if len(body) <= READ_AT_ONCE:
            return read_advertisement(found, body)
        return await asyncio.to_thread(read_advertisement, found, body)

    async def _narrowed(self, address: str, prefixes: Sequence[str], most: int) -> RemoteRefs:
        try:
            found, body = await self._advertised(address, _VERSION_2, MAX_ABILITIES)
            abilities = read_abilities(body)
        except (TooLongAnswer, NotUnderstood) as error:  # it knows version 0 alone, and says everything again
            raise too_many_refs(address, most) from error
        refs = await self._ls_refs(found, abilities, prefixes, most)
        self._long[address] = found, abilities
        return refs

    async def located(self, address: str) -> str:
        """Where the repository's redirects lead, for git, which is told to follow none. Raises as `refs`."""
        return (await self._advertised(address, {}, None))[0]

    async def _ls_refs(self, found: str, abilities: Abilities, prefixes: Sequence[str], most: int) -> RemoteRefs:
        headers = {**_HEADERS, **_VERSION_2, "Accept": _RESULT, "Content-Type": "application/x-git-upload-pack-request"}
        body = write_ls_refs(abilities, prefixes, "replay")
        try:
            async with self._answer("POST", found, "/git-upload-pack", headers, body) as response:
                if response.status_code in _REDIRECTS:
                    raise NotUnderstood("a redirect where there was none before")
                answer = await _body(found, response, _RESULT, most)
        except TooLongAnswer as error:
            raise too_many_refs(found, most) from error
        return await asyncio.to_thread(read_ls_refs, found, answer)

    async def _advertised(self, address: str, headers: Mapping[str, str], most: int | None) -> tuple[str, bytes]:
        """Where the repository's redirects lead, and at most so many bytes of what is said there to the first request, which are
        not read at all without such a number.

        Raises as `refs`, and `TooLongAnswer`.
        """
        found = address
        said = await self._first_answer(found, headers, most)
        for _ in range(MAX_REDIRECTS):
            if isinstance(said, bytes):
                return found, said
            try:
                found = _repository_of(said.location)
                said = await self._first_answer(found, headers, most)
            except OriginRefused as error:
                raise OriginRefused(
                    f"{without_scheme(address)} redirects to another address. {error.sentence}"
                ) from error
        if isinstance(said, bytes):
            return found, said
        raise SourceFault(f"{without_scheme(address)} redirects more than {MAX_REDIRECTS} times. Try again later.")

    async def _first_answer(self, address: str, headers: Mapping[str, str], most: int | None) -> bytes | _Redirect:
        path = "/info/refs?service=git-upload-pack"
        async with self._answer("GET", address, path, {**_HEADERS, **headers}) as response:
            if response.status_code in _REDIRECTS:
                return _Redirect(_location(address, f"{address.rstrip('/')}{path}", response))
            return b"" if most is None else await _body(address, response, _ADVERTISEMENT, most)

    @asynccontextmanager
    async def _answer(
        self, method: str, address: str, path: str, headers: Mapping[str, str], body: bytes = b""
    ) -> AsyncGenerator[httpx.Response]:
        """By the transport itself, which is kept to the rules: a client of httpx would keep cookies, and send them."""
        host = admit(address, self._rules).host
        if self._limits is not None:
            await self._limits.when_allowed(host)
        try:
            request = httpx.Request(
                method,
                f"{address.rstrip('/')}{path}",
                headers=headers,
                content=body or None,
                extensions={"timeout": {"connect": CONNECT_SECONDS}},
            )
            response = await self._transport.handle_async_request(request)
            try:
                self._hold_back(host, response)
                yield response
            finally:
                await response.aclose()
        except (httpx.TransportError, httpx.InvalidURL) as error:
            if _is_of_unknown_authority(error):
                raise NotUnderstood("a certificate of an unknown authority") from error
            raise unanswered(address) from error

    def _hold_back(self, host: str, response: httpx.Response) -> None:
        """Raises `SourceFault` where the host says that it takes no requests for some time."""
        if self._limits is None:
            return
        self._limits.note(host, response)
        left = self._limits.seconds_left(host)
        if left > SHORT_PAUSE and response.status_code in {403, 429, 503}:
            raise asked_too_often(host, left)


@dataclass(frozen=True, slots=True)
class _Redirect:
    location: str


def _is_of_unknown_authority(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error is not None


async def _body(address: str, response: httpx.Response, kind: str, most: int) -> bytes:
    """Of an answer that is one of git's. Raises as `GitHttp.refs`, and `TooLongAnswer`."""
    if response.status_code != 200:
        raise (
            no_repository(address)
            if response.status_code in {401, 404, 410}
            else improper_answer(address, response.status_code)
        )
    told = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if told == "text/html":
        raise no_repository(address)  # a page for people, to log in perhaps
    if told != kind:
        raise NotUnderstood("another kind of answer")
    try:
        return await read_bounded(response, most)
    except TooLongAnswer:
        raise
    except UnreadableAnswer as error:
        raise NotUnderstood(str(error)) from error


def _location(address: str, asked: str, response: httpx.Response) -> str:
    location = response.headers.get("Location")
    try:
        if location is not None:
            return urljoin(asked, location)
    except ValueError as error:
        raise _unfollowed(address) from error
    raise _unfollowed(address)


def _unfollowed(address: str) -> SourceFault:
    return SourceFault(f"{without_scheme(address)} redirects in a way that git cannot follow. Try again later.")


def _repository_of(location: str) -> str:
    path, _, query = location.partition("?")
    if not path.endswith("/info/refs") or query.partition("#")[0] != "service=git-upload-pack":
        raise RepositoryNotFound("That address leads to a page that is no repository. It is gone, private or misspelt.")
    return canonical_url(path.removesuffix("/info/refs"))


def canonical_url(url: str) -> str:
    """A repository's address, put together from parsed parts, so that neither git nor httpx can read another host from it.

    Raises `BadLink` and `OriginRefused`.
    """
    origin = Origin.of_url(url)
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        raise BadLink("A repository's address has no “?” and no “#”. Copy the address that you would clone.")
    path = quote(parts.path, safe="/%~!$&'()*+,;=:@")
    if len(path) > LONGEST_PATH:
        raise BadLink("The repository's address is longer than any that a server takes.")
    if re.search(r"%(?![0-9A-Fa-f]{2})|%(0|1|7f)", path, re.IGNORECASE):
        raise BadLink("The repository's address holds characters that no repository has.")
    return f"{origin.scheme}://{origin.netloc}{path or '/'}"
