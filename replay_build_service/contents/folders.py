"""Contents in folders of this machine, for sessions that run on it: fetched once, kept for the next, the oldest removed first."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
import shutil
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from weakref import WeakValueDictionary

from cachetools import TTLCache

from replay_build_service.builders.detached.trees import remove_tree, sizes_in
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

_QUEUE_SECONDS = 120.0
"""How long one waits for its turn."""

_END_SECONDS = 10.0
"""How long it may take to clear up."""

_FAILED_SECONDS = 30.0
"""For so long what could not be had is not tried again."""

_MOST_FAILED = 1000


class FolderContents:
    """The contents of one service, each in a folder named after what it holds."""

    def __init__(
        self, folder: Path, rules: OutgoingRules, *, limit: int, kept: int, seconds: float, free_disk: int
    ) -> None:
        """``limit``: bytes of one; ``kept``: bytes of all that are kept for the next time; ``seconds`` that a fetch may take;
        ``free_disk``: bytes that stay free on the disk."""
        self._folder = folder
        self._rules = rules.to_json()
        self._limit = limit
        self._kept = kept
        self._seconds = seconds
        self._free_disk = free_disk
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._failed: TTLCache[str, str] = TTLCache(_MOST_FAILED, _FAILED_SECONDS)
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def ready(self, content: ResolvedRef) -> None:
        """Fetch it, unless it is here. One fetch for all who wait. Raises `BadLink` and `SourceFault`."""
        place = self._place(content)
        async with self._lock_of(place):
            if await asyncio.to_thread(_is_used_now, place):
                return
            if (failed := self._failed.get(place.name)) is not None:
                raise BadLink(failed)
            async with self._room():
                try:
                    await self._fetch(content, place)
                except BadLink as error:
                    self._failed[place.name] = error.sentence
                    raise
            await asyncio.to_thread(_is_used_now, place)
        await self._tidy()

    def _lock_of(self, place: Path) -> asyncio.Lock:
        return self._locks.setdefault(place.name, asyncio.Lock())

    @asynccontextmanager
    async def _room(self) -> AsyncGenerator[None]:
        """One of the places, and disk for what comes. Raises `SourceFault` where there is none in time."""
        try:
            async with asyncio.timeout(_QUEUE_SECONDS):
                await self._places.acquire()
        except TimeoutError as error:
            raise SourceFault(
                "Too many contents are being fetched at this moment. Try again in a few minutes."
            ) from error
        try:
            await asyncio.to_thread(self._folder.mkdir, mode=0o700, parents=True, exist_ok=True)
            usage = await asyncio.to_thread(shutil.disk_usage, self._folder)
            if usage.free < self._limit + self._free_disk:
                log.error("No content is fetched: %s has %d bytes left", self._folder, usage.free)
                raise SourceFault(
                    "The disk of the build service is too full to fetch a content. Tell those who run it."
                )
            yield
        finally:
            self._places.release()

    def given(self, content: ResolvedRef) -> ContentModel:
        """With the folder, which is copied into the session."""
        return ContentModel.of(content, folder=str(self._place(content)))

    def _place(self, content: ResolvedRef) -> Path:
        what = f"{content.fetch_url} {content.version} {self._rules}"
        return self._folder / hashlib.sha256(what.encode()).hexdigest()

    async def _fetch(self, content: ResolvedRef, place: Path) -> None:
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
            sys.executable, "-P", "-m", MODULE,
            env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            async with asyncio.timeout(self._seconds + _OVERTIME):
                said = await _said_by(process)
        except TimeoutError as error:
            raise SourceFault(f"{content.repository.short} could not be fetched in time. Try again later.") from error
        finally:
            await _end(process)
        if process.returncode != 0:
            lines = said.decode("utf8", "replace").strip().splitlines()
            log.warning("%s at %s could not be fetched: %r", content.fetch_url, content.version, lines[-1:])
            is_told = process.returncode == 1 and lines
            sentence = lines[-1] if is_told else "Try again; if it happens again, tell the administrators."
            raise BadLink(f"{content.repository.short} could not be fetched into your session. {sentence}")

    async def _tidy(self) -> None:
        """Remove what was used longest ago, until the others are no more than may be kept. No launch depends on it."""
        try:
            for place in await asyncio.to_thread(self._too_much):
                async with self._lock_of(place):
                    await asyncio.to_thread(self._remove, place)
        except OSError:
            log.exception("Contents below %s could not be tidied", self._folder)

    def _too_much(self) -> list[Path]:
        found = sorted(((_used_at(place), place) for place in self._folder.iterdir()), reverse=True)
        total, unwanted = 0, list[Path]()
        for _, place in found:
            total += sum(sizes_in(place))
            # What has a second name after its own was left by a fetch that was killed.
            if (total > self._kept or place.suffix) and not self._is_promised(place):
                unwanted.append(place)
        return unwanted

    def _is_promised(self, place: Path) -> bool:
        return _used_at(place) > time.time() - GRACE_SECONDS - self._seconds

    def _remove(self, place: Path) -> None:
        """Under its own name there is never a part of it."""
        if self._is_promised(place):
            return
        log.info("The content %s makes room", place.name)
        leaving = place.with_name(f"{place.name}.part-{secrets.token_hex(8)}")
        place.rename(leaving)
        remove_tree(leaving)


async def _said_by(process: asyncio.subprocess.Process) -> bytes:
    """The last of what it prints, once it has ended."""
    if process.stdout is None:
        raise ValueError("The process was started without a pipe.")
    said = b""
    while chunk := await process.stdout.read(_MOST_SAID):
        said = (said + chunk)[-_MOST_SAID:]
    await process.wait()
    return said


async def _end(process: asyncio.subprocess.Process) -> None:
    """It removes what it has made, where it is let."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(_END_SECONDS):
            await _said_by(process)
    except TimeoutError:
        process.kill()
        await process.wait()


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
