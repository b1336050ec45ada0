"""Whether an image's user can write to what a session calls home; asked of a container that may not have run yet."""

import tarfile
from collections.abc import Iterator
from typing import Any

from docker.errors import NotFound


def is_closed(client: Any, container: str, home: str, user: int) -> bool:
    """Whether a folder's owner and mode keep that user from writing there. Raises as docker-py does.

    A folder that a group may write is taken for open, since whom the image puts into which group is not asked. So is one
    that is not there, or a link: the engine says what that is when the session runs.
    """
    if not home:
        return False
    try:
        chunks, _ = client.get_archive(container, home)
    except NotFound:
        return False
    folder = _first(iter(chunks))
    if folder is None or not folder.isdir():
        return False
    return not folder.mode & (0o222 if folder.uid == user else 0o022)


def closed(home: str) -> str:
    """What a person is told."""
    return (
        f"This image's home, {home}, cannot be written by its user: notebooks there can be read and run, and what is changed "
        "is not saved. Files can be kept in /tmp, which ends with the session."
    )


def _first(chunks: Iterator[bytes]) -> tarfile.TarInfo | None:
    """The folder itself, which comes before all that is in it."""
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= tarfile.BLOCKSIZE:
            break
    try:
        return tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None
