"""Unpacking a record that is one archive: ZIP, or tar as it is or with gzip, bzip2 or xz. Standard library only; blocking.

Archives come from strangers. All that comes out of one is counted while it does: bytes, files, and how much more it is than the archive;
and no step reads more at once than `_READ`. Files and folders are made, with the right to execute where the archive has it, and symbolic
links that stay in the tree, which come last, so that nothing is written through one. Refused, with a sentence: names that lead out
(`paths`), hard links, devices and pipes, sparse files, passwords, and ZIP's rarer ways of packing, which Python unpacks without a bound.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from replay_build_service.errors import Refused
from replay_build_service.sources.paths import Places, link_target, shown

__all__ = ["Budget", "archive_kind", "unpack"]

LEAST = 4096
"""Bytes that each file, folder and link counts: an empty one takes a place in the file system, too."""

_CHUNK = 256 * 1024
_READ = 32 * 1024 * 1024
"""Bytes of an archive's own lists and headers that are held at once: a ZIP's list of some 200 000 files."""
_MOST_TIMES = 200
"""How many times its own size an archive may unpack to …"""
_ALWAYS_FINE = 100_000_000
"""… beyond this many bytes. DEFLATE packs zeros a thousand times smaller, and what people write some ten times."""
_XZ_MEMORY = 256 * 1024 * 1024
"""Bytes that unpacking xz may hold. Its strongest preset needs 65 MB (xz(1))."""

_ENDINGS = {
    ".zip": "zip", ".tar": "tar", ".tar.gz": "gz", ".tgz": "gz", ".tar.bz2": "bz2", ".tbz2": "bz2", ".tbz": "bz2",
    ".tar.xz": "xz", ".txz": "xz",
}  # fmt: skip

_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    OverflowError,
    RecursionError,
    struct.error,
)


class Stopped(Exception):
    """Whoever wanted it does not any more."""


@dataclass(slots=True)
class Budget:
    """Bytes on disk that may still be taken. ``limit``: of all; ``stop`` says whether to go on."""

    limit: int
    what: str = "The record"
    stop: Callable[[], bool] = lambda: False
    taken: int = 0
    slack: int = 0
    """Bytes beyond the limit that are no matter: of headers and padding, where what is in them is counted later."""

    def take(self, size: int) -> None:
        """Raises `Refused` where that is more than there is, and `Stopped`."""
        self.taken += size
        if self.stop():
            raise Stopped
        if self.taken > self.limit + self.slack:
            raise Refused(
                f"{self.what} is larger than {self.limit / 1e6:,.0f} MB, which is the limit here. "
                "Keep large data elsewhere, and fetch it from the notebook."
            )


def archive_kind(name: str) -> str | None:
    """The kind of archive that a file's name says it is; none of a file that is no archive, or is one for other programs."""
    lower = name.lower()
    # .tar.gz before .gz would matter if .gz alone were one: it is a file that somebody packed, not a tree.
    return next((kind for ending, kind in _ENDINGS.items() if lower.endswith(ending)), None)


def unpack(archive: Path, kind: str, folder: Path, budget: Budget, places: Places) -> Path:
    """Everything in an archive, in ``folder``, which is made. Where all of it lies in one folder, the path of that one.

    ``archive`` is removed as soon as it is not needed. Raises `Refused`, `Stopped`, and `OSError` where the disk fails.
    """
    folder.mkdir()
    tree = _Tree(folder, budget, places, archive.stat().st_size)
    try:
        if kind == "zip":
            _unzip(archive, tree)
        else:
            _untar(archive, kind, tree)
    except NotImplementedError as error:
        raise Refused(
            "The archive is packed in a way that cannot be unpacked here. Pack it as ZIP or tar.gz."
        ) from error
    except _DAMAGED as error:
        raise Refused("The archive cannot be unpacked: it is damaged, or is not what its name says.") from error
    archive.unlink(missing_ok=True)
    return tree.finished()


@dataclass(slots=True)
class _Tree:
    """What is unpacked, as it grows."""

    root: Path
    budget: Budget
    places: Places
    packed: int
    """Bytes of the archive."""
    unpacked: int = 0
    links: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def count(self, taken: int, content: int = 0) -> None:
        """``taken``: bytes on disk; ``content``: those that were packed. Raises `Refused` for what only a bomb unpacks to."""
        self.budget.take(taken)
        self.unpacked += content
        if self.unpacked > max(_ALWAYS_FINE, self.packed * _MOST_TIMES):
            raise Refused(
                f"The archive unpacks to more than {_MOST_TIMES} times its own size, as only archives made to fill disks do."
            )

    def folder(self, name: str) -> None:
        path = self.places.folder(name)
        if path:
            self._make_folder(path)

    def file(self, name: str, content: BinaryIO, *, executable: bool) -> None:
        path = self.places.file(name)
        if path is None:
            return
        self._make_folder(path.rpartition("/")[0])
        self.count(LEAST)
        mode = 0o755 if executable else 0o644
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(self.root / path, flags, mode), "wb") as file:
            size = 0
            while part := content.read(_CHUNK):
                # The first bytes are in what was counted already.
                self.count(max(0, size + len(part) - LEAST) - max(0, size - LEAST), len(part))
                size += len(part)
                file.write(part)
            os.fchmod(file.fileno(), mode)  # whatever the umask took

    def link(self, name: str, target: str) -> None:
        path = self.places.file(name)
        if path is not None:
            self.count(LEAST)
            self.links.append((path, target))

    def finished(self) -> Path:
        """The links are made, now that nothing else is."""
        inner = self._only_folder()
        for path, target in self.links:
            below = path.removeprefix(f"{inner}/") if inner else path
            link_target(below, target, "The archive")
            self._make_folder(path.rpartition("/")[0])
            os.symlink(target, self.root / path)
        return self.root / inner if inner else self.root

    def _only_folder(self) -> str:
        """As repo2docker does it: where an archive has one folder and nothing beside it, what is in there is meant."""
        top = self.places.top_level()
        only = next(iter(top)) if len(top) == 1 else ""
        return only if only and self.places.is_folder(only) else ""

    def _make_folder(self, path: str) -> None:
        if not path:
            return
        missing: list[Path] = []
        place = self.root / path
        while not place.is_dir():
            missing.append(place)
            place = place.parent
        for place in reversed(missing):
            self.count(LEAST)
            place.mkdir(0o755)


