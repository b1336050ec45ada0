"""Software Heritage's archive, by its API (https://archive.softwareheritage.org/api/1/, https://docs.softwareheritage.org/devel/swh-web/).

Whatever an SWHID names is resolved to a directory, or to one file's content, and that is what is pinned: its name is computed from all that
is in it (https://www.swhid.org/specification/v1.1/), so it stands for the same files forever. The files come from the vault, which packs a
directory when it is asked to: file by file would take a request for each, of which anybody has 120 an hour
(https://archive.softwareheritage.org/api/#rate-limiting). What comes is compared with the name, whoever sent it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pydantic import BaseModel, Field, RootModel

from replay_build_service.errors import BadLink, RefNotFound, RepositoryNotFound, SourceFault
from replay_build_service.sources.asking import Asker
from replay_build_service.sources.base import Record, RemoteFile
from replay_build_service.sources.swh_check import Checked, DirectoryEntry, check

__all__ = ["SoftwareHeritage"]

_SWHID = re.compile(r"swh:1:(?P<kind>cnt|dir|rev|rel|snp):(?P<id>[0-9a-f]{40})")
_BRANCHES = ("HEAD", "refs/heads/main", "refs/heads/master")
"""Which of a snapshot's branches is meant, the first that it has."""
_MAX_STEPS = 6
"""From what is named to a directory: aliases, releases of releases."""
_PACKING_SECONDS = 420.0
"""For which a fetch waits. The vault goes on when nobody does, so that a later one finds all of it."""
_CONTENT_NAME = "content"
"""Of a single file: an SWHID of a content says no name."""

_Kind = Literal["content", "directory", "revision", "release", "snapshot"]


class _Resolved(BaseModel):
    object_type: str


class _Revision(BaseModel):
    directory: str = Field(pattern=r"^[0-9a-f]{40}$")


class _Target(BaseModel):
    target: str | None = Field(default=None, max_length=4096)
    target_type: str | None = None


class _Release(_Target):
    name: str | None = None


class _Snapshot(BaseModel):
    branches: dict[str, _Target | None]


class _Checksums(BaseModel):
    sha256: str = Field(default="", pattern=r"^(|[0-9a-f]{64})$")


class _Content(BaseModel):
    checksums: _Checksums = Field(default_factory=_Checksums)
    length: int | None = Field(default=None, ge=0)
    status: str = "visible"


class _Cooking(BaseModel):
    status: Literal["new", "pending", "done", "failed"]


class _Directory(RootModel[list[DirectoryEntry]]):
    pass


