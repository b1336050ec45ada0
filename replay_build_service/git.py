"""git over HTTP(S): what refs a repository has, whether a commit exists, one commit checked out.

Each question goes to an address that `outgoing.vet` checked. A redirect is looked at hop by hop and then asked anew; a
fault of the network is asked again; an answer that takes too long is a fault. Refs are asked for by `git_http`, in this
process; how git itself is kept to all that is the business of `git_process`.

Submodules are not fetched and LFS files stay pointers: both lead to places that the link does not name.
A host may hand out, under one repository's address, commits that exist only in a fork of it (GitHub does); what is
checked here is that the commit is what was asked for, not who wrote it.

This room knows refs and commits only: what a spec means is the providers' matter, what is built the builders'. It
starts no process itself.
"""

from __future__ import annotations

import asyncio
import logging
import re
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import stamina

from replay_build_service.errors import BadLink, RefNotFound, Refused, RepositoryNotFound, SourceFault
from replay_build_service.git_http import BRANCHES_AND_TAGS, GitHttp, canonical_url
from replay_build_service.git_listing import NotUnderstood, RemoteRefs
from replay_build_service.git_process import (
    Moved,
    NotBySha,
    connection_options,
    count_local,
    require_git,
    run_local,
    run_remote,
    without_scheme,
)
from replay_build_service.outgoing import OutgoingRules, Resolver, resolve_host, vet

__all__ = [
    "BRANCHES_AND_TAGS",
    "FULL_SHA",
    "GitHttp",
    "RemoteCommit",
    "RemoteRefs",
    "fetch_commit",
    "find_commit",
    "list_refs",
]

logger = logging.getLogger(__name__)

FULL_SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""A whole object id, SHA-1 or SHA-256."""

LIST_TIMEOUT = 20.0
"""Seconds for listing refs and for looking a commit up, retries included."""
FETCH_TIMEOUT = 600.0
"""Seconds for fetching and checking out, retries included."""
MAX_LISTING = 16 * 1024 * 1024
"""Bytes of refs that are read: some two hundred and fifty thousand refs. Of a repository with more, branches and tags alone are, and
what is named in full; where these are more, too, a full SHA can be had."""
MAX_ENTRIES = 200_000
"""Files and folders of a commit. Trees that repeat others need no bytes, and git unfolds them all before it writes a file.
Twice what Linux has; with the least that each counts on disk, 800 MB of `repository_limit`."""
MAX_PATHS = 64_000_000
"""Bytes of the paths of all these together, which git holds at once: for each of 200 000, a path of 320."""
ATTEMPTS = 3
FIRST_WAIT = 0.2
"""Seconds before the second attempt; the third waits twice as long."""

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class RemoteCommit:
    """A commit that a repository has."""

    url: str
    """Where the repository answered, after redirects."""
    version: str
    """The commit's full SHA. Not the one asked for where that one was of an annotated tag."""


async def list_refs(
    url: str,
    rules: OutgoingRules,
    *,
    seconds: float = LIST_TIMEOUT,
    resolver: Resolver = resolve_host,
    http: GitHttp | None = None,
    prefixes: Sequence[str] = BRANCHES_AND_TAGS,
) -> RemoteRefs:
    """All refs of a repository; of one with more than `MAX_LISTING` those that begin in one of these ways (`RemoteRefs.is_whole`).

    Asked by ``http``, with what that keeps for all questions, or with connections of its own; and with git where the server's
    answer is not understood.

    Raises `BadLink`, `OriginRefused`, `RepositoryNotFound` (gone, private or empty), `Refused` (too many refs to read)
    and `SourceFault`.
    """
    address = canonical_url(url)
    async with AsyncExitStack() as own:
        asking = http or await own.enter_async_context(GitHttp(rules, resolver=resolver))

        async def ask_once() -> RemoteRefs:
            try:
                return await asking.refs(address, prefixes, MAX_LISTING)
            except NotUnderstood as error:
                logger.info("git is asked for the refs of %s: %s", address, error)
                return await _listed_by_git(address, rules, resolver)

        listing = await _retried(url, seconds, ask_once, unless=asking.is_held_back)
    if not listing.refs and listing.is_whole:
        raise RepositoryNotFound(f"The repository {without_scheme(url)} is empty: it has no branch and no tag yet.")
    return listing


