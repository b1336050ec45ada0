"""From a session's folder to one ZIP file, made while it is sent.

Widely understood, and with its directory at the end: so it can be written without knowing what comes.
"""

import asyncio
import time
import unicodedata
import zipfile
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO

from replay_build_service.errors import ReplayError
from replay_build_service.work.session_files import Entry, Listing, Path, SessionFiles, SessionSilent, Unreadable

ABSENCES = "NOT-ALL-IS-HERE.txt"
"""The file in the archive that says what is not in it."""

MOST_ABSENCES = 1000
"""Lines of that file."""

MOST_SILENCES = 3
"""After so many questions in a row without an answer, the session is taken to have ended."""

MOST_NAME_BYTES = 255
"""Of one name: what file systems keep."""

_ZIP_YEARS = range(1980, 2108)
"""https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.4.6: dates are MS-DOS's."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one archive may take; what is beyond is left out, and told."""

    entries: int = 50_000
    depth: int = 50
    bytes: int = 5 * 1024**3
    """Of content, before it is compressed."""
    seconds: float = 3600.0


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder whose content is still to be read."""

    path: Path
    place: str
    """Its path in the archive, with a slash at the end."""
    above: tuple[int, ...]
    """What the folders above it look like."""


@dataclass(slots=True)
class _Absences:
    """What is left out, and why."""

    lines: list[str] = field(default_factory=list[str])
    more: int = 0

    def add(self, what: str, why: str) -> None:
        if len(self.lines) < MOST_ABSENCES:
            self.lines.append(f"{what}: {why}.")
        else:
            self.more += 1

    def text(self) -> bytes:
        lines = ["Not everything of the session is in this archive:", "", *self.lines]
        if self.more:
            lines.append(f"and {self.more} more.")
        lines += ["", "What is missing can be downloaded in the session itself, for as long as it runs.", ""]
        return "\n".join(lines).encode()


class _Full(Exception):
    """A limit is reached. The text says which."""


class _Outbox:
    """What the archive is written to: taken away after each step, so that there is never much of it."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """All that is written can be taken at once."""

    def taken(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


async def pack(
    files: SessionFiles, root: Listing, name: str, *, left_out: Collection[str] = (), limits: Limits | None = None
) -> AsyncGenerator[bytes]:
    """The pieces of a ZIP file with all that is below ``root``, in a folder ``name``.

    ``left_out`` are names in the root, for what is somebody else's data. Raises nothing of the session's: what cannot be read is
    told in a last file, `ABSENCES`.
    """
    packing = _Packing(files, limits or Limits())
    async with aclosing(packing.run(root, f"{_safe(name)}/", left_out)) as pieces:
        async for piece in pieces:
            yield piece


class _Packing:
    def __init__(self, files: SessionFiles, limits: Limits) -> None:
        self._files = files
        self._limits = limits
        self._ends_at = time.monotonic() + limits.seconds
        self._outbox = _Outbox()
        self._zip = zipfile.ZipFile(self._outbox, "w", zipfile.ZIP_DEFLATED, compresslevel=1)  # pyright: ignore[reportArgumentType, reportCallIssue] - it needs no more of a file than this
        self._absences = _Absences()
        self._places: set[str] = set()
        self._entries = 0
        self._bytes = 0
        self._silences = 0

    async def run(self, root: Listing, place: str, left_out: Collection[str]) -> AsyncGenerator[bytes]:
        try:
            async with aclosing(self._walk(root, place, left_out)) as pieces:
                async for piece in pieces:
                    yield piece
        except _Full as full:
            self._absences.add("The rest", str(full))
        except ReplayError as error:
            # The way in was asked for anew, and refused: the session has ended, or it is not this person's to read any more.
            self._absences.add("The rest", error.sentence.removesuffix("."))
        if self._absences.lines:
            entry = self._zip.open(_info(self._place(place, ABSENCES), None), "w")
            entry.write(self._absences.text())
            entry.close()
        # Writes the archive's directory: of 50,000 files that is some megabytes.
        await _to_its_end(self._zip.close)
        yield self._outbox.taken()

    async def _walk(self, root: Listing, place: str, left_out: Collection[str]) -> AsyncGenerator[bytes]:
        """By breadth: what is near the top, and more likely somebody's own, comes before what is deep."""
        waiting: deque[_Folder] = deque()
        for entry in root.entries:
            if entry.name in left_out:
                self._absences.add(_shown((entry.name,)), "it is not the session's own")
        own = Listing([entry for entry in root.entries if entry.name not in left_out], root.unnamed)
        async with aclosing(self._take(own, _Folder((), place, ()), _likeness(root), waiting)) as pieces:
            async for piece in pieces:
                yield piece
        while waiting:
            folder = waiting.popleft()
            self._in_time()
            try:
                listing = await self._files.listing(folder.path)
            except Unreadable as error:
                self._missed(folder.path, error)
                continue
            self._silences = 0
            likeness = _likeness(listing)
            if listing.entries and likeness in folder.above:
                self._absences.add(_shown(folder.path), "it is a link to a folder above it")
                continue
            async with aclosing(self._take(listing, folder, likeness, waiting)) as pieces:
                async for piece in pieces:
                    yield piece

    async def _take(
        self, listing: Listing, folder: _Folder, likeness: int, waiting: deque[_Folder]
    ) -> AsyncGenerator[bytes]:
        """The files of one folder; its folders wait for their turn."""
        if listing.unnamed:
            what = _shown(folder.path) if folder.path else "The session's folder"
            self._absences.add(what, f"{listing.unnamed} of what it has is not named in a way that can be read")
        for entry in sorted(listing.entries, key=lambda one: (one.is_folder, one.name)):
            self._in_time()
            self._entries += 1
            if self._entries > self._limits.entries:
                raise _Full(f"an archive has {self._limits.entries:,} files and folders at most")
            path = (*folder.path, entry.name)
            place = self._place(folder.place, entry.name)
            if not entry.is_folder:
                async with aclosing(self._file(path, place, entry)) as pieces:
                    async for piece in pieces:
                        yield piece
                continue
            if len(path) > self._limits.depth:
                self._absences.add(_shown(path), f"it is more than {self._limits.depth} folders deep")
                continue
            self._zip.writestr(_info(f"{place}/", entry.modified), b"")
            waiting.append(_Folder(path, f"{place}/", (*folder.above, likeness)))
            yield self._outbox.taken()

    async def _file(self, path: Path, place: str, entry: Entry) -> AsyncGenerator[bytes]:
        """One file. It is begun with its first piece, so that one that cannot be read at all is not there as an empty one."""
        writing = None
        try:
            async with aclosing(self._files.content(path)) as chunks:
                async for chunk in chunks:
                    if writing is None:
                        writing = self._begun(place, entry)
                    self._bytes += len(chunk)
                    if self._bytes > self._limits.bytes:
                        self._absences.add(_shown(path), "only its beginning is here")
                        raise _Full(f"an archive has {self._limits.bytes / 1024**3:.3g} GB of content at most")
                    # Compressing is work, and others wait for this thread.
                    await _to_its_end(writing.write, chunk)
                    yield self._outbox.taken()
                    if time.monotonic() > self._ends_at:
                        self._absences.add(_shown(path), "only its beginning is here")
                    self._in_time()
            self._silences = 0
            if writing is None:
                writing = self._begun(place, entry)
        except Unreadable as error:
            self._missed(path, error, "only its beginning is here, since " if writing else "")
        finally:
            if writing is not None:
                writing.close()
        yield self._outbox.taken()

    def _begun(self, place: str, entry: Entry) -> IO[bytes]:
        # How much comes is not known, whatever the session says.
        return self._zip.open(_info(place, entry.modified), "w", force_zip64=True)

    def _missed(self, path: Path, error: Unreadable, before: str = "") -> None:
        self._absences.add(_shown(path), f"{before}{error}")
        self._silences = self._silences + 1 if isinstance(error, SessionSilent) else 0
        if self._silences >= MOST_SILENCES:
            raise _Full("the session does not answer any more")

    def _in_time(self) -> None:
        if time.monotonic() > self._ends_at:
            raise _Full(f"an archive takes {self._limits.seconds / 60:.3g} minutes at most")

    def _place(self, folder: str, name: str) -> str:
        """A path in the archive that no other entry has, also where case does not count."""
        safe = _safe(name)
        place, number = folder + safe, 2
        while place.casefold() in self._places:
            stem, dot, ending = safe.rpartition(".")
            place = f"{folder}{stem or safe} ({number}){dot + ending if stem else ''}"
            number += 1
        self._places.add(place.casefold())
        return place


