"""Git's names for files and folders, computed from what lies on disk. Standard library only; blocking.

The names are SHA-1 sums over a header and the content (https://git-scm.com/book/en/v2/Git-Internals-Git-Objects), and Software Heritage's
SWHIDs are the same ones (https://www.swhid.org/specification/v1.1/5.Core_identifiers/). SHA-1 is what they are, weak as it is.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["EXECUTABLE", "FILE", "FOLDER", "LINK", "SUBMODULE", "Folder", "blob_of", "read_folder", "tree_of"]

FILE, EXECUTABLE, LINK, FOLDER, SUBMODULE = 0o100644, 0o100755, 0o120000, 0o040000, 0o160000
"""The modes of a tree's entries."""

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Folder:
    """What lies in one folder."""

    id: str
    """Git's name of it, 40 hexadecimal digits."""
    entries: Mapping[bytes, tuple[int, str]]
    """By their names: mode and id."""
    folders: Mapping[bytes, Folder]
    """Those of the entries that are folders."""


def tree_of(entries: Iterable[tuple[bytes, int, str]]) -> str:
    """Git's name of a folder with these entries: name, mode, id. They are sorted here."""
    body = b"".join(
        b"%o %s\0%s" % (mode, name, bytes.fromhex(number))
        for name, mode, number in sorted(entries, key=lambda one: one[0] + (b"/" if one[1] == FOLDER else b""))
    )
    return _sum(b"tree %d\0" % len(body), [body])


def blob_of(path: Path) -> str:
    """Git's name of a file's content; of a symbolic link's, that of the path that it holds."""
    if path.is_symlink():
        target = os.readlink(os.fsencode(path))
        return _sum(b"blob %d\0" % len(target), [target])
    with path.open("rb") as file:
        header = b"blob %d\0" % os.fstat(file.fileno()).st_size
        return _sum(header, iter(lambda: file.read(_CHUNK), b""))


def read_folder(path: Path) -> Folder:
    """All that is below a folder. As deep as it is, so its depth must be bounded already. Follows no link."""
    entries: dict[bytes, tuple[int, str]] = {}
    folders: dict[bytes, Folder] = {}
    with os.scandir(path) as found:
        for entry in found:
            name, place = os.fsencode(entry.name), Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                folders[name] = read_folder(place)
                entries[name] = FOLDER, folders[name].id
            elif entry.is_symlink():
                entries[name] = LINK, blob_of(place)
            else:
                executable = entry.stat(follow_symlinks=False).st_mode & stat.S_IXUSR
                entries[name] = EXECUTABLE if executable else FILE, blob_of(place)
    return Folder(tree_of((name, mode, number) for name, (mode, number) in entries.items()), entries, folders)


def _sum(header: bytes, parts: Iterable[bytes]) -> str:
    digest = hashlib.sha1(header, usedforsecurity=False)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
