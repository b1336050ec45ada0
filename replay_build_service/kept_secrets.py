"""Secrets that are made at the first start and kept in files, for the service and for a hub's configuration.

Standard library only. A file is whole or not there: one that a full disk left empty must not open a door.
"""

import os
import re
import secrets
import tempfile
from pathlib import Path


class UnusableSecret(Exception):
    """A file does not hold the secret that it should. The message names it and says what to do."""


def kept_secret(path: Path, length: int = 32) -> bytes:
    """The secret of so many bytes that a file holds in hexadecimal; made where it is missing, for this account alone.

    Of several processes that make it at once, one wins and all have its secret. Raises `UnusableSecret` where the file
    holds something else, and `OSError` where it can be neither read nor made.
    """
    try:
        return _read(path, length)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _make(path, length)
        return _read(path, length)


def _read(path: Path, length: int) -> bytes:
    text = path.read_bytes().strip()
    if not re.fullmatch(rb"[0-9A-Fa-f]{%d}" % (2 * length), text):
        raise UnusableSecret(
            f"{path} does not hold a secret of {2 * length} hexadecimal digits. "
            "Restore it, or remove it to have another made at the next start."
        )
    return bytes.fromhex(text.decode())


def _make(path: Path, length: int) -> None:
    """Under another name first, so that the file has all of it from the moment it has its name."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(length))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            # Another process was a moment earlier: its secret is the one.
            return
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        os.unlink(temporary)