class _Careful(io.BufferedReader):
    """A file of which nobody reads enormous parts at once, as Python's readers of archives do where a header tells them to."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = max(0, os.fstat(self.fileno()).st_size - self.tell())
        if size > _READ:
            raise Refused(
                "The archive has longer lists or names than are read here. Pack fewer files, or several archives."
            )
        return super().read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        try:
            return super().seek(offset, whence)
        except OSError as error:
            if whence != os.SEEK_SET:
                raise  # which `zipfile` understands
            raise EOFError from error


def _opened(archive: Path) -> _Careful:
    return _Careful(io.FileIO(archive))


# ---- ZIP (https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT)


def _unzip(archive: Path, tree: _Tree) -> None:
    with _opened(archive) as file, zipfile.ZipFile(file) as packed:
        for entry in packed.infolist():
            name = entry.orig_filename  # what follows a NUL is hidden in the other one
            if name.startswith("__MACOSX/"):
                continue  # what macOS adds to each archive, of use to it alone
            mode = entry.external_attr >> 16 if entry.create_system == 3 else 0
            kind = stat.S_IFMT(mode)
            if entry.flag_bits & 1:
                raise Refused("The archive is protected by a password, so it cannot be unpacked.")
            if kind not in {0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}:
                raise _odd(name)
            if name.endswith("/"):
                tree.folder(name)
                continue
            if entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
                raise NotImplementedError
            with packed.open(entry) as content:
                if kind == stat.S_IFLNK:
                    tree.link(name, content.read(_CHUNK).decode("utf-8", errors="surrogateescape"))
                else:
                    tree.file(name, cast("BinaryIO", content), executable=bool(mode & stat.S_IXUSR))


# ---- tar


def _untar(archive: Path, kind: str, tree: _Tree) -> None:
    """Unpacked first, then read: `tarfile` reads what a header says in one part, and only a file can be kept from that."""
    plain = archive
    if kind != "tar":
        plain = archive.with_name(f"{archive.name}.tar")
        _decompress(archive, kind, plain, tree)
        archive.unlink()
    try:
        with (
            _opened(plain) as file,
            tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as packed,
        ):
            while (member := packed.next()) is not None:
                cast("Any", packed).members.clear()  # or all of them are kept, to the end
                _member(packed, member, tree)
    finally:
        plain.unlink(missing_ok=True)


def _member(packed: tarfile.TarFile, member: tarfile.TarInfo, tree: _Tree) -> None:
    if member.issparse():
        raise Refused(
            f"The archive has the file “{shown(member.name)}” with holes, which is not unpacked. Pack it anew."
        )
    if member.isdir():
        tree.folder(member.name)
    elif member.issym():
        tree.link(member.name, member.linkname)
    elif member.isreg():
        with cast("BinaryIO", packed.extractfile(member)) as content:  # of a regular file there is always one
            tree.file(member.name, content, executable=bool(member.mode & stat.S_IXUSR))
    else:
        raise _odd(member.name)


def _odd(name: str) -> Refused:
    return Refused(
        f"The archive has “{shown(name)}”, which is no file, folder or symbolic link, but a hard link, a device or a pipe. Put a file there."
    )


class _Decompressor(Protocol):
    """What `bz2` and `lzma` have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def _decompress(archive: Path, kind: str, plain: Path, tree: _Tree) -> None:
    """Into a file of its own, which counts like what comes out of it in the end."""
    whole = Budget(tree.budget.limit, tree.budget.what, tree.budget.stop, slack=_ALWAYS_FINE)
    counted = _Tree(tree.root, whole, tree.places, tree.packed)
    with archive.open("rb") as source, plain.open("wb") as target:
        parts = _gunzipped(source) if kind == "gz" else _decompressed(source, kind)
        for part in parts:
            counted.count(len(part), len(part))
            target.write(part)


def _gunzipped(source: BinaryIO) -> Generator[bytes]:
    with gzip.GzipFile(fileobj=source) as file, _damage_told():
        while part := file.read(_CHUNK):
            yield part


def _decompressed(source: BinaryIO, kind: str) -> Generator[bytes]:
    """One stream after the other, as their programs write them where they are joined."""

    def fresh() -> _Decompressor:
        return bz2.BZ2Decompressor() if kind == "bz2" else lzma.LZMADecompressor(memlimit=_XZ_MEMORY)

    stream = fresh()
    data = b""
    with _damage_told():
        while True:
            if stream.eof:
                data = stream.unused_data or source.read(_CHUNK)
                if not data.strip(b"\0"):
                    return
                stream = fresh()
            elif stream.needs_input:
                data = source.read(_CHUNK)
                if not data:
                    raise EOFError
            else:
                data = b""
            yield stream.decompress(data, _CHUNK)


@contextmanager
def _damage_told() -> Generator[None]:
    """gzip and bzip2 tell of damage by an `OSError`, which has no number, unlike those of the disk."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise EOFError from error
