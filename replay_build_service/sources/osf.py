"""OSF's projects, components and registrations, by its API (https://developer.osf.io, version 2).

A registration is frozen; a project changes, and OSF keeps older versions of its files, not of the project. So the version here is the moment
when a file was changed last, with the digest over the files; each file is fetched in the version that was listed. What is fetched is OSF's own
storage of that one project: not its components, which are projects themselves, and not what it shows of other services.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import partial
from typing import Literal
from urllib.parse import quote

from pydantic import BaseModel, Field

from replay_build_service.errors import BadLink, RefNotFound, Refused, RepositoryNotFound, SourceFault
from replay_build_service.sources.asking import Asker
from replay_build_service.sources.base import Record, RemoteFile
from replay_build_service.sources.moments import version_of
from replay_build_service.sources.paging import pages

__all__ = ["Osf"]

_LOCATOR = re.compile(r"(?:10\.17605/osf\.io/)?(?P<id>[a-z0-9]{5,6})", re.IGNORECASE | re.ASCII)
"""https://help.osf.io/article/220-create-dois: a DOI of OSF holds the id."""
_MAX_REQUESTS = 40
"""Pages and folders of one project. Each is a request, of which OSF takes a hundred an hour from whoever has no token."""
_PAGE = 100
"""Files of a page, the most that OSF gives."""


class _LicenseAttributes(BaseModel):
    name: str = ""


class _LicenseData(BaseModel):
    attributes: _LicenseAttributes = Field(default_factory=_LicenseAttributes)


class _LicenseEmbed(BaseModel):
    data: _LicenseData | None = None


class _Embeds(BaseModel):
    license: _LicenseEmbed | None = None


class _NodeAttributes(BaseModel):
    title: str = ""
    date_modified: str | None = None
    date_registered: str | None = None
    public: bool = False
    withdrawn: bool | None = None
    embargoed: bool | None = None


class _Node(BaseModel):
    id: str = Field(pattern=r"^[a-z0-9_]{5,10}$")
    attributes: _NodeAttributes
    embeds: _Embeds | None = None


class _NodeAnswer(BaseModel):
    data: _Node


class _Hashes(BaseModel):
    md5: str | None = None
    sha256: str | None = None


class _Extra(BaseModel):
    hashes: _Hashes = Field(default_factory=_Hashes)


class _FileAttributes(BaseModel):
    kind: Literal["file", "folder"]
    name: str = ""
    path: str = Field(pattern=r"^/[A-Za-z0-9]{1,64}/?$")
    materialized_path: str = Field(max_length=4096)
    size: int | None = Field(default=None, ge=0)
    date_modified: str | None = None
    current_version: int | None = Field(default=None, ge=0)
    extra: _Extra | None = None


class _File(BaseModel):
    attributes: _FileAttributes


class _Links(BaseModel):
    next: str | None = None


class _FilesAnswer(BaseModel):
    data: list[_File]
    links: _Links = Field(default_factory=_Links)


