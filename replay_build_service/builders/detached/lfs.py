"""Files that a repository keeps in Git LFS, where the administrator allows some bytes of them: in the place of their pointers.

The batch API (https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md, transfer “basic”) of the repository's own server is asked,
which `.lfsconfig` cannot change, without an account. Where files are to be had is the server's word: each address is one that the
rules allow, or all stay pointers. What comes is compared with the SHA-256 in the pointer, which the commit holds.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pydantic import BaseModel, ValidationError

from replay_build_service.builders.detached.failures import Unbuildable, size
from replay_build_service.domain import FailureReason
from replay_build_service.errors import BadLink, OriginRefused, ReplayError, SourceFault
from replay_build_service.outgoing import Origin, OutgoingRules, admit
from replay_build_service.outgoing_http import PACKED, TooLongAnswer, UnreadableAnswer, guarded_client, read_bounded
from replay_build_service.sources.base import RemoteFile
from replay_build_service.sources.downloading import Downloader
from replay_build_service.sources.paths import shown
from replay_build_service.sources.unpacking import LEAST, Budget

__all__ = ["fill_in_lfs"]

MAX_FILES = 10_000
"""Pointers of a repository. With more, none is followed."""
_AT_ONCE = 100
"""Objects of one question, as git-lfs asks."""
_MAX_ANSWER = 2_000_000
"""Bytes of an answer about so many objects."""
_ANSWER_SECONDS = 20.0

# https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md: fewer than 1024 bytes, “version” first.
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-[^\n]*\n)*oid sha256:(?P<oid>[0-9a-f]{64})\nsize (?P<size>[0-9]{1,15})\n?"
)
_MOST_OF_A_POINTER = 1024
_LEAST_OF_A_POINTER = 120
_MEDIA_TYPE = "application/vnd.git-lfs+json"


class _Download(BaseModel):
    href: str


class _Actions(BaseModel):
    download: _Download | None = None


class _Object(BaseModel):
    oid: str
    actions: _Actions = _Actions()
    error: dict[str, Any] | None = None


class _Batch(BaseModel):
    objects: list[_Object]


@dataclass(frozen=True, slots=True)
class _Pointer:
    path: Path
    oid: str
    size: int


async def fill_in_lfs(url: str, folder: Path, rules: OutgoingRules, say: Callable[[str], None]) -> None:
    """Of a commit that is checked out in ``folder`` and came from ``url``. ``say``: into the build's log.

    Raises `Unbuildable` where a file that may be asked for cannot be had, and `OSError` where the disk fails.
    """
    pointers = await asyncio.to_thread(lambda: list(_pointers(folder)))
    if not pointers:
        return
    total = sum(pointer.size for pointer in pointers)
    kept = f"Git LFS keeps {len(pointers):,} of the repository's files, {size(total)} together."
    if rules.lfs_limit == 0:
        say(f"{kept} They are not fetched: pointers are in their places.")
    elif total > rules.lfs_limit or len(pointers) > MAX_FILES:
        most = f"At most {size(rules.lfs_limit)} and {MAX_FILES:,} files are fetched here"
        say(f"{kept} {most}, so none is: pointers are in their places.")
    else:
        say(f"{kept} They are fetched, too.")
        try:
            await _fill_in(url, folder, pointers, rules, say)
        except ReplayError as error:
            told = f"A file that is kept in Git LFS cannot be had. {error.sentence}"
            raise Unbuildable(FailureReason.FETCH, told) from error


def _pointers(folder: Path) -> Iterator[_Pointer]:
    """Every one in the folder, but for those of submodules, whose servers are others. Blocking.

    Nothing where no file of attributes speaks of LFS.
    """
    small: list[Path] = []
    speaks_of_lfs = False
    # One folder after the other: `os.walk` calls itself, and a tree may be deeper than calls may be.
    folders = [str(folder)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name != ".git" and not os.path.exists(f"{entry.path}/.git"):
                        folders.append(entry.path)
                elif not entry.is_file(follow_symlinks=False):
                    continue
                elif entry.name == ".gitattributes":
                    with open(entry.path, "rb") as attributes:
                        speaks_of_lfs = speaks_of_lfs or b"filter=lfs" in attributes.read(1_000_000)
                elif _LEAST_OF_A_POINTER <= entry.stat(follow_symlinks=False).st_size < _MOST_OF_A_POINTER:
                    small.append(Path(entry.path))
    for path in small if speaks_of_lfs else ():
        if (match := _POINTER.fullmatch(path.read_bytes())) is not None:
            yield _Pointer(path, match["oid"].decode(), int(match["size"]))


async def _fill_in(
    url: str, folder: Path, pointers: Sequence[_Pointer], rules: OutgoingRules, say: Callable[[str], None]
) -> None:
    by_oid = {pointer.oid: pointer for pointer in pointers}
    addresses = await _where(url, list(by_oid.values()), rules)
    try:
        for address in addresses.values():
            admit(address, rules)
    except (BadLink, OriginRefused) as error:
        say(f"What is kept in Git LFS is not fetched: pointers are in its places. {error.sentence}")
        return
    async with Downloader(rules, Budget(rules.lfs_limit + LEAST * len(pointers))) as downloader:
        for pointer in pointers:
            # In git's own folder nothing of the repository's can be in the way.
            incoming = folder / ".git" / "replay-lfs"
            name = str(pointer.path.relative_to(folder))
            file = RemoteFile(name, addresses[pointer.oid], pointer.size, f"sha256:{pointer.oid}")
            await downloader.download(file, incoming)
            incoming.chmod(pointer.path.stat().st_mode & 0o777)
            incoming.replace(pointer.path)


async def _where(url: str, pointers: Sequence[_Pointer], rules: OutgoingRules) -> Mapping[str, str]:
    """From each object to where it is to be had. Raises `SourceFault`, and `OriginRefused`."""
    found: dict[str, str] = {}
    async with guarded_client(rules, timeout=_ANSWER_SECONDS) as client:
        for start in range(0, len(pointers), _AT_ONCE):
            asked = pointers[start : start + _AT_ONCE]
            found |= _given(await _ask(client, url, asked), asked, Origin.of_url(url).host)
    return found


def _given(answer: _Batch, asked: Sequence[_Pointer], host: str) -> dict[str, str]:
    """Of what was asked for, and of nothing else that the answer may have, where each is. Raises `SourceFault` where one is not."""
    given = {
        one.oid: one.actions.download.href
        for one in answer.objects
        if one.actions.download is not None and one.error is None
    }
    for pointer in asked:
        if pointer.oid not in given:
            raise SourceFault(f"{host} does not have “{shown(pointer.path.name)}” to give.")
    return {pointer.oid: given[pointer.oid] for pointer in asked}


async def _ask(client: httpx.AsyncClient, url: str, asked: Sequence[_Pointer]) -> _Batch:
    """The repository's own server (https://github.com/git-lfs/git-lfs/blob/main/docs/api/server-discovery.md)."""
    host = Origin.of_url(url).host
    address = f"{url.rstrip('/').removesuffix('.git')}.git/info/lfs/objects/batch"
    question = {
        "operation": "download",
        "transfers": ["basic"],
        "objects": [{"oid": pointer.oid, "size": pointer.size} for pointer in asked],
        "hash_algo": "sha256",
    }
    headers = {"Accept": _MEDIA_TYPE, "Content-Type": _MEDIA_TYPE, **PACKED}
    try:
        async with (
            asyncio.timeout(_ANSWER_SECONDS),
            client.stream("POST", address, json=question, headers=headers) as response,
        ):
            if response.status_code != 200:
                raise SourceFault(f"{host} does not give its files (status {response.status_code}). Try again later.")
            content = await read_bounded(response, _MAX_ANSWER)
        return _Batch.model_validate_json(content)
    except TooLongAnswer as error:
        raise SourceFault(f"{host} answered with too much about its files. Try again later.") from error
    except (httpx.HTTPError, TimeoutError) as error:
        raise SourceFault(f"{host} could not be asked for its files. Try again later.") from error
    except (UnreadableAnswer, ValidationError) as error:
        raise SourceFault(f"{host} answered about its files with something that was not understood.") from error
