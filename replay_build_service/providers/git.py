"""The provider ``git``: any git server that the administrator's list of hosts has, and how every git provider resolves.

What a ref means here, in this order, each compared whole and never by its tail:

1. ``HEAD``: what the server's ``HEAD`` points to;
2. a full SHA (40 or 64 hexadecimal digits): that commit, if the repository has it;
3. ``refs/…``: exactly that ref;
4. the branch of that name; where a tag has the same name the branch wins, as with ``git checkout`` and BinderHub.
   ``refs/tags/…`` names the tag;
5. the tag of that name, an annotated one as the commit that it is of;
6. ``pull/N/head`` and ``merge-requests/N/head`` (or ``/merge``): the pull or merge request, as ``refs/…`` with that name;
7. seven or more hexadecimal digits: the one branch's or tag's commit that starts so. Commits further back are not
   advertised, so a short SHA of one of these is refused with a request for the full one.

Of a repository with more refs than are read at once (`git.MAX_LISTING`) branches and tags alone are listed; another ref that is named
in full is then asked for by itself.

This room asks through `replay_build_service.git` alone, and knows no build, no database and no page.
"""

from __future__ import annotations

import asyncio
import difflib
import re
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Self
from urllib.parse import urlsplit

from cachetools import LRUCache, TTLCache

from replay_build_service.domain import ResolvedRef
from replay_build_service.errors import RefNotFound
from replay_build_service.git import (
    BRANCHES_AND_TAGS,
    FULL_SHA,
    LIST_TIMEOUT,
    GitHttp,
    RemoteCommit,
    RemoteRefs,
    find_commit,
    list_refs,
)
from replay_build_service.links import Repository, RepoSpec
from replay_build_service.outgoing import OutgoingRules, Resolver, admit, resolve_host
from replay_build_service.providers.flights import DOUBT_AFTER, MAX_ASKED_AT_ONCE, SingleFlight

__all__ = ["GitProvider"]

REFS_KEPT = 60.0
"""Seconds for which a repository's refs are believed: a branch may move at any moment, and people push and click."""
MISSING_KEPT = 5.0
"""Seconds for which the answer is kept that a list of refs lacks a ref. With a new list it is looked for anew."""
MAX_REFS_KEPT = 250_000
"""Names of refs in memory, over all repositories; about 80 MB."""
MAX_COMMITS_KEPT = 10_000
FEW_REFS = 200
"""Of which the event loop makes a list itself, in half a millisecond or less."""
NEAREST = 5

# https://docs.github.com/en/pull-requests/collaborating-with-pull-requests/reviewing-changes-in-pull-requests/checking-out-pull-requests-locally
# https://docs.gitlab.com/user/project/merge_requests/merge_request_troubleshooting/#check-out-merge-requests-locally-through-the-head-ref
_REQUEST = re.compile(r"(pull|merge-requests)/[0-9]{1,12}/(head|merge)")
_SHORT_SHA = re.compile(r"[0-9a-f]{7,63}")
_MAX_CANDIDATES = 200
"""Names whose letters are counted, to find those that are worth comparing; about 5 µs each."""
_MAX_COMPARED = 50
"""Names that are compared letter by letter; about 0.4 ms each where a stranger chose them to take long."""
_LONGEST_COMPARED = 80
"""Letters of a name that is compared: how long it takes grows with their square."""
_ALIKE = 0.6


@dataclass(frozen=True, slots=True)
class _Address:
    """A repository to ask. Spellings of one repository are equal, and share what is known and what is being asked."""

    identity: str
    url: str = field(compare=False)
    """As it is asked: the spelling of whoever asks first, where it differs from another's in the case of letters alone."""

    @classmethod
    def of_url(cls, url: str) -> Self:
        """Raises `BadLink` where the text is no URL."""
        repository = Repository.of_url(url).url
        parts = urlsplit(url)
        if "@" in parts.netloc or parts.query or parts.fragment:
            return cls(url, url)  # For `git` to refuse, whatever is known of the repository.
        # Not every server has both names, so what one of them says does not hold for the other.
        identity = repository + (".git" if parts.path.rstrip("/").endswith(".git") else "")
        return cls(identity, url if url.lower() == identity.lower() else identity)


