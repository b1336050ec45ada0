"""The provider ``git``: any git server that the administrator's list of hosts has, and how every git provider resolves.

What a ref means here, in this order, each compared whole and never by its tail:

1. ``HEAD``: what the server's ``HEAD`` points to;
2. a full SHA (40 or 64 hexadecimal digits): that commit, if the repository has it;
3. ``refs/…``: exactly that ref;
4. the branch of that name; where a tag has the same name the branch wins, as with ``git checkout`` and BinderHub.
   ``refs/tags/…`` names the tag;
5. the tag of that name, an annotated one as the commit that it is of;
6. seven or more hexadecimal digits: the one branch's or tag's commit that starts so. Commits further back are not
   advertised, so a short SHA of one of these is refused with a request for the full one.

This room asks through `replay_build_service.git` alone, and knows no build, no database and no page.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from cachetools import LRUCache, TTLCache

from replay_build_service.domain import ResolvedRef
from replay_build_service.errors import RefNotFound, ReplayError, SourceFault
from replay_build_service.git import FULL_SHA, LIST_TIMEOUT, RemoteCommit, RemoteRefs, find_commit, list_refs
from replay_build_service.links import Repository, RepoSpec
from replay_build_service.outgoing import OutgoingRules, Resolver, resolve_host

__all__ = ["GitProvider"]

logger = logging.getLogger(__name__)

REFS_KEPT = 60.0
"""Seconds for which a repository's refs are believed: a branch may move at any moment, and people push and click."""
DOUBT_AFTER = 2.0
"""Seconds for which an error is believed, and the age of a list of refs from which a ref that it lacks is asked for again."""
MAX_REFS_KEPT = 500_000
"""Names of refs in memory, over all repositories; about 60 MB."""
MAX_COMMITS_KEPT = 10_000
MAX_ASKED_AT_ONCE = 50
"""git processes at one time; more wait."""
NEAREST = 5

_SHORT_SHA = re.compile(r"[0-9a-f]{7,63}")
_MAX_COMPARED = 2_000
"""Names that are compared letter by letter; such a comparison takes about 20 µs."""

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class _SingleFlight(Generic[_Key, _Value]):
    """One request for all who ask the same at the same time; nobody's leaving ends it for the others."""

    def __init__(
        self,
        ask: Callable[[_Key], Awaitable[_Value]],
        tasks: asyncio.TaskGroup,
        limit: asyncio.Semaphore,
        clock: Callable[[], float],
    ) -> None:
        self._ask = ask
        self._tasks = tasks
        self._limit = limit
        self._flights: dict[_Key, asyncio.Task[_Value | Exception]] = {}
        self._errors: TTLCache[_Key, Exception] = TTLCache(1_000, DOUBT_AFTER, clock)

    async def get(self, key: _Key) -> _Value:
        """The answer. Raises what asking raised, and `SourceFault` where the service ends before there is one."""
        answer = self._errors.get(key)
        if answer is None:
            flight = self._flights.get(key) or self._start(key)
            await asyncio.wait({flight})
            if flight.cancelled():
                raise SourceFault("Replay is being restarted. Try again in a moment.")
            answer = flight.result()
        if isinstance(answer, Exception):
            raise answer.with_traceback(None)
        return answer

    def _start(self, key: _Key) -> asyncio.Task[_Value | Exception]:
        asking = self._outcome(key)
        try:
            flight = self._tasks.create_task(asking)
        except RuntimeError as error:  # the group has ended, or is about to
            asking.close()
            raise SourceFault("Replay is being restarted. Try again in a moment.") from error
        self._flights[key] = flight
        flight.add_done_callback(lambda _: self._flights.pop(key, None))
        return flight

    async def _outcome(self, key: _Key) -> _Value | Exception:
        # An exception that left this task would end the whole group, so it is a result like any other.
        try:
            async with self._limit:
                return await self._ask(key)
        except Exception as error:
            if not isinstance(error, ReplayError):
                logger.exception("asking for %r failed", key)
            self._errors[key] = error
            return error


@dataclass(frozen=True, slots=True)
class _Listing:
    refs: RemoteRefs
    at: float


