"""The digest that names an environment on disk, and making the environment read-only."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
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


def _entries(folder: Path, name: str, at_top: bool = True) -> Iterator[tuple[str, os.DirEntry[str]]]:
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
    for entry in entries:
        if entry.name in _LEFT_OUT_ANYWHERE or (at_top and entry.name in _LEFT_OUT_AT_TOP):
            continue
        path = f"{name}/{entry.name}"
        yield path, entry
        if entry.is_dir(follow_symlinks=False):
            yield from _entries(Path(entry.path), path, at_top=False)


def protect_tree(folder: Path, *, also_from_owner: bool) -> None:
    """Takes the right to write from group and others, and with ``also_from_owner`` from everybody. Raises `OSError`."""
    removed = stat.S_IWGRP | stat.S_IWOTH | (stat.S_IWUSR if also_from_owner else 0)
    for current, _, files in os.walk(folder):
        for path in (current, *(os.path.join(current, file) for file in files)):
            mode = os.lstat(path).st_mode
            if not stat.S_ISLNK(mode) and mode & removed:
                os.chmod(path, stat.S_IMODE(mode) & ~removed)


def remove_tree(folder: Path) -> None:
    """Removes a folder with all below it, whatever is read-only in it; nothing where it is not there. Raises `OSError`."""
    if not os.path.lexists(folder):
        return
    os.chmod(folder, stat.S_IRWXU)
    for current, folders, _ in os.walk(folder, onerror=_raise):
        for name in folders:
            if not os.path.islink(path := os.path.join(current, name)):
                os.chmod(path, stat.S_IRWXU)
    for current, folders, files in os.walk(folder, topdown=False):
        for file in files:
            os.unlink(os.path.join(current, file))
        for name in folders:
            path = os.path.join(current, name)
            os.unlink(path) if os.path.islink(path) else os.rmdir(path)
    os.rmdir(folder)


def _raise(error: OSError) -> None:
    raise error
