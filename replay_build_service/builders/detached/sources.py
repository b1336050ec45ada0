"""Fetching what is built: exactly the resolved commit or record, by the outgoing rules, and no more than the limit."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from replay_build_service.builders.detached.failures import Unbuildable, size
from replay_build_service.builders.detached.lfs import fill_in_lfs
from replay_build_service.builders.detached.log import Telling
from replay_build_service.builders.detached.submodules import fetch_submodules
from replay_build_service.builders.detached.trees import sizes_in
from replay_build_service.domain import FailureReason, Phase
from replay_build_service.errors import ReplayError
from replay_build_service.git import MAX_ENTRIES, fetch_commit
from replay_build_service.outgoing import OutgoingRules
from replay_build_service.sources.all_sources import SOURCES
from replay_build_service.sources.base import RecordSource, split_fetch_url
from replay_build_service.sources.fetching import FetchLimits, fetch_record

_LOOK = 0.25
"""Seconds between two looks at how much has come."""

_FORMAT = "1"
"""Changes when the same commit gets other files, with the same rules, because this code changed."""

_LEAST = 4096
"""Bytes that each file, folder and link counts: an empty one takes a place in the file system, too."""


def recipe_parameters(rules: OutgoingRules) -> dict[str, str]:
    """What of the rules makes the same commit another image; nothing where its own files are all there is."""
    parameters = {"submodules": _FORMAT} if rules.submodules else {}
    return parameters | ({"lfs": f"{_FORMAT}, {rules.lfs_limit}"} if rules.lfs_limit else {})


async def fetch_sources(
    url: str,
    version: str,
    folder: Path,
    rules: str,
    limit: int,
    log: Telling,
    *,
    sources: Mapping[str, RecordSource] = SOURCES,
) -> None:
    """The commit's or the record's files in ``folder``, which is made. ``rules``: `OutgoingRules` as JSON; ``limit``: bytes on disk.

    Raises `Unbuildable`, and `OSError` where the disk fails.
    """
    may_ask = OutgoingRules.from_json(rules)
    try:
        record = split_fetch_url(url, sources)
        if record is None:
            log.enter(Phase.FETCHING, f"Fetching {url} at commit {version}.")
            await _fetch_commit(url, version, folder, may_ask, limit, log)
        else:
            source, address = record
            log.enter(Phase.FETCHING, f"Fetching {address}, version {version}.")
            limits = FetchLimits(limit, MAX_ENTRIES)
            await fetch_record(
                source, address, version, folder, may_ask.for_archives(), limits, say=lambda text: log.lines([text])
            )
    except ReplayError as error:
        raise Unbuildable(FailureReason.FETCH, error.sentence) from error
    if record is None and not may_ask.submodules and (folder / ".gitmodules").exists():
        log.lines(["The repository has submodules, which are not fetched: their folders stay empty."])


async def _fetch_commit(url: str, version: str, folder: Path, rules: OutgoingRules, limit: int, log: Telling) -> None:
    """Watched from here, since git writes the files."""

    async def fetch_all() -> None:
        await fetch_commit(url, version, folder, rules)
        if rules.submodules:
            await fetch_submodules(url, version, folder, rules, lambda text: log.lines([text]))
        await fill_in_lfs(url, folder, rules, lambda text: log.lines([text]))

    await asyncio.to_thread(folder.mkdir)
    fetching = asyncio.create_task(fetch_all())
    try:
        is_over = False
        while not is_over:
            is_over = bool((await asyncio.wait({fetching}, timeout=_LOOK))[0])
            # Once more when it is over: the last bytes come since the look before.
            if await asyncio.to_thread(is_larger, folder, limit):
                raise Unbuildable(
                    FailureReason.FETCH,
                    f"The repository is larger than {size(limit)}, which is the limit here. "
                    "Keep large data elsewhere, and fetch it from the notebook.",
                )
        await fetching
    finally:
        fetching.cancel()
        with suppress(asyncio.CancelledError, ReplayError, Unbuildable):
            await fetching


def is_larger(folder: Path, limit: int) -> bool:
    """Whether what is below ``folder`` takes more than ``limit`` bytes on disk. Blocking; stops counting there."""
    total = 0
    for size_of_one in sizes_in(folder):
        total += max(_LEAST, size_of_one)
        if total > limit:
            return True
    return False