class GitProvider:
    """Resolves specs of any git server. Its requests are tasks of the group that it is given, and end with it.

    ``timeout`` is for one question, in seconds; ``clock`` and ``resolver`` are the seams for tests.
    """

    def __init__(
        self,
        rules: OutgoingRules,
        tasks: asyncio.TaskGroup,
        *,
        timeout: float = LIST_TIMEOUT,
        resolver: Resolver = resolve_host,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rules = rules
        self._timeout = timeout
        self._resolver = resolver
        self._clock = clock
        self._listings: TTLCache[str, _Listing] = TTLCache(MAX_REFS_KEPT, REFS_KEPT, clock, _size)
        self._commits: LRUCache[tuple[str, str], RemoteCommit] = LRUCache(MAX_COMMITS_KEPT)
        limit = asyncio.Semaphore(MAX_ASKED_AT_ONCE)
        self._listing_flights = _SingleFlight(self._ask_listing, tasks, limit, clock)
        self._commit_flights = _SingleFlight(self._ask_commit, tasks, limit, clock)

    @property
    def name(self) -> str:
        """As it stands in links."""
        return "git"

    def fetch_url(self, spec: RepoSpec) -> str:
        """Where the repository is asked for. Raises `BadLink` where the spec's locator cannot be one of this provider's."""
        return spec.locator

    async def resolve(self, spec: RepoSpec) -> ResolvedRef:
        """See `RepoProvider.resolve`; the order of meanings is at the top of this module."""
        url = self.fetch_url(spec)
        ref = spec.ref
        if FULL_SHA.fullmatch(ref.lower()):
            found = await self._commit(url, ref.lower())
        else:
            found = await self._named(url, ref)
        return ResolvedRef(Repository.of_url(found.url), spec, found.url, found.version)

    async def _named(self, url: str, ref: str) -> RemoteCommit:
        listing = await self._listing(url, REFS_KEPT)
        version = _meaning(listing.refs, ref)
        if version is None:
            listing = await self._listing(url, DOUBT_AFTER)
            version = _meaning(listing.refs, ref)
        if version is None:
            raise await asyncio.to_thread(_not_found, listing.refs, ref)
        return RemoteCommit(listing.refs.url, version)

    async def _listing(self, url: str, max_age: float) -> _Listing:
        kept = self._listings.get(url)
        if kept is not None and self._clock() - kept.at <= max_age:
            return kept
        return await self._listing_flights.get(url)

    async def _commit(self, url: str, sha: str) -> RemoteCommit:
        known = self._commits.get((url, sha))
        if known is not None:
            return known
        kept = self._listings.get(url)
        tip = None if kept is None else _tip(kept.refs, sha)
        if kept is not None and tip is not None:
            return RemoteCommit(kept.refs.url, tip)
        return await self._commit_flights.get((url, sha))

    async def _ask_listing(self, url: str) -> _Listing:
        refs = await list_refs(url, self._rules, timeout=self._timeout, resolver=self._resolver)
        listing = _Listing(refs, self._clock())
        if _size(listing) <= MAX_REFS_KEPT:
            self._listings[url] = listing
        return listing

    async def _ask_commit(self, key: tuple[str, str]) -> RemoteCommit:
        url, sha = key
        found = await find_commit(url, sha, self._rules, timeout=self._timeout, resolver=self._resolver)
        self._commits[key] = found
        return found


def _size(listing: _Listing) -> int:
    return len(listing.refs.refs) + len(listing.refs.peeled)


def _meaning(refs: RemoteRefs, ref: str) -> str | None:
    """The commit that a ref means, a full SHA aside; `None` where it means none."""
    if ref == "HEAD" or ref.startswith("refs/"):
        return refs.target(ref)
    return refs.target(f"refs/heads/{ref}") or refs.target(f"refs/tags/{ref}") or _abbreviated(refs, ref.lower())


def _abbreviated(refs: RemoteRefs, digits: str) -> str | None:
    if not _SHORT_SHA.fullmatch(digits):
        return None
    commits = {refs.target(name) for name in refs.refs}
    matching = [commit for commit in commits if commit is not None and commit.startswith(digits)]
    return matching[0] if len(matching) == 1 else None


def _tip(refs: RemoteRefs, sha: str) -> str | None:
    """The commit, where the SHA is of an advertised commit or of an advertised tag object."""
    for name, advertised in refs.refs.items():
        if sha in {advertised, refs.target(name)}:
            return refs.target(name)
    return None


def _not_found(refs: RemoteRefs, ref: str) -> RefNotFound:
    repository = Repository.of_url(refs.url).short
    if ref == "HEAD":
        names = tuple(sorted(_names(refs)))[:NEAREST]
        return RefNotFound(f"{repository} has no default branch. It has {_listed(names)}.", names)
    nearest = _nearest(refs, ref)
    suggestion = f" Did you mean {_listed(nearest)}?" if nearest else ""
    if _SHORT_SHA.fullmatch(ref.lower()):
        return RefNotFound(
            f"“{ref}” is no branch or tag of {repository}, and too short to tell which commit it means. "
            f"Use the commit's full SHA.{suggestion}",
            nearest,
        )
    shown = ref if len(ref) <= 80 else ref[:79] + "…"
    return RefNotFound(f"{repository} has no branch, tag or commit “{shown}”.{suggestion}", nearest)


def _names(refs: RemoteRefs) -> set[str]:
    return {name.split("/", 2)[2] for name in refs.refs if name.startswith(("refs/heads/", "refs/tags/"))}


def _nearest(refs: RemoteRefs, ref: str) -> tuple[str, ...]:
    """Branches and tags spelled most alike, best first; the default branch for someone who took it to be another."""
    wanted = re.sub(r"^refs/(heads|tags)/", "", ref)
    names = _names(refs)
    found = difflib.get_close_matches(wanted, _plausible(names, wanted), n=_MAX_COMPARED, cutoff=0.6)
    # Of those equally alike, the ones that start the same: people err at the end of a name.
    found.sort(
        key=lambda name: (-difflib.SequenceMatcher(None, name, wanted).ratio(), -_shared_start(name, wanted), name)
    )
    default = (refs.default_branch or "").removeprefix("refs/heads/")
    if default in names and default not in found and (not found or wanted in {"main", "master", "trunk"}):
        found.insert(0, default)
    return tuple(found[:NEAREST])


def _plausible(names: Iterable[str], wanted: str) -> list[str]:
    """Few enough names to compare letter by letter, where a repository has very many: like in length, start and letters."""
    close = [name for name in names if abs(len(name) - len(wanted)) <= len(wanted)]
    if len(close) > _MAX_COMPARED:
        letters = set(wanted)
        close.sort(key=lambda name: len(letters.symmetric_difference(name)) - _shared_start(name, wanted))
    return close[:_MAX_COMPARED]


def _shared_start(one: str, other: str) -> int:
    """How many letters are the same from the start on."""
    return next((at for at, (left, right) in enumerate(zip(one, other, strict=False)) if left != right), len(one))


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names)
