"""Fetching a record: exactly the version that was resolved, as files in a folder.

The archive is asked for the list of files once more, and what it says is compared with the digest in the version. Each file goes to disk
under a name of its own until its size and checksum are what the list says. The tree is put together beside the folder that it is for, and
takes its place as the last step, in one: what is killed or cancelled before leaves nothing there. A record that is one archive is
unpacked (`unpacking`), as repo2docker does it.

Redirects are followed by hand: each hop is admitted by the rules, and no request has a secret in it.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from replay_build_service.errors import RefNotFound, Refused, SourceFault
from replay_build_service.outgoing import OutgoingRules, Resolver, resolve_host
from replay_build_service.sources.asking import Asker
from replay_build_service.sources.base import PreparingSource, Record, RecordSource, RemoteFile
from replay_build_service.sources.downloading import Downloader
from replay_build_service.sources.paths import Places
from replay_build_service.sources.threads import in_thread
from replay_build_service.sources.unpacking import LEAST, Budget, archive_kind, unpack

__all__ = ["FetchLimits", "fetch_record", "partial_folder"]

FETCH_TIMEOUT = 600.0
"""Seconds for a whole record, as for a commit."""
AT_ONCE = 4
"""Files of a record that are downloaded at a time."""


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What a record may be at most."""

    size: int
    """Bytes on disk. An archive and what is in it count each for itself, since one goes when the other is there."""
    entries: int = 200_000
    """Files and folders."""
    seconds: float = FETCH_TIMEOUT


@dataclass(frozen=True, slots=True)
class _Fetch:
    """One record on its way into its folder."""

    record: Record
    work: Path
    limits: FetchLimits
    say: Callable[[str], None]
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def incoming(self) -> Path:
        return self.work / "incoming"

    @property
    def tree(self) -> Path:
        return self.work / "tree"


async def fetch_record(
    source: RecordSource,
    api_url: str,
    version: str,
    folder: Path,
    rules: OutgoingRules,
    limits: FetchLimits,
    *,
    say: Callable[[str], None] = lambda _: None,
    resolver: Resolver = resolve_host,
) -> None:
    """The files of a version of a record, as ``folder``, which is not there yet or empty.

    ``version``: as `Record.pinned` has it; ``say`` is told what people should know, a sentence each. The archive is
    asked as anybody may: builds know no tokens. Raises `RefNotFound` where the files have changed since, `Refused` for what may not be
    fetched or unpacked, as `RecordSource` does, and `OSError` where the disk fails.
    """
    try:
        async with asyncio.timeout(limits.seconds), Asker(rules, resolver=resolver) as ask:
            record = await source.listed(ask, api_url)
            if record.pinned != version:
                raise RefNotFound(
                    "The files of this record have changed since it was looked up. Open the link again, to see it as it is now.",
                    (record.pinned,),
                )
            preparing = source if isinstance(source, PreparingSource) else None
            await _fetched(_Fetch(record, partial_folder(folder), limits, say), folder, preparing, ask, rules, resolver)
    except TimeoutError as error:
        raise SourceFault(
            f"The record could not be fetched within {limits.seconds:g} seconds, which is the limit here. "
            "Try again later, or keep large data elsewhere."
        ) from error


def partial_folder(folder: Path) -> Path:
    """Where a record is put together before it is ``folder``. Somebody else removes it after a process that was killed."""
    return folder.with_name(f".{folder.name}.partial")


async def _fetched(
    fetch: _Fetch,
    folder: Path,
    preparing: PreparingSource | None,
    ask: Asker,
    rules: OutgoingRules,
    resolver: Resolver,
) -> None:
    for note in fetch.record.notes:
        fetch.say(note)
    try:
        await in_thread(lambda: _make_room(fetch))
        paths = await in_thread(lambda: _planned(fetch))
        if preparing is not None:
            await preparing.prepare(ask, fetch.record, fetch.say)
        await _download(fetch, paths, rules, resolver)
        root = await in_thread(lambda: _put_together(fetch, paths), fetch.stopping.set)
        if preparing is not None:
            await preparing.verify(ask, fetch.record, root, fetch.say)
        await in_thread(lambda: _take_place(root, folder))
    finally:
        # What a killed process leaves is in the build's folder, and goes with it.
        await in_thread(lambda: shutil.rmtree(fetch.work, ignore_errors=True))


def _make_room(fetch: _Fetch) -> None:
    shutil.rmtree(fetch.work, ignore_errors=True)
    fetch.incoming.mkdir(parents=True)


def _take_place(root: Path, folder: Path) -> None:
    """Of a folder that is empty, or not there. Raises `ValueError` where it is neither."""
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty")
    root.rename(folder)


# ---- what is to come


def _planned(fetch: _Fetch) -> list[str | None]:
    """Each file's path; none of one that is left out. Raises `Refused` before anything is downloaded."""
    places = Places(fetch.limits.entries)
    budget = Budget(fetch.limits.size)
    found: list[str | None] = []
    for file in fetch.record.files:
        path = places.file(file.path)
        found.append(path)
        if path is not None:
            budget.take(max(LEAST, file.size or 0))
    _tell_left_out(fetch, places)
    if not any(path is not None for path in found):
        raise Refused("The record has no files to run.")
    return found


def _tell_left_out(fetch: _Fetch, places: Places) -> None:
    if places.left_out:
        fetch.say("What lies in a folder “.git” is left out: its settings could name programs that git would run.")


# ---- downloading


async def _download(fetch: _Fetch, paths: Sequence[str | None], rules: OutgoingRules, resolver: Resolver) -> None:
    budget = Budget(fetch.limits.size)
    turns = asyncio.Semaphore(AT_ONCE)
    async with Downloader(rules, budget, resolver=resolver) as downloader:

        async def one(index: int, file: RemoteFile) -> None:
            async with turns:
                await downloader.download(file, fetch.incoming / str(index))

        try:
            async with asyncio.TaskGroup() as group:
                for index, file in enumerate(fetch.record.files):
                    if paths[index] is not None:
                        group.create_task(one(index, file))
        except ExceptionGroup as failures:
            raise _first(failures) from None


def _first(failures: ExceptionGroup[Exception]) -> Exception:
    """What failed first. The others were ended by it, or failed alike."""
    failure = failures.exceptions[0]
    if isinstance(failure, ExceptionGroup):
        return _first(cast("ExceptionGroup[Exception]", failure))
    return failure


# ---- putting together


def _put_together(fetch: _Fetch, paths: Sequence[str | None]) -> Path:
    only = paths[0] if len(paths) == 1 else None
    kind = archive_kind(only) if only is not None else None
    if only is not None and kind is not None:
        fetch.say(f"Unpacking {only}.")
        places = Places(fetch.limits.entries, "The archive")
        budget = Budget(fetch.limits.size, "What is in the archive", fetch.stopping.is_set)
        root = unpack(fetch.incoming / "0", kind, fetch.tree, budget, places)
        _tell_left_out(fetch, places)
        if not places:
            raise Refused("The record is an archive with nothing in it.")
        return root
    fetch.tree.mkdir()
    for index, path in enumerate(paths):
        if path is not None:
            (fetch.tree / path).parent.mkdir(parents=True, exist_ok=True)
            (fetch.incoming / str(index)).rename(fetch.tree / path)
    return fetch.tree