@dataclass(frozen=True, slots=True)
class Osf:
    """`RecordSource` of OSF. ``api``: its API; ``site``: its pages and downloads."""

    api: str = "https://api.osf.io/v2"
    site: str = "https://osf.io"

    @property
    def name(self) -> str:
        """As it stands in links."""
        return "osf"

    async def find(self, ask: Asker, locator: str, version: str | None) -> Record:
        """See `RecordSource.find`. There is one version at any time, named by the moment of the last change."""
        match = _LOCATOR.fullmatch(locator)
        if match is None:
            raise BadLink("A link to OSF reads /v2/osf/ID, with the five letters and digits of the project's address.")
        number = match["id"].lower()
        try:
            record = await self._listed(ask, "nodes", number)
        except RepositoryNotFound:
            # A registration is none of the nodes (https://developer.osf.io/#tag/Registrations), and is asked for less often.
            record = await self._listed(ask, "registrations", number)
        if version not in {None, record.version}:
            raise RefNotFound(
                f"OSF keeps no older states of a project, and that of version {version} has changed since. A registration stays as it is.",
                (record.pinned,),
            )
        return record

    async def listed(self, ask: Asker, api_url: str) -> Record:
        """See `RecordSource.listed`."""
        match = re.fullmatch(re.escape(self.api) + r"/(nodes|registrations)/([a-z0-9]{5,6})/", api_url)
        if match is None:
            raise BadLink("That is no address of a project of OSF.")
        return await self._listed(ask, "nodes" if match[1] == "nodes" else "registrations", match[2])

    async def _listed(self, ask: Asker, kind: Literal["nodes", "registrations"], number: str) -> Record:
        missing = f"OSF has no public project {number}. It is gone, private or misspelt."
        address = f"{self.api}/{kind}/{number}/"
        node = (await ask.json(f"{address}?embed=license", _NodeAnswer, missing=missing)).data
        about = node.attributes
        if about.withdrawn:
            raise RepositoryNotFound(
                f"The registration {number} of OSF has been withdrawn, so its files are not public."
            )
        if not about.public or about.embargoed:
            raise RepositoryNotFound(f"The files of {number} of OSF are not public, so they cannot be run.")
        listing = _Listing(ask, number, f"{address}files/osfstorage", missing)
        await listing.read()
        moments = [version_of(one.date_modified) for one in listing.files if one.date_modified]
        frozen = about.date_registered if kind == "registrations" else None
        changed = frozen or about.date_modified
        if not (frozen or moments) and changed is None:
            raise SourceFault("OSF's answer was not understood: the project has no date. Try again later.")
        embedded = node.embeds.license.data if node.embeds is not None and node.embeds.license is not None else None
        return Record(
            source=self.name,
            api_url=address,
            version=max(moments) if moments and not frozen else version_of(changed or ""),
            identity=f"{self.site}/{number}",
            page=f"{self.site}/{number}/",
            files=tuple(self._remote(file) for file in listing.files),
            title=about.title,
            license=embedded.attributes.name if embedded is not None else "",
        )

    def _remote(self, file: _FileAttributes) -> RemoteFile:
        """https://developer.osf.io/#operation/files_detail: a download's address, which leads to the region that keeps the file."""
        pinned = f"?version={file.current_version}" if file.current_version else ""
        hashes = file.extra.hashes if file.extra is not None else _Hashes()
        sha256, md5 = (hashes.sha256 or "").lower(), (hashes.md5 or "").lower()
        checksum = f"sha256:{sha256}" if re.fullmatch(r"[0-9a-f]{64}", sha256) else ""
        if not checksum and re.fullmatch(r"[0-9a-f]{32}", md5):
            checksum = f"md5:{md5}"
        url = f"{self.site}/download/{quote(file.path.strip('/'))}/{pinned}"
        return RemoteFile(file.materialized_path.strip("/"), url, file.size, checksum)


@dataclass(slots=True)
class _Listing:
    """All files of a storage, folder by folder and page by page (https://developer.osf.io/#operation/nodes_files_list)."""

    ask: Asker
    project: str
    address: str
    missing: str
    files: list[_FileAttributes] = field(default_factory=list[_FileAttributes])
    folders: list[str] = field(default_factory=lambda: ["/"])
    """All that are known, in the order in which they are read."""
    requests: int = 0

    async def read(self) -> None:
        seen = set(self.folders)
        for folder in self.folders:  # which grows
            async for answer in pages(
                partial(self._page, folder),
                lambda answer: answer.data,
                goes_on=lambda answer: answer.links.next is not None,
                most=_MAX_REQUESTS,
                too_many=self._too_many,
            ):
                for entry in (one.attributes for one in answer.data):
                    if entry.kind == "file":
                        self.files.append(entry)
                    elif (below := f"{entry.path.rstrip('/')}/") not in seen:
                        seen.add(below)
                        self.folders.append(below)

    def _too_many(self) -> str:
        folders = "1 folder" if len(self.folders) == 1 else f"{len(self.folders):,} folders"
        return (
            f"The project {self.project} of OSF has more than {len(self.files):,} files in {folders}, and Replay asks OSF for at most "
            f"{_MAX_REQUESTS} lists: of each folder one, or one for each {_PAGE} files. Put them into one ZIP file there."
        )

    async def _page(self, folder: str, page: int) -> _FilesAnswer:
        self.requests += 1
        if self.requests > _MAX_REQUESTS:
            raise Refused(self._too_many())
        query = f"?page[size]={_PAGE}&page={page}".replace("[", "%5B").replace("]", "%5D")
        return await self.ask.json(f"{self.address}{folder}{query}", _FilesAnswer, missing=self.missing)
