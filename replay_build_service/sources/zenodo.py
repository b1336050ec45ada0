"""Zenodo's records (https://developers.zenodo.org/#records) as its service answers since it runs on InvenioRDM.

A record's number is a version's; the number of the concept DOI stands for all versions, and Zenodo redirects it to the newest one
(https://help.zenodo.org/docs/deposit/about-records/#versioning).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import quote

from pydantic import BaseModel, Field

from replay_build_service.errors import BadLink, RefNotFound, RepositoryNotFound
from replay_build_service.sources.asking import Asker
from replay_build_service.sources.base import Record, RemoteFile

__all__ = ["Zenodo"]

_LOCATOR = re.compile(r"(?P<prefix>10\.[0-9]{4,9})/zenodo\.(?P<number>[0-9]{1,12})", re.IGNORECASE)

_ORIGINS: Mapping[str, str] = MappingProxyType(
    {"10.5281": "https://zenodo.org", "10.5072": "https://sandbox.zenodo.org"}
)
"""By the prefix of its DOIs: https://developers.zenodo.org/#testing."""


class _File(BaseModel):
    key: str = Field(max_length=4096)
    size: int | None = Field(default=None, ge=0)
    checksum: str = Field(default="", pattern=r"^(|md5:[0-9a-f]{32})$")


class _License(BaseModel):
    id: str = ""


class _Metadata(BaseModel):
    title: str = ""
    license: _License | None = None
    access_right: str = "open"


class _RecordModel(BaseModel):
    id: int = Field(ge=1, lt=10**12)
    conceptrecid: str = Field(pattern=r"^[0-9]{1,12}$")
    metadata: _Metadata
    files: list[_File] = Field(default_factory=list[_File], max_length=100_000)


@dataclass(frozen=True, slots=True)
class Zenodo:
    """`RecordSource` of Zenodo. ``origins``: where the records are whose DOIs begin so."""

    origins: Mapping[str, str] = field(default_factory=lambda: _ORIGINS)

    @property
    def name(self) -> str:
        """As it stands in links."""
        return "zenodo"

    async def find(self, ask: Asker, locator: str, version: str | None) -> Record:
        """See `RecordSource.find`. The version of a record is its number."""
        match = _LOCATOR.fullmatch(locator)
        origin = self.origins.get(match["prefix"]) if match else None
        if match is None or origin is None:
            raise BadLink("A link to Zenodo reads /v2/zenodo/10.5281/zenodo.NUMBER, as in the record's DOI.")
        newest = await self._record(ask, origin, match["prefix"], int(match["number"]))
        if version is None or version == newest.version:
            return newest
        if not version.isdigit():
            raise RefNotFound(
                f"“{version}” is no version of that record of Zenodo: its versions are numbers.", (newest.pinned,)
            )
        wanted = await self._record(ask, origin, match["prefix"], int(version))
        if wanted.identity != newest.identity:
            raise RefNotFound(f"Record {version} of Zenodo is no version of {match[0]}.", (newest.pinned,))
        return wanted

    async def listed(self, ask: Asker, api_url: str) -> Record:
        """See `RecordSource.listed`."""
        for prefix, origin in self.origins.items():
            if (match := re.fullmatch(re.escape(origin) + r"/api/records/([0-9]{1,12})", api_url)) is not None:
                return await self._record(ask, origin, prefix, int(match[1]))
        raise BadLink("That is no address of a record of Zenodo.")

    async def _record(self, ask: Asker, origin: str, prefix: str, number: int) -> Record:
        missing = f"Zenodo has no public record {number}. It is gone, restricted or misspelt."
        answer = await ask.json(f"{origin}/api/records/{number}", _RecordModel, missing=missing)
        if answer.metadata.access_right in {"closed", "restricted", "embargoed"}:
            raise RepositoryNotFound(f"The files of record {number} of Zenodo are not public, so they cannot be run.")
        return Record(
            source=self.name,
            api_url=f"{origin}/api/records/{answer.id}",
            version=str(answer.id),
            identity=f"https://doi.org/{prefix}/zenodo.{answer.conceptrecid}",
            page=f"{origin}/records/{answer.id}",
            files=_files(f"{origin}/api/records/{answer.id}/files", answer.files),
            title=answer.metadata.title,
            license=answer.metadata.license.id if answer.metadata.license else "",
        )


def _files(address: str, files: Sequence[_File]) -> tuple[RemoteFile, ...]:
    """The addresses are put together here, not taken from the answer, so that a record cannot send anybody elsewhere."""
    return tuple(
        RemoteFile(file.key, f"{address}/{quote(file.key, safe='')}/content", file.size, file.checksum)
        for file in files
    )
