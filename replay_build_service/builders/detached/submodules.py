"""Submodules of a commit that is checked out, where the administrator has them fetched: each exactly at the commit that is pinned.

git's own ``submodule`` command is not used: it would ask what it is told to by files of a stranger. Here the repository's file gives
addresses alone, and each is asked as the repository itself is, by `git.fetch_commit`: vetted, redirects looked at, over HTTPS from
the hosts that the administrator allows. One that may not be asked by those rules stays empty, and the log says so; one that may
be and cannot be had ends the build, so that no image lacks it by chance.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from replay_build_service.builders.detached.failures import Unbuildable
from replay_build_service.domain import FailureReason
from replay_build_service.errors import BadLink, OriginRefused, ReplayError
from replay_build_service.git import fetch_commit
from replay_build_service.git_process import run_local
from replay_build_service.outgoing import OutgoingRules, admit
from replay_build_service.sources.paths import shown

__all__ = ["fetch_submodules"]

MAX_SUBMODULES = 50
"""Of a repository and its submodules together. Each is a fetch of its own."""
MAX_DEPTH = 5
"""Submodules of submodules; also what ends those that contain themselves."""

_OF_SUBMODULE = re.compile(r"submodule\.(?P<name>.+)\.(?P<what>path|url)", re.DOTALL)
_GITLINK = re.compile(r"160000 commit (?P<commit>[0-9a-f]{40}|[0-9a-f]{64})\t")


@dataclass(frozen=True, slots=True)
class _Level:
    """A commit that is checked out, and whose submodules are looked for."""

    url: str
    version: str
    folder: Path
    name: str = ""
    """As the log calls it: where it is in the repository; empty for that itself."""
    depth: int = 0


async def fetch_submodules(
    url: str, version: str, folder: Path, rules: OutgoingRules, say: Callable[[str], None]
) -> None:
    """All of the commit that is checked out in ``folder`` and came from ``url``, and theirs. ``say``: into the build's log.

    Raises `Unbuildable` where there are too many, or one cannot be had.
    """
    fetched = 0
    levels = [_Level(url, version, folder)]
    while levels:
        level = levels.pop()
        for path, address in (await _addresses(level, say)).items():
            found = await _submodule(level, path, address, rules, say)
            if found is None:
                continue
            fetched += 1
            _refuse_too_many(fetched, found.depth)
            say(f"Fetching the submodule {found.name}: {found.url} at commit {found.version}.")
            try:
                await fetch_commit(found.url, found.version, found.folder, rules)
            except ReplayError as error:
                told = f"The submodule {shown(found.name)} cannot be had. {error.sentence}"
                raise Unbuildable(FailureReason.FETCH, told) from error
            levels.append(found)


def _refuse_too_many(fetched: int, depth: int) -> None:
    if fetched > MAX_SUBMODULES:
        raise Unbuildable(
            FailureReason.FETCH,
            f"The repository has more than {MAX_SUBMODULES} submodules, which is the limit here. "
            "Keep what few need elsewhere, and fetch it from the notebook.",
        )
    if depth > MAX_DEPTH:
        raise Unbuildable(
            FailureReason.FETCH,
            f"The repository has submodules in submodules, more than {MAX_DEPTH} levels deep, which is the limit here.",
        )


async def _submodule(
    level: _Level, path: str, address: str, rules: OutgoingRules, say: Callable[[str], None]
) -> _Level | None:
    """The one at that path, to be fetched; ``None`` where this commit has none there, or it may not be asked for."""
    name = f"{level.name}/{path}" if level.name else path
    listed = await run_local(
        level.folder, "--literal-pathspecs", "ls-tree", "-z", "--full-tree", level.version, "--", path
    )
    link = _GITLINK.match(listed or "")
    if link is None or not await asyncio.to_thread(_is_empty_folder, level.folder, path):
        return None
    try:
        url = _absolute(level.url, address)
        admit(url, rules)
    except (BadLink, OriginRefused) as error:
        say(f"The submodule {name} is not fetched, and its folder stays empty. {error.sentence}")
        return None
    return _Level(url, link["commit"], level.folder / path, name, level.depth + 1)


async def _addresses(level: _Level, say: Callable[[str], None]) -> dict[str, str]:
    """From path to address, as the commit's own ``.gitmodules`` has them, in the order of paths.

    Read from the commit and not from the folder, where it may be a link to another file.
    """
    blob = f"{level.version}:.gitmodules"
    listed = await run_local(level.folder, "config", "--blob", blob, "--null", "--list")
    if listed is None and await run_local(level.folder, "cat-file", "-e", blob) is not None:
        where = f" of {level.name}" if level.name else ""
        say(f"The file .gitmodules{where} cannot be read, or says too much. No submodule that it names is fetched.")
    return _read(listed or "")


def _read(listed: str) -> dict[str, str]:
    """What git lists of ``.gitmodules``: a key, a line's end and its value, each with a NUL behind it."""
    found: dict[str, dict[str, str]] = {}
    for entry in listed.split("\0"):
        key, _, value = entry.partition("\n")
        if (match := _OF_SUBMODULE.fullmatch(key)) is not None:
            found.setdefault(match["name"], {})[match["what"]] = value
    named = {one["path"]: one["url"] for one in found.values() if "path" in one and "url" in one}
    return {path: named[path] for path in sorted(named)}


def _is_empty_folder(folder: Path, path: str) -> bool:
    """As a checkout leaves the place of a submodule; nothing on the way there leads elsewhere."""
    place = folder / path
    return place.resolve() == folder.resolve() / path and place.is_dir() and not any(place.iterdir())


def _absolute(url: str, address: str) -> str:
    """An address in ``.gitmodules``, which may be relative to the repository's own (https://git-scm.com/docs/gitmodules).

    Raises `BadLink` for one that leads above the host.
    """
    if not address.startswith(("./", "../")):
        if "://" not in address:
            raise BadLink(f"“{shown(address)}” is no address over HTTPS.")
        return address
    parts = urlsplit(url)
    names = parts.path.strip("/").split("/")
    for step in address.rstrip("/").split("/"):
        if step == "..":
            if not names:
                raise BadLink(f"“{shown(address)}” leads out of {parts.netloc}.")
            names.pop()
        elif step not in {"", "."}:
            names.append(step)
    return urlunsplit((parts.scheme, parts.netloc, "/" + "/".join(names), "", ""))
