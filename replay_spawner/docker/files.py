"""Files of features in a container, by the engine's archives: before its start and while it runs.

The engine follows the container's own links, and only inside it; so nothing here can reach this machine's files.
"""

import io
import os
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from docker.errors import NotFound

from replay_spawner.features.base import SessionFile
from replay_spawner.features.places import path_in_session

_CHUNK = 1024 * 1024

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


def is_there(client: Any, container: str, path: str) -> bool:
    """Whether a container has anything of that name. Raises as docker-py does."""
    try:
        chunks, _ = client.get_archive(container, path)
    except NotFound:
        return False
    chunks.close()
    return True


def put_folder(
    client: Any, container: str, source: Path, folder: str, owner: int, has_ended: Callable[[], bool]
) -> None:
    """Put a folder of this machine into a container as ``folder``, all of it ``owner``'s; what that is in has to be there.

    Links are links there, too, wherever they lead. Raises as docker-py does, `OSError`, and `EOFError` once it ``has_ended``.
    """
    there, _, name = folder.rpartition("/")
    reading, writing = os.pipe()
    packer = ThreadPoolExecutor(1, thread_name_prefix="packing")
    with os.fdopen(reading, "rb") as packed:
        packing = packer.submit(_pack, writing, source, name, owner)
        packer.shutdown(wait=False)

        def chunks() -> Iterator[bytes]:
            while chunk := packed.read(_CHUNK):
                if has_ended():
                    raise EOFError(f"{container} is not wanted any more")
                yield chunk
            packing.result()

        client.put_archive(container, there, chunks())


def _pack(writing: int, source: Path, name: str, owner: int) -> None:
    """In whatever depth."""

    def owned(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = owner
        member.uname = member.gname = ""
        member.mode |= 0o700 if member.isdir() else 0o600
        return member

    # Whoever reads may have given up, which is told where it reads.
    with suppress(BrokenPipeError), os.fdopen(writing, "wb") as out, tarfile.open(fileobj=out, mode="w|") as archive:
        waiting = [(source, name)]
        while waiting:
            path, its_name = waiting.pop()
            archive.add(path, its_name, recursive=False, filter=owned)
            if path.is_dir() and not path.is_symlink():
                waiting.extend((one, f"{its_name}/{one.name}") for one in path.iterdir())


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