async def _listed_by_git(address: str, rules: OutgoingRules, resolver: Resolver) -> RemoteRefs:
    """Protocol version 0, which advertises refs in the answer to the first request, version 2 in that to a second."""

    async def ask(at: str, options: Sequence[str]) -> str:
        command = (*options, "-c", "protocol.version=0", "ls-remote", "--symref", "--", at)
        return await run_remote(command, at, rules, max_output=MAX_LISTING)

    found, output = await _asked_once(address, rules, resolver, ask)
    return await asyncio.to_thread(_parse_refs, found, output)


async def find_commit(
    url: str,
    version: str,
    rules: OutgoingRules,
    *,
    seconds: float = LIST_TIMEOUT,
    resolver: Resolver = resolve_host,
) -> RemoteCommit:
    """Verify that a repository has a commit, tip of a ref or not, without fetching its files.

    Raises as `list_refs`, and `RefNotFound` where the repository has no such commit.
    """
    _require_full_sha(version)
    with tempfile.TemporaryDirectory(prefix="replay-git-") as folder:
        await _initialise(Path(folder), version, "--bare")

        async def ask(address: str, options: Sequence[str]) -> None:
            await _fetch(Path(folder), address, version, rules, options, "--filter=tree:0")

        found, _ = await _asked(url, rules, resolver, seconds, ask)
        commit = await run_local(Path(folder), "rev-parse", "--verify", "--quiet", f"{version}^{{commit}}")
    if commit is None:
        raise RefNotFound(f"{version} is not a commit of {without_scheme(url)}.")
    return RemoteCommit(found, commit.strip())


async def fetch_commit(
    url: str,
    version: str,
    folder: Path,
    rules: OutgoingRules,
    *,
    seconds: float = FETCH_TIMEOUT,
    resolver: Resolver = resolve_host,
) -> None:
    """Check out exactly one commit, without its history, into a folder that is empty or not there yet.

    The folder becomes a repository with a detached ``HEAD`` and the remote ``origin``. After an error or a cancellation
    what is in it is the caller's to remove.

    Raises `ValueError` where the folder is not empty, `Refused` where the commit has more files and folders than may be
    checked out, and as `find_commit`.
    """
    _require_full_sha(version)
    await asyncio.to_thread(_require_empty, folder)
    await _initialise(folder, version)

    async def ask(address: str, options: Sequence[str]) -> None:
        await _fetch(folder, address, version, rules, options)

    try:
        async with asyncio.timeout(seconds):
            found, _ = await _asked(url, rules, resolver, seconds, ask)
            await _check_out(folder, found, version)
    except TimeoutError as error:
        raise _too_slow(url, seconds) from error


async def _check_out(folder: Path, url: str, version: str) -> None:
    await run_local(folder, "remote", "add", "origin", url)
    is_whole = await _has_few_entries(folder, version)
    if not is_whole or await run_local(folder, "checkout", "--quiet", "--force", "--detach", version) is None:
        raise RefNotFound(
            f"{version} of {without_scheme(url)} cannot be checked out: it is not a commit, or its files are not whole."
        )
    head = await run_local(folder, "rev-parse", "--verify", "HEAD")
    if head is None or head.strip() != version:
        raise RefNotFound(f"{version} is not a commit of {without_scheme(url)}.")


async def _has_few_entries(folder: Path, version: str) -> bool:
    """False where that is nothing with entries, or not whole. Raises `Refused` where there are too many, which git lists
    one after the other, while a checkout begins with all of them in memory.
    """
    listing = ("ls-tree", "-r", "-t", "-z", "--name-only", version)
    count = await count_local(folder, *listing, max_records=MAX_ENTRIES, max_output=MAX_PATHS)
    if count is not None and count.records > MAX_ENTRIES:
        raise Refused(
            f"The repository has more than {MAX_ENTRIES:,} files and folders, which is the limit here. "
            "Keep many small files elsewhere, packed into one, and fetch that from the notebook."
        )
    if count is not None and count.size > MAX_PATHS:
        raise Refused(
            "The repository has names of files and folders that take more than "
            f"{MAX_PATHS // 1_000_000} MB together, which is the limit here. Give them shorter names."
        )
    return count is not None