async def _to_its_end(work: Callable[..., object], *arguments: object) -> None:
    """Do it in a thread. Whoever is cancelled waits for its end: what it works on is theirs to close."""
    working = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait({working})
        raise


def _safe(name: str) -> str:
    """A name that stays in its folder wherever an archive is unpacked, and is no longer than file systems take.

    A backslash is a separator on Windows, which also drops dots and spaces at a name's end: ``.. `` would lead up.
    """
    safe = "".join("_" if one in "/\\" or unicodedata.category(one) in {"Cc", "Cs"} else one for one in name)
    if not safe.strip(". "):
        safe = safe.replace(".", "_").replace(" ", "_") or "_"
    data = safe.encode()
    return safe if len(data) <= MOST_NAME_BYTES else data[:MOST_NAME_BYTES].decode(errors="ignore")


def _shown(path: Path) -> str:
    return "/".join(_safe(name) for name in path)


def _info(place: str, modified: datetime | None) -> zipfile.ZipInfo:
    usable = modified is not None and modified.year in _ZIP_YEARS
    info = zipfile.ZipInfo(
        place, modified.timetuple()[:6] if modified is not None and usable else (1980, 1, 1, 0, 0, 0)
    )
    is_folder = place.endswith("/")
    info.compress_type = zipfile.ZIP_STORED if is_folder else zipfile.ZIP_DEFLATED
    info.external_attr = (0o40755 if is_folder else 0o100644) << 16 | (0x10 if is_folder else 0)
    return info


def _likeness(listing: Listing) -> int:
    """What a folder looks like: two with the same names, sizes and moments are one folder, reached in two ways."""
    return hash(frozenset((one.name, one.is_folder, one.size, one.modified) for one in listing.entries))
