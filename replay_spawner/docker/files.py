"""Files of features in a container, by the engine's archives: before its start and while it runs.

The engine follows the container's own links, and only inside it; so nothing here can reach this machine's files.
"""

import io
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from docker.errors import NotFound

from replay_spawner.features.base import SessionFile
from replay_spawner.features.places import path_in_session

MOST_BYTES = 2 * 1024 * 1024
"""Of a file that is read back."""


def put(client: Any, container: str, files: Sequence[SessionFile], home: str, owner: int) -> None:
    """Put files into a container, folder after folder; secret ones are their ``owner``'s alone. Raises as docker-py does."""
    folders: dict[str, list[SessionFile]] = {}
    for file in files:
        if file.content is not None and not file.container:
            folders.setdefault(path_in_session(file, home).rpartition("/")[0] or "/", []).append(file)
    for folder, its_files in folders.items():
        _put_in(client, container, folder, its_files, owner)


def _put_in(client: Any, container: str, folder: str, files: Sequence[SessionFile], owner: int) -> None:
    """Folders that are not there are made, from the deepest that is: one that is a link stays a link."""
    there, parts = folder, list[str]()
    while True:
        try:
            client.put_archive(container, there, _archive(parts, files, owner))
        except NotFound as error:
            if there == "/" or "no such container" in str(error.explanation).lower():
                raise
            there, _, part = there.rpartition("/")
            there, parts = there or "/", [part, *parts]
        else:
            return


def put_folder(client: Any, container: str, source: Path, folder: str, owner: int) -> None:
    """Put a folder of this machine into a container as ``folder``, all of it ``owner``'s. Raises as docker-py does, and `OSError`.

    Links are links there, too, wherever they lead.
    """
    there, _, name = folder.rpartition("/")
    parts = [name]
    with tempfile.TemporaryFile() as packed:
        while True:
            packed.seek(0)
            packed.truncate()
            _pack(packed, source, parts, owner)
            packed.seek(0)
            try:
                client.put_archive(container, there or "/", packed)
            except NotFound as error:
                if there in {"", "/"} or "no such container" in str(error.explanation).lower():
                    raise
                there, _, part = there.rpartition("/")
                parts = [part, *parts]
            else:
                return


def _pack(packed: IO[bytes], source: Path, parts: Sequence[str], owner: int) -> None:
    """In whatever depth, which is up to whoever made the folder."""

    def owned(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = owner
        member.uname = member.gname = ""
        member.mode |= 0o700 if member.isdir() else 0o600
        return member

    with tarfile.open(fileobj=packed, mode="w") as archive:
        for depth in range(1, len(parts)):
            _add(archive, "/".join(parts[:depth]), None, 0o755, owner)
        waiting = [(source, "/".join(parts))]
        while waiting:
            path, name = waiting.pop()
            archive.add(path, name, recursive=False, filter=owned)
            if path.is_dir() and not path.is_symlink():
                waiting.extend((one, f"{name}/{one.name}") for one in path.iterdir())


def _archive(folders: Sequence[str], files: Sequence[SessionFile], owner: int) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for depth in range(1, len(folders) + 1):
            _add(archive, "/".join(folders[:depth]), None, 0o755, owner)
        for file in files:
            name = "/".join([*folders, file.name])
            _add(archive, name, file.content, 0o400 if file.is_secret else 0o644, owner)
    return packed.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes | None, mode: int, owner: int) -> None:
    member = tarfile.TarInfo(name)
    member.mode, member.uid, member.gid, member.mtime = mode, owner, owner, int(time.time())
    if content is None:
        member.type = tarfile.DIRTYPE
        archive.addfile(member)
    else:
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))


def content_of(client: Any, container: str, path: str) -> bytes | None:
    """A file of a container; none where there is none, or something else. Raises as docker-py does."""
    try:
        chunks, _ = client.get_archive(container, path)
    except NotFound:
        return None
    packed = b""
    for chunk in chunks:
        packed += chunk
        if len(packed) > MOST_BYTES:
            return None
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        member = archive.next()
        content = archive.extractfile(member) if member is not None and member.isfile() else None
        return content.read() if content is not None else None
