"""Fetching what is built: exactly the resolved commit, by the outgoing rules, and no more than the limit."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path

from replay_build_service.builders.detached.failures import Unbuildable, size
from replay_build_service.builders.detached.log import LogWriter
from replay_build_service.domain import FailureReason, Phase
from replay_build_service.errors import ReplayError
from replay_build_service.git import fetch_commit
from replay_build_service.outgoing import OutgoingRules

_LOOK = 0.25
"""Seconds between two looks at how much has come."""

_LEAST = 4096
"""Bytes that each file, folder and link counts: an empty one takes a place in the file system, too."""


async def fetch_sources(url: str, version: str, folder: Path, rules: str, limit: int, log: LogWriter) -> None:
    """The commit's files in ``folder``, which is made. ``rules``: `OutgoingRules` as JSON; ``limit``: bytes on disk.

    Raises `Unbuildable`, and `OSError` where the disk fails.
    """
    log.enter(Phase.FETCHING, f"Fetching {url} at commit {version}.")
    await asyncio.to_thread(folder.mkdir)
    fetching = asyncio.create_task(fetch_commit(url, version, folder, OutgoingRules.from_json(rules)))
    try:
        while not fetching.done():
            await asyncio.wait({fetching}, timeout=_LOOK)
            if await asyncio.to_thread(is_larger, folder, limit):
                raise Unbuildable(
                    FailureReason.FETCH,
                    f"The repository is larger than {size(limit)}, which is the limit here. "
                    "Keep large data elsewhere, and fetch it from the notebook.",
                )
        await fetching
    except ReplayError as error:
        raise Unbuildable(FailureReason.FETCH, error.sentence) from error
    finally:
        fetching.cancel()
        with suppress(asyncio.CancelledError, ReplayError):
            await fetching
    if (folder / ".gitmodules").exists():
        log.lines(["The repository has submodules, which are not fetched: their folders stay empty."])


def is_larger(folder: Path, limit: int) -> bool:
    """Whether what is below ``folder`` takes more than ``limit`` bytes on disk. Blocking; stops counting there."""
    total = 0
    folders = [folder]
    while folders:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(Path(entry.path))
                    total += max(_LEAST, entry.stat(follow_symlinks=False).st_blocks * 512)
                if total > limit:
                    return True
    return False