@dataclass(frozen=True, slots=True)
class SoftwareHeritage:
    """`RecordSource`, and `PreparingSource`, of Software Heritage's archive at ``site``.

    ``pause``: seconds between two looks at what the vault packs, at first; they grow.
    """

    site: str = "https://archive.softwareheritage.org"
    pause: float = 2.0

    @property
    def name(self) -> str:
        """As it stands in links."""
        return "swh"

    async def find(self, ask: Asker, locator: str, version: str | None) -> Record:
        """See `RecordSource.find`. The version is the directory's own name, or the content's."""
        match = _SWHID.fullmatch(locator)
        if match is None:
            raise BadLink(
                "That is no SWHID. One reads swh:1:rev: and 40 hexadecimal digits (or dir, rel, snp, cnt for rev)."
            )
        record = await self._resolved(ask, locator, match["kind"], match["id"])
        if version not in {None, record.version}:
            raise RefNotFound(f"{locator} names the directory {record.version}, and not {version}.", (record.pinned,))
        return record

    async def listed(self, ask: Asker, api_url: str) -> Record:
        """See `RecordSource.listed`."""
        pattern = re.escape(self.site) + r"/api/1/(directory/|content/sha1_git:)([0-9a-f]{40})/"
        match = re.fullmatch(pattern, api_url)
        if match is None:
            raise BadLink("That is no address of a directory or a content of Software Heritage.")
        if match[1] == "directory/":
            return self._directory(match[2], "")
        return await self._content(ask, match[2], "")

    async def prepare(self, ask: Asker, record: Record, say: Callable[[str], None]) -> None:
        """See `PreparingSource.prepare`: the vault packs a directory (https://docs.softwareheritage.org/devel/swh-vault/getting-started.html)."""
        if not record.content.startswith("swh:1:dir:"):
            return
        url = f"{self.site}/api/1/vault/flat/{record.content}/"
        missing = f"Software Heritage does not have the directory {record.content}."
        answer = await ask.json(url, _Cooking, missing=missing, body={})
        pause, waited = self.pause, 0.0
        if answer.status != "done":
            say("Software Heritage packs the files, which takes some minutes the first time.")
        while answer.status in {"new", "pending"}:
            if waited >= _PACKING_SECONDS:
                raise SourceFault("Software Heritage is still packing the files. Open the link again in some minutes.")
            await asyncio.sleep(pause)
            waited, pause = waited + pause, min(pause * 1.5, 20.0)
            answer = await ask.json(url, _Cooking, missing=missing)
        if answer.status == "failed":
            raise SourceFault("Software Heritage could not pack the files. Try again later.")

    async def verify(self, ask: Asker, record: Record, folder: Path, say: Callable[[str], None]) -> None:
        """See `PreparingSource.verify`. Whatever the vault left out or replaced by a note is noticed here."""
        missing = "Software Heritage does not list all folders of the directory."

        async def entries(directory: str) -> list[DirectoryEntry]:
            return (await ask.json(f"{self.site}/api/1/directory/{directory}/", _Directory, missing=missing)).root

        checked: Checked = await check(record.content, folder, _CONTENT_NAME, entries)
        if checked.submodules:
            say(f"The folders of other repositories stay empty: {', '.join(checked.submodules[:5])}.")

    async def _resolved(self, ask: Asker, locator: str, kind: str, number: str) -> Record:
        full: dict[str, _Kind] = {
            "cnt": "content", "dir": "directory", "rev": "revision", "rel": "release", "snp": "snapshot"
        }  # fmt: skip
        now, title = full[kind], ""
        missing = f"Software Heritage has no {now} {locator}. Check it, or have its repository archived first."
        for _ in range(_MAX_STEPS):
            if now == "content":
                return await self._content(ask, number, locator)
            if now == "directory":
                if kind == "dir":  # of all others the archive has just said that it has it
                    await ask.json(f"{self.site}/api/1/resolve/swh:1:dir:{number}/", _Resolved, missing=missing)
                return self._directory(number, locator, title)
            if now == "revision":
                revision = await ask.json(f"{self.site}/api/1/revision/{number}/", _Revision, missing=missing)
                now, number = "directory", revision.directory
                continue
            if now == "release":
                release = await ask.json(f"{self.site}/api/1/release/{number}/", _Release, missing=missing)
                target, title = release, release.name or ""
            else:
                target = await self._branch(ask, number, missing)
            found = target.target_type
            if found not in {"content", "directory", "revision", "release", "snapshot"} or not re.fullmatch(
                r"[0-9a-f]{40}", target.target or ""
            ):
                break
            now, number = next(one for one in full.values() if one == found), target.target or ""
        raise RepositoryNotFound(f"{locator} leads to no files that Software Heritage has.")

    async def _branch(self, ask: Asker, snapshot: str, missing: str) -> _Target:
        """What a snapshot's main branch is (https://docs.softwareheritage.org/devel/swh-web/uri-scheme-api-snapshot.html)."""
        for first in _BRANCHES:
            name = first
            for _ in range(_MAX_STEPS):
                query = f"branches_from={quote(name, safe='')}&branches_count=1"
                url = f"{self.site}/api/1/snapshot/{snapshot}/?{query}"
                target = (await ask.json(url, _Snapshot, missing=missing)).branches.get(name)
                if target is None or target.target_type != "alias":
                    break
                name = target.target or ""
            else:
                target = None
            if target is not None:
                return target
        raise RepositoryNotFound(f"The snapshot swh:1:snp:{snapshot} has no main branch. Name a revision of it.")

    def _directory(self, number: str, asked: str, title: str = "") -> Record:
        swhid = f"swh:1:dir:{number}"
        # What it is packed in is made anew at any time, so neither its size nor a checksum of it is known.
        packed = RemoteFile(f"{swhid.replace(':', '_')}.tar.gz", f"{self.site}/api/1/vault/flat/{swhid}/raw/")
        return Record(
            source=self.name,
            api_url=f"{self.site}/api/1/directory/{number}/",
            version=number,
            identity=f"{self.site}/{swhid}",
            page=f"{self.site}/{asked or swhid}",
            files=(packed,),
            title=title,
            content=swhid,
        )

    async def _content(self, ask: Asker, number: str, asked: str) -> Record:
        swhid = f"swh:1:cnt:{number}"
        missing = f"Software Heritage has no content {swhid}."
        # https://docs.softwareheritage.org/devel/swh-web/uri-scheme-api-content.html
        address = f"{self.site}/api/1/content/sha1_git:{number}/"
        about = await ask.json(address, _Content, missing=missing)
        if about.status != "visible":
            raise RepositoryNotFound(f"Software Heritage knows the content {swhid} and does not give it out.")
        checksum = f"sha256:{about.checksums.sha256}" if about.checksums.sha256 else ""
        return Record(
            source=self.name,
            api_url=address,
            version=number,
            identity=f"{self.site}/{swhid}",
            page=f"{self.site}/{asked or swhid}",
            files=(RemoteFile(_CONTENT_NAME, f"{address}raw/", about.length, checksum),),
            content=swhid,
        )
