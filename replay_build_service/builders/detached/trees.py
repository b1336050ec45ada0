"""The digest that names an environment on disk, making it read-only, removing it.

Repositories and builds make trees of any depth, so nothing here calls itself from level to level.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

_LEFT_OUT_ANYWHERE = frozenset({"__pycache__"})
"""Made from the sources beside it, and checked against them by Python at each import."""

_LEFT_OUT_AT_TOP = frozenset({".git"})
"""Kept, so that ``git log`` works in a session, but git changes its own files as it likes. The commit names the sources."""


def tree_digest(base: Path, names: Sequence[str]) -> str:
    """Hexadecimal SHA-256 over the trees ``names`` below ``base``: each path with its kind, its execute bit and its content.

    Times and owners do not count. Raises `OSError`.
    """
    digest = hashlib.sha256()
    for name in sorted(names):
        for path, entry in _entries(base / name, name):
            digest.update(f"{len(os.fsencode(path))}:".encode() + os.fsencode(path))
            if entry.is_symlink():
                target = os.fsencode(os.readlink(entry.path))
                digest.update(b"l%d:" % len(target) + target)
            elif entry.is_dir():
                digest.update(b"d")
            elif entry.is_file():
                status = entry.stat()
                kind = b"x" if status.st_mode & stat.S_IXUSR else b"f"
                digest.update(kind + _content_digest(entry.path))
            else:
                digest.update(b"?")  # A socket or a pipe that a build left: there, without content.
    return digest.hexdigest()


def _content_digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _entries(folder: Path, name: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """All below a folder, each folder before what is in it; a stack, since a tree may be deeper than calls may nest."""
    levels = [(name, iter(_sorted_entries(folder, _LEFT_OUT_ANYWHERE | _LEFT_OUT_AT_TOP)))]
    while levels:
        above, entries = levels[-1]
        entry = next(entries, None)
        if entry is None:
            levels.pop()
            continue
        path = f"{above}/{entry.name}"
        yield path, entry
        if entry.is_dir(follow_symlinks=False):
            levels.append((path, iter(_sorted_entries(entry.path, _LEFT_OUT_ANYWHERE))))


def _sorted_entries(folder: Path | str, left_out: frozenset[str]) -> list[os.DirEntry[str]]:
    kept = (entry for entry in _entries_of(folder) if entry.name not in left_out)
    return sorted(kept, key=lambda entry: os.fsencode(entry.name))


def _entries_of(folder: Path | str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as found:
        return list(found)


def is_deeper(folder: Path, levels: int) -> bool:
    """Whether folders lie in folders more than ``levels`` deep below ``folder``. Raises `OSError`."""
    waiting: list[tuple[Path | str, int]] = [(folder, 0)]
    while waiting:
        current, depth = waiting.pop()
        for entry in _entries_of(current):
            if entry.is_dir(follow_symlinks=False):
                if depth == levels:
                    return True
                waiting.append((entry.path, depth + 1))
    return False


def sizes_in(folder: Path) -> Iterator[int]:
    """Bytes on disk of each file, folder and link below ``folder``. What goes meanwhile is left out. Raises `OSError` for all else."""
    waiting: list[Path | str] = [folder]
    while waiting:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    yield entry.stat(follow_symlinks=False).st_blocks * 512


def protect_tree(folder: Path, *, also_from_owner: bool) -> None:
    """Takes the right to write from group and others, and with ``also_from_owner`` from everybody. Raises `OSError`."""
    removed = stat.S_IWGRP | stat.S_IWOTH | (stat.S_IWUSR if also_from_owner else 0)
    _take_rights(folder, os.lstat(folder).st_mode, removed)
    waiting: list[Path | str] = [folder]
    while waiting:
        for entry in _entries_of(waiting.pop()):
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            _take_rights(entry.path, entry.stat(follow_symlinks=False).st_mode, removed)


def _take_rights(path: Path | str, mode: int, removed: int) -> None:
    if not stat.S_ISLNK(mode) and mode & removed:
        os.chmod(path, stat.S_IMODE(mode) & ~removed)


def remove_tree(folder: Path) -> None:
    """Removes a folder with all below it, whatever is read-only in it; nothing where it is not there. Raises `OSError`.

    Folders in it are moved up to its top one after the other, rather than walked down to: a tree may be deeper than
    calls may nest, and its paths longer than the system takes them. After an error, the rest can be removed like any
    other folder.
    """
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink()
        return
    os.chmod(folder, stat.S_IRWXU)
    run = secrets.token_hex(8)  # What is moved up must not meet what is there already.
    moved = 0
    while entries := _entries_of(folder):
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            os.chmod(entry.path, stat.S_IRWXU)
            for inner in _entries_of(entry.path):
                if inner.is_dir(follow_symlinks=False):
                    os.chmod(inner.path, stat.S_IRWXU)  # A folder that is read-only cannot be moved.
                    moved += 1
                    os.rename(inner.path, folder / f"{run}-{moved}")
                else:
                    os.unlink(inner.path)
            os.rmdir(entry.path)
    os.rmdir(folder)
