"""HydroShare's resources, by its REST API (https://www.hydroshare.org/hsapi/, https://help.hydroshare.org/hydroshare-api/).

HydroShare keeps no older states of a resource: a new version is another resource, and a resource that is not published may change at any
time. So the version here is the day of its last change, with the digest over its files. A published resource has a DOI,
``10.4211/hs.`` and its id (https://help.hydroshare.org/publishing/), and stays as it is.
Empty files are not listed there, so they are not fetched.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from pydantic import BaseModel, Field

from replay_build_service.errors import BadLink, RefNotFound, RepositoryNotFound, SourceFault
from replay_build_service.sources.asking import Asker
from replay_build_service.sources.base import Record, RemoteFile
from replay_build_service.sources.moments import version_of
from replay_build_service.sources.paging import pages

__all__ = ["HydroShare"]

_LOCATOR = re.compile(r"(?:10\.4211/hs\.)?(?P<id>[0-9a-f]{32})", re.IGNORECASE | re.ASCII)
_CONTENTS = "/data/contents/"
"""What stands between a resource and the path of a file, in every address of one."""
_MAX_PAGES = 200
_MOST_BELIEVED = 10**9
"""Files that a resource may say it has, so that the sentence about them stays one."""


class _SystemMetadata(BaseModel):
    resource_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    resource_title: str = ""
    date_last_updated: str
    public: bool = False


class _File(BaseModel):
    url: str = Field(max_length=8192)
    size: int | None = Field(default=None, ge=0)
    checksum: str | None = None


class _Files(BaseModel):
    count: int | None = None
    next: str | None = None
    results: list[_File] = Field(max_length=100_000)


@dataclass(frozen=True, slots=True)
class HydroShare:
    """`RecordSource` of HydroShare, or of another installation of its software at ``origin``."""

    origin: str = "https://www.hydroshare.org"

    @property
    def name(self) -> str:
        """As it stands in links."""
        return "hydroshare"

    async def find(self, ask: Asker, locator: str, version: str | None) -> Record:
        """See `RecordSource.find`. There is one version at any time, named by the day of the last change."""
        match = _LOCATOR.fullmatch(locator)
        if match is None:
            raise BadLink(
                "A link to HydroShare reads /v2/hydroshare/ID, with the 32 letters and digits of the resource."
            )
        record = await self._resource(ask, match["id"].lower())
        if version not in {None, record.version}:
            raise RefNotFound(
                f"HydroShare keeps no older states of a resource, and that of version {version} has changed since.",
                (record.pinned,),
            )
        return record

    async def listed(self, ask: Asker, api_url: str) -> Record:
        """See `RecordSource.listed`."""
        match = re.fullmatch(re.escape(self.origin) + r"/hsapi/resource/([0-9a-f]{32})/", api_url)
        if match is None:
            raise BadLink("That is no address of a resource of HydroShare.")
        return await self._resource(ask, match[1])

    async def _resource(self, ask: Asker, number: str) -> Record:
        missing = f"HydroShare has no public resource {number}. It is gone, private or misspelt."
        address = f"{self.origin}/hsapi/resource/{number}/"
        about = await ask.json(f"{address}sysmeta/", _SystemMetadata, missing=missing)
        if about.resource_id != number:
            raise SourceFault("HydroShare answered with another resource than it was asked for. Try again later.")
        if not about.public:
            raise RepositoryNotFound(
                f"The files of resource {number} of HydroShare are not public, so they cannot be run."
            )
        files = await _listed(ask, number, address, missing)
        return Record(
            source=self.name,
            api_url=address,
            version=version_of(about.date_last_updated),
            identity=f"{self.origin}/resource/{number}",
            page=f"{self.origin}/resource/{number}/",
            files=_remote(address, files),
            title=about.resource_title,
        )


async def _listed(ask: Asker, number: str, address: str, missing: str) -> list[_File]:
    files: list[_File] = []
    count = 0

    async def page(number: int) -> _Files:
        query = f"?page={number}" if number > 1 else ""
        return await ask.json(f"{address}files/{query}", _Files, missing=missing)

    def too_many() -> str:
        all_of_them = f"{count:,}" if count > len(files) else f"more than {len(files):,}"
        return (
            f"The resource {number} of HydroShare has {all_of_them} files, and Replay reads at most {len(files):,} of them. "
            "Put them into one ZIP file there."
        )

    async for answer in pages(
        page,
        lambda answer: answer.results,
        goes_on=lambda answer: answer.next is not None,
        most=_MAX_PAGES,
        too_many=too_many,
    ):
        files += answer.results
        count = min(answer.count or 0, _MOST_BELIEVED)
    return files


def _remote(address: str, files: Sequence[_File]) -> tuple[RemoteFile, ...]:
    """The addresses are put together here; what is taken from an answer's is the path below the resource's contents alone."""
    found: list[RemoteFile] = []
    for file in files:
        try:
            address_of_it = urlsplit(file.url).path
        except ValueError:
            address_of_it = ""
        _, contents, path = unquote(address_of_it).partition(_CONTENTS)
        if not contents or not path.strip("/"):
            raise SourceFault("HydroShare's answer was not understood: a file has no path. Try again later.")
        path = path.strip("/")
        checksum = (file.checksum or "").lower()
        # A large file's checksum there may be the store's own number for it, which is no MD5 and has a hyphen.
        known = f"md5:{checksum}" if re.fullmatch(r"[0-9a-f]{32}", checksum) else ""
        found.append(RemoteFile(path, f"{address}files/{quote(path)}/", file.size, known))
    return tuple(found)
