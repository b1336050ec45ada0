"""Files below a folder whose content is a stranger's: written and read without ever following a link of theirs out of it."""

import errno
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

MOST_BYTES = 2 * 1024 * 1024
"""Of a file that is read back."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class NotOurs(Exception):
    """Something else stands where a file is to go. The text says what and where."""


def write_in(base: Path, path: str, content: bytes, mode: int) -> None:
    """Put a file at ``path`` below ``base``, all at once, in the place of the one that is there; folders are made as needed.

    Raises `NotOurs` where a part of the path is a link or a file, or the last one a folder, and `OSError`.
    """
    *folders, name = path.strip("/").split("/")
    base.mkdir(mode=0o700, exist_ok=True)
    with _folder_in(base, folders, make=True) as folder:
        interim = f".{name[:200]}.{secrets.token_hex(8)}"
        descriptor = os.open(
            interim, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=folder
        )
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, mode)
                file.write(content)
            os.rename(interim, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException as error:
            os.unlink(interim, dir_fd=folder)
            if isinstance(error, IsADirectoryError):
                raise NotOurs(f"{path} is a folder.") from error
            raise


def read_in(base: Path, path: str) -> bytes | None:
    """A file below ``base``; none where there is none, or a link, or what is no file, or one of more than `MOST_BYTES`."""
    *folders, name = path.strip("/").split("/")
    try:
        with _folder_in(base, folders, make=False) as folder:
            # Without O_NONBLOCK, a pipe would be waited at.
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            with os.fdopen(descriptor, "rb") as file:
                content = file.read(MOST_BYTES + 1)
                return content if len(content) <= MOST_BYTES else None
    except (OSError, NotOurs):
        return None


@contextmanager
def _folder_in(base: Path, folders: list[str], *, make: bool) -> Generator[int]:
    at = os.open(base, _FOLDER)
    try:
        for name in folders:
            if make:
                _make(name, at)
            try:
                deeper = os.open(name, _FOLDER, dir_fd=at)
            except OSError as error:
                if error.errno in {errno.ELOOP, errno.ENOTDIR}:
                    raise NotOurs(f"{name} in {base} is no folder.") from error
                raise
            os.close(at)
            at = deeper
        yield at
    finally:
        os.close(at)


def _make(name: str, at: int) -> None:
    with suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=at)
