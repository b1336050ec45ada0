"""Contents in folders of this machine, for sessions that run on it: fetched once, kept for the next, the oldest removed first."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from weakref import WeakValueDictionary

from replay_build_service.content_schemas import ContentModel
from replay_build_service.contents.instructions import MODULE, VARIABLE, ContentInstructions
from replay_build_service.domain import ResolvedRef
from replay_build_service.errors import BadLink, SourceFault
from replay_build_service.outgoing import OutgoingRules

log = logging.getLogger(__name__)

GRACE_SECONDS = 1200.0
"""What a launch was promised stays for longer than a launch may wait for its server."""

_OVERTIME = 30.0
"""The program ends itself at its limit. This long after that it is ended."""

_MOST_SAID = 64 * 1024
"""Bytes of what it prints."""

_AT_ONCE = 4
"""Fetches."""


class FolderContents:
    """The contents of one service, each in a folder named after what it holds."""

    def __init__(self, folder: Path, rules: OutgoingRules, *, limit: int, kept: int, seconds: float) -> None:
        """``limit``: bytes of one; ``kept``: bytes of all that are kept for the next time; ``seconds`` that a fetch may take."""
        self._folder = folder
        self._rules = rules.to_json()
        self._limit = limit
        self._kept = kept
        self._seconds = seconds
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def ready(self, content: ResolvedRef) -> None:
        """Fetch it, unless it is here. One fetch for all who wait. Raises `BadLink` and `SourceFault`."""
        place = self._place(content)
        lock = self._locks.setdefault(place.name, asyncio.Lock())
        async with lock:
            if await asyncio.to_thread(_is_used_now, place):
                return
            async with self._places:
                await self._fetch(content, place)
        await asyncio.to_thread(self._tidy)

    def given(self, content: ResolvedRef) -> ContentModel:
        """With the folder, which is copied into the session."""
        return ContentModel(
            name=content.repository.folder_name,
            link=content.spec.text,
            repository=content.repository.url,
            version=content.version,
            folder=str(self._place(content)),
        )

    def _place(self, content: ResolvedRef) -> Path:
        what = f"{content.fetch_url} {content.version} {self._rules}"
        return self._folder / hashlib.sha256(what.encode()).hexdigest()

    async def _fetch(self, content: ResolvedRef, place: Path) -> None:
        await asyncio.to_thread(self._folder.mkdir, mode=0o700, parents=True, exist_ok=True)
        told = ContentInstructions(
            url=content.fetch_url,
            version=content.version,
            outgoing_rules=self._rules,
            limit=self._limit,
            folder=str(place),
            seconds=self._seconds,
        )
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", VARIABLE: told.to_json()}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", MODULE,
            env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said = b""
        try:
            async with asyncio.timeout(self._seconds + _OVERTIME):
                while chunk := await process.stdout.read(_MOST_SAID):  # pyright: ignore[reportOptionalMemberAccess] - it is a pipe
                    said = (said + chunk)[-_MOST_SAID:]
                status = await process.wait()
        except TimeoutError as error:
            raise SourceFault(f"{content.repository.short} could not be fetched in time. Try again later.") from error
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.terminate()
                await process.wait()
        if status != 0:
            lines = said.decode("utf8", "replace").strip().splitlines()
            log.warning("%s at %s could not be fetched: %s", content.fetch_url, content.version, lines[-1:])
            sentence = (
                lines[-1] if status == 1 and lines else "Try again; if it happens again, tell the administrators."
            )
            raise BadLink(f"{content.repository.short} could not be fetched into your session. {sentence}")

    def _tidy(self) -> None:
        """Remove what was used longest ago, until the others are no more than may be kept. Blocking."""
        found = sorted(((_used_at(place), place) for place in self._folder.iterdir()), reverse=True)
        total = 0
        for used_at, place in found:
            total += _size_of(place)
            # What has a second name after its own was left by a fetch that was killed.
            is_wanted = total <= self._kept and not place.suffix
            if not is_wanted and used_at < time.time() - GRACE_SECONDS:
                log.info("The content %s makes room", place.name)
                shutil.rmtree(place, ignore_errors=True)


def _is_used_now(place: Path) -> bool:
    """Whether it is here; then it stays for a while. Blocking."""
    try:
        os.utime(place)
    except FileNotFoundError:
        return False
    return True


def _used_at(place: Path) -> float:
    with suppress(FileNotFoundError):
        return place.stat().st_mtime
    return 0.0


def _size_of(place: Path) -> int:
    """Bytes on disk, in whatever depth."""
    total = 0
    folders = [place]
    while folders:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(Path(entry.path))
    return total