@dataclass(frozen=True, slots=True)
class _Listing:
    """A repository's refs, and what would take long to look up in them again for each who asks."""

    refs: RemoteRefs
    at: float
    commits: Sequence[str]
    """All that refs lead to, in order."""
    tips: Mapping[str, str]
    """From what is advertised, tag objects too, to the commit."""
    names: Sequence[str]
    """Branches and tags, in order."""
    by_length: Sequence[str]
    """Those that are short enough to be compared, in the order of their lengths."""

    @classmethod
    def of_refs(cls, refs: RemoteRefs, at: float) -> Self:
        """Takes some 0.1 s for the longest list that is read."""
        commits = {name: refs.target(name) or advertised for name, advertised in refs.refs.items()}
        tips = {commit: commit for commit in commits.values()}
        tips |= {advertised: commits[name] for name, advertised in refs.refs.items()}
        full = (name for name in refs.refs if name.startswith(("refs/heads/", "refs/tags/")))
        names = sorted({name.split("/", 2)[2] for name in full})
        by_length = sorted((name for name in names if len(name) <= _LONGEST_COMPARED), key=len)
        return cls(refs, at, sorted(set(commits.values())), tips, names, by_length)


class GitProvider:
    """Resolves specs of any git server. Its requests are tasks of the group that it is given, and end with it.

    ``timeout`` is for one question, in seconds; ``clock`` and ``resolver`` are the seams for tests. ``http`` asks for refs, with
    connections and limits that are shared by all who have it; without, each question makes connections of its own.
    """

    def __init__(
        self,
        rules: OutgoingRules,
        tasks: asyncio.TaskGroup,
        *,
        http: GitHttp | None = None,
        timeout: float = LIST_TIMEOUT,
        resolver: Resolver = resolve_host,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rules = rules
        self._http = http
        self._timeout = timeout
        self._resolver = resolver
        self._clock = clock
        self._listings: TTLCache[_Address, _Listing] = TTLCache(MAX_REFS_KEPT, REFS_KEPT, clock, _size)
        self._commits: LRUCache[tuple[_Address, str], RemoteCommit] = LRUCache(MAX_COMMITS_KEPT)
        self._requests: TTLCache[tuple[_Address, str], str] = TTLCache(1_000, REFS_KEPT, clock)
        self._missing: TTLCache[tuple[_Address, float, str], RefNotFound] = TTLCache(1_000, MISSING_KEPT, clock)
        limit = asyncio.Semaphore(MAX_ASKED_AT_ONCE)
        self._listing_flights = SingleFlight(self._ask_listing, tasks, limit, clock)
        self._request_flights = SingleFlight(self._ask_request, tasks, limit, clock)
        self._commit_flights = SingleFlight(self._ask_commit, tasks, limit, clock)

    @property
    def name(self) -> str:
        """As it stands in links."""
        return "git"

    def fetch_url(self, spec: RepoSpec) -> str:
        """Where the repository is asked for. Raises `BadLink` where the spec's locator cannot be one of this provider's."""
        return spec.locator

    async def resolve(self, spec: RepoSpec) -> ResolvedRef:
        """See `RepoProvider.resolve`; the order of meanings is at the top of this module."""
        admit(self.fetch_url(spec), self._rules)
        address = _Address.of_url(self.fetch_url(spec))
        ref = spec.ref
        if FULL_SHA.fullmatch(ref.lower()):
            found = await self._commit(address, ref.lower())
        else:
            found = await self._named(address, ref)
        return ResolvedRef(Repository.of_url(found.url), spec, found.url, found.version)

    async def refs(self, spec: RepoSpec) -> Collection[str]:
        """The names of the repository's refs, in full, whatever ref the spec names. Raises as `resolve`."""
        admit(self.fetch_url(spec), self._rules)
        return (await self._listing(_Address.of_url(self.fetch_url(spec)), REFS_KEPT)).refs.refs

    async def _named(self, address: _Address, ref: str) -> RemoteCommit:
        listing = await self._listing(address, REFS_KEPT)
        version = _meaning(listing, ref)
        if version is None:
            listing = await self._listing(address, DOUBT_AFTER)
            version = _meaning(listing, ref)
        if version is None and not listing.refs.is_whole and (address, listing.at, ref) not in self._missing:
            version = await self._unlisted(address, ref)
        if version is None:
            raise await self._not_found(address, listing, ref)
        return self._known(address, version, RemoteCommit(listing.refs.url, version))

    async def _unlisted(self, address: _Address, ref: str) -> str | None:
        name = _other_name(ref)
        if name is None:
            return None
        return self._requests.get((address, name)) or await self._request_flights.get((address, name))

    async def _not_found(self, address: _Address, listing: _Listing, ref: str) -> RefNotFound:
        key = (address, listing.at, ref)
        error = self._missing.get(key)
        if error is None:
            error = self._missing[key] = await asyncio.to_thread(_not_found, listing, ref)
        return error.with_traceback(None)

    async def _listing(self, address: _Address, max_age: float) -> _Listing:
        kept = self._listings.get(address)
        if kept is not None and self._clock() - kept.at <= max_age:
            return kept
        return await self._listing_flights.get(address)

    async def _commit(self, address: _Address, sha: str) -> RemoteCommit:
        known = self._commits.get((address, sha))
        if known is not None:
            return known
        kept = self._listings.get(address)
        tip = None if kept is None else kept.tips.get(sha)
        if kept is not None and tip is not None:
            return self._known(address, sha, RemoteCommit(kept.refs.url, tip))
        return await self._commit_flights.get((address, sha))

    def _known(self, address: _Address, sha: str, found: RemoteCommit) -> RemoteCommit:
        """A commit that was there once is the same for ever, whatever becomes of the branches."""
        self._commits[address, sha] = found
        return found

    async def _ask_listing(self, address: _Address) -> _Listing:
        refs = await self._list(address, BRANCHES_AND_TAGS)
        at = self._clock()
        if len(refs.refs) <= FEW_REFS:
            listing = _Listing.of_refs(refs, at)
        else:
            listing = await asyncio.to_thread(_Listing.of_refs, refs, at)
        if _size(listing) <= MAX_REFS_KEPT:
            self._listings[address] = listing
        return listing

    async def _ask_request(self, key: tuple[_Address, str]) -> str | None:
        address, name = key
        version = (await self._list(address, (name,))).target(name)
        if version is not None:
            self._requests[key] = version
        return version

    async def _list(self, address: _Address, prefixes: Sequence[str]) -> RemoteRefs:
        return await list_refs(
            address.url, self._rules, seconds=self._timeout, resolver=self._resolver, http=self._http, prefixes=prefixes
        )

    async def _ask_commit(self, key: tuple[_Address, str]) -> RemoteCommit:
        address, sha = key
        if self._http is not None:
            await self._http.when_allowed(address.url)  # git would ask, whatever the host has said
        found = await find_commit(address.url, sha, self._rules, seconds=self._timeout, resolver=self._resolver)
        return self._known(address, sha, found)


def _size(listing: _Listing) -> int:
    return len(listing.refs.refs) + len(listing.refs.peeled)


def _meaning(listing: _Listing, ref: str) -> str | None:
    """The commit that a ref means, a full SHA aside; `None` where it means none."""
    refs = listing.refs
    if ref == "HEAD" or ref.startswith("refs/"):
        return refs.target(ref)
    named = refs.target(f"refs/heads/{ref}") or refs.target(f"refs/tags/{ref}")
    if named is None and _REQUEST.fullmatch(ref):
        return refs.target(f"refs/{ref}")
    return named or _abbreviated(listing.commits, ref.lower())


def _other_name(ref: str) -> str | None:
    """The full name of the ref that a spec may mean beside branches and tags; `None` where it can mean none."""
    if _REQUEST.fullmatch(ref):
        return f"refs/{ref}"
    return ref if ref.startswith("refs/") and not ref.startswith(BRANCHES_AND_TAGS) else None


def _abbreviated(commits: Sequence[str], digits: str) -> str | None:
    if not _SHORT_SHA.fullmatch(digits):
        return None
    at = bisect_left(commits, digits)
    matching = [commit for commit in commits[at : at + 2] if commit.startswith(digits)]
    return matching[0] if len(matching) == 1 else None


def _not_found(listing: _Listing, ref: str) -> RefNotFound:
    repository = Repository.of_url(listing.refs.url).short
    if ref == "HEAD":
        names = tuple(listing.names[:NEAREST])
        return RefNotFound(f"{repository} has no default branch. It has {_listed(names)}.", names)
    nearest = _nearest(listing, ref)
    suggestion = f" Did you mean {_listed(nearest)}?" if nearest else ""
    if _SHORT_SHA.fullmatch(ref.lower()):
        return RefNotFound(
            f"“{ref}” is no branch or tag of {repository}, and too short to tell which commit it means. "
            f"Use the commit's full SHA.{suggestion}",
            nearest,
        )
    shown = ref if len(ref) <= 80 else ref[:79] + "…"
    return RefNotFound(f"{repository} has no branch, tag or commit “{shown}”.{suggestion}", nearest)


def _nearest(listing: _Listing, ref: str) -> tuple[str, ...]:
    """Branches and tags spelled most alike, best first; the default branch for someone who took it to be another."""
    wanted = re.sub(r"^refs/(heads|tags)/", "", ref)
    found = _alike(listing, wanted) if len(wanted) <= _LONGEST_COMPARED else []
    default = (listing.refs.default_branch or "").removeprefix("refs/heads/")
    exists = f"refs/heads/{default}" in listing.refs.refs
    if exists and default not in found and (not found or wanted in {"main", "master", "trunk"}):
        found.insert(0, default)
    return tuple(found[:NEAREST])


def _alike(listing: _Listing, wanted: str) -> list[str]:
    """Names that are compared with what was wanted and found alike, best first; few are compared, however many there are."""
    matcher = difflib.SequenceMatcher(None, "", wanted)
    plausible: list[tuple[float, int, str]] = []
    for name in _candidates(listing, wanted):
        matcher.set_seq1(name)
        # From the letters alone, in whatever order: never less than what comparing would give.
        if (at_most := matcher.quick_ratio()) >= _ALIKE:
            plausible.append((-at_most, -_shared_start(name, wanted), name))
    found: list[tuple[float, int, str]] = []
    for _, shared, name in sorted(plausible)[:_MAX_COMPARED]:
        matcher.set_seq1(name)
        # Of those equally alike, the ones that start the same: people err at the end of a name.
        if (ratio := matcher.ratio()) >= _ALIKE:
            found.append((-ratio, shared, name))
    return [name for _, _, name in sorted(found)]


def _candidates(listing: _Listing, wanted: str) -> set[str]:
    """All names where there are few; of many those that start most like it, that contain it, or are as long."""
    names, by_length = listing.names, listing.by_length
    if len(by_length) <= _MAX_CANDIDATES:
        return set(by_length)
    share = _MAX_CANDIDATES // 4
    start = bisect_left(names, wanted)
    length = bisect_left(by_length, len(wanted), key=len)
    close = {
        *names[max(0, start - share) : start + share],
        *islice((name for name in names if wanted in name), share),
        *by_length[max(0, length - share // 2) : length + share // 2],
    }
    return {name for name in close if len(name) <= _LONGEST_COMPARED}


def _shared_start(one: str, other: str) -> int:
    """How many letters are the same from the start on."""
    return next((at for at, (left, right) in enumerate(zip(one, other, strict=False)) if left != right), len(one))


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names)