# ---- one question to a repository: vetted, redirected, retried, bounded in time


async def _asked(
    url: str,
    rules: OutgoingRules,
    resolver: Resolver,
    seconds: float,
    ask: Callable[[str, Sequence[str]], Awaitable[_Answer]],
) -> tuple[str, _Answer]:
    """The answer, and the address that gave it."""
    address = canonical_url(url)
    return await _retried(url, seconds, lambda: _asked_once(address, rules, resolver, ask))


async def _retried(
    url: str,
    seconds: float,
    ask: Callable[[], Awaitable[_Answer]],
    unless: Callable[[str], bool] = lambda _: False,
) -> _Answer:
    """The answer, asked for again after a fault, ``unless`` that is said to be of no use for this address."""
    await require_git()
    try:
        async with asyncio.timeout(seconds):
            async for attempt in stamina.retry_context(
                on=lambda error: isinstance(error, SourceFault) and not unless(url),
                attempts=ATTEMPTS,
                timeout=None,
                wait_initial=FIRST_WAIT,
                wait_max=2.0,
                wait_jitter=FIRST_WAIT,
            ):
                with attempt:
                    return await ask()
    except TimeoutError as error:
        raise _too_slow(url, seconds) from error
    raise AssertionError("stamina ends with a result or an error")


async def _asked_once(
    address: str, rules: OutgoingRules, resolver: Resolver, ask: Callable[[str, Sequence[str]], Awaitable[_Answer]]
) -> tuple[str, _Answer]:
    try:
        return address, await ask(address, connection_options(await vet(address, rules, resolver=resolver), rules))
    except Moved:
        pass
    async with GitHttp(rules, resolver=resolver) as http:
        moved = await http.located(address)
    options = connection_options(await vet(moved, rules, resolver=resolver), rules)
    try:
        return moved, await ask(moved, options)
    except Moved as error:
        raise SourceFault(
            f"{without_scheme(address)} redirects in a way that git cannot follow. Try again later."
        ) from error


def _too_slow(url: str, seconds: float) -> SourceFault:
    return SourceFault(f"{without_scheme(url)} did not answer within {seconds:g} seconds. Try again later.")


# ---- what is asked for, and what a server's list says


async def _initialise(folder: Path, version: str, *options: str) -> None:
    object_format = "sha256" if len(version) == 64 else "sha1"
    command = ("init", "--quiet", "--template=", f"--object-format={object_format}", *options)
    if await run_local(folder, *command) is None:
        raise SourceFault("A place for the repository's files could not be made. Try again later.")


async def _fetch(
    folder: Path, address: str, version: str, rules: OutgoingRules, options: Sequence[str], *narrowing: str
) -> None:
    quietly = ("--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head", "--no-auto-maintenance")
    command = (*options, "-c", "protocol.version=2", "fetch", *quietly, *narrowing)
    try:
        await run_remote((*command, "--depth=1", "--", address, version), address, rules, folder=folder)
    except NotBySha:
        everything = ("+refs/heads/*:refs/replay/heads/*", "+refs/tags/*:refs/replay/tags/*")
        await run_remote((*command, "--", address, *everything), address, rules, folder=folder)


def _parse_refs(url: str, output: str) -> RemoteRefs:
    default: str | None = None
    refs: dict[str, str] = {}
    peeled: dict[str, str] = {}
    for line in output.splitlines():
        value, _, name = line.partition("\t")
        if value.startswith("ref: "):
            default = value.removeprefix("ref: ") if name == "HEAD" else default
        elif not FULL_SHA.fullmatch(value):
            raise SourceFault(
                f"{without_scheme(url)} answered with something that is no list of refs. Try again later."
            )
        elif set(value) == {"0"}:
            continue  # so git shows a HEAD whose branch does not exist
        elif name.endswith("^{}"):
            peeled[name.removesuffix("^{}")] = value
        else:
            refs[name] = value
    return RemoteRefs(url, default, refs, peeled)


def _require_full_sha(version: str) -> None:
    if not FULL_SHA.fullmatch(version):
        raise BadLink("Only a full commit SHA, in lower case, names a commit for good.")


def _require_empty(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty.")
