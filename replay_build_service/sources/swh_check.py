"""Whether what came is what an SWHID names, down to the last file.

A folder whose name, computed from what lies there, is the expected one needs no more. Where it is another, the archive's own list of that one
folder tells why, once the list itself has the expected name: another repository's place, which stays empty, or an old way to write a file's
mode, neither of which a folder on disk can show. Anything else is a fault.
"""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from replay_build_service.errors import SourceFault
from replay_build_service.sources.git_objects import (
    EXECUTABLE,
    FILE,
    FOLDER,
    LINK,
    SUBMODULE,
    Folder,
    blob_of,
    read_folder,
    tree_of,
)

__all__ = ["Checked", "DirectoryEntry", "check"]

_MAX_LISTS = 40
"""Folders whose list is asked for."""


class DirectoryEntry(BaseModel):
    """https://docs.softwareheritage.org/devel/swh-web/uri-scheme-api-directory.html"""

    name: str
    type: Literal["file", "dir", "rev"]
    target: str = Field(pattern=r"^[0-9a-f]{40}$")
    perms: int = Field(ge=0, le=0o177777)


@dataclass(slots=True)
class Checked:
    """What was noticed."""

    submodules: list[str] = field(default_factory=list[str])
    """The folders where other repositories would lie."""
    lists: int = 0


async def check(
    swhid: str, folder: Path, content_name: str, entries: Callable[[str], Awaitable[Sequence[DirectoryEntry]]]
) -> Checked:
    """Raises `SourceFault` where ``folder`` holds anything else. ``entries``: the archive's list of a directory, by its name."""
    checked = Checked()
    _, _, kind, expected = swhid.split(":")
    if kind == "cnt":
        if await asyncio.to_thread(blob_of, folder / content_name) != expected:
            raise _other(content_name)
        return checked
    await _compare("", expected, await asyncio.to_thread(read_folder, folder), folder, entries, checked)
    return checked


async def _compare(
    path: str,
    expected: str,
    there: Folder,
    folder: Path,
    entries: Callable[[str], Awaitable[Sequence[DirectoryEntry]]],
    checked: Checked,
) -> None:
    if there.id == expected:
        return
    checked.lists += 1
    if checked.lists > _MAX_LISTS:
        raise _other(path)
    listed = await entries(expected)
    if tree_of((one.name.encode(), one.perms, one.target) for one in listed) != expected:
        raise SourceFault("Software Heritage lists another directory than it was asked for. Try again later.")
    if {one.name.encode() for one in listed} != set(there.entries):
        raise _other(path)
    for one in listed:
        name = one.name.encode()
        mode, number = there.entries[name]
        below = f"{path}/{one.name}" if path else one.name
        if one.perms == SUBMODULE and mode == FOLDER and not there.folders[name].entries:
            checked.submodules.append(below)
        elif one.perms == FOLDER and mode == FOLDER:
            await _compare(below, one.target, there.folders[name], folder, entries, checked)
        elif number != one.target or (one.perms == LINK) != (mode == LINK) or mode == FOLDER:
            raise _other(below)
        elif mode in {FILE, EXECUTABLE} and (mode == EXECUTABLE) != bool(one.perms & stat.S_IXUSR):
            await asyncio.to_thread((folder / below).chmod, 0o755 if one.perms & stat.S_IXUSR else 0o644)


def _other(path: str) -> SourceFault:
    where = f" at “{path[:80]}”" if path else ""
    return SourceFault(
        f"What came from Software Heritage is not what the link names{where}: it does not have all of it, or something changed it on its way. "
        "Try again later."
    )
