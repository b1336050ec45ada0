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

_LOCATOR = re.compile(r"(?P<prefix>10\.[0-9]{4,9})/zenodo\.(?P<number>[0-9]{1,12})", re.IGNORECASE | re.ASCII)

_API_URL = re.compile(r"(?P<origin>https?://[A-Za-z0-9.:-]{1,255})/api/records/(?P<number>[0-9]{1,12})")
_PREFIX = "10.5281"
_NUMBER = re.compile(r"[1-9][0-9]{0,11}")

_ORIGINS: Mapping[str, str] = MappingProxyType({_PREFIX: "https://zenodo.org", "10.5072": "https://sandbox.zenodo.org"})
"""By the prefix of its DOIs: https://developers.zenodo.org/#testing."""


class _File(BaseModel):
    key: str = Field(max_length=4096)
    size: int | None = Field(default=None, ge=0)
    checksum: str = Field(default="", pattern=r"^(|md5:[0-9a-f]{32})$")


class _License(BaseModel):
    id: str = ""


class _Metadata(BaseModel):
    title: str = ""
    license: _License | str | None = None
    access_right: str | None = "open"


class _RecordModel(BaseModel):
    id: int = Field(ge=1, lt=10**12)
    conceptrecid: str = Field(pattern=r"^[0-9]{1,12}$")
    metadata: _Metadata
    files: list[_File] | None = Field(default=None, max_length=100_000)
    """None of a record whose files are restricted, or that is a description alone."""


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
        prefix, number = match["prefix"], int(match["number"])
        if version is None:
            return await self._record(ask, origin, prefix, number)
        wanted = await self._version(ask, origin, prefix, version)
        if wanted is not None and (version == str(number) or wanted.identity == _identity(prefix, number)):
            return wanted
        meant = await self._record(ask, origin, prefix, number)
        if wanted is not None and wanted.identity == meant.identity:
            return wanted
        raise RefNotFound(f"Zenodo has no record {version} that is a version of {match[0]}.", (meant.pinned,))

    async def _version(self, ask: Asker, origin: str, prefix: str, version: str) -> Record | None:
        """The record of that number; none where there is none, or the number is that of all versions."""
        if not _NUMBER.fullmatch(version):
            return None
        try:
            record = await self._record(ask, origin, prefix, int(version))
        except RepositoryNotFound:
            return None
        return record if record.version == version else None

    async def listed(self, ask: Asker, api_url: str) -> Record:
        """See `RecordSource.listed`. Of any service like Zenodo's that may be asked: builders know no administrator's ``origins``."""
        match = _API_URL.fullmatch(api_url)
        if match is None:
            raise BadLink("That is no address of a record of Zenodo.")
        prefixes = (prefix for prefix, origin in self.origins.items() if origin == match["origin"])
        return await self._record(ask, match["origin"], next(prefixes, _PREFIX), int(match["number"]))

    async def _record(self, ask: Asker, origin: str, prefix: str, number: int) -> Record:
        missing = f"Zenodo has no public record {number}. It is gone, restricted or misspelt."
        answer = await ask.json(f"{origin}/api/records/{number}", _RecordModel, missing=missing)
        if answer.metadata.access_right in {"closed", "restricted", "embargoed"}:
            raise RepositoryNotFound(f"The files of record {number} of Zenodo are not public, so they cannot be run.")
        return Record(
            source=self.name,
            api_url=f"{origin}/api/records/{answer.id}",
            version=str(answer.id),
            identity=_identity(prefix, int(answer.conceptrecid)),
            page=f"{origin}/records/{answer.id}",
            files=_files(f"{origin}/api/records/{answer.id}/files", answer.files or ()),
            title=answer.metadata.title,
            license=_license(answer.metadata.license),
        )


def _identity(prefix: str, concept: int) -> str:
    return f"https://doi.org/{prefix}/zenodo.{concept}"


def _license(license: _License | str | None) -> str:
    return license.id if isinstance(license, _License) else license or ""


def _files(address: str, files: Sequence[_File]) -> tuple[RemoteFile, ...]:
    """The addresses are put together here, not taken from the answer, so that a record cannot send anybody elsewhere."""
    return tuple(
        RemoteFile(file.key, f"{address}/{quote(file.key, safe='')}/content", file.size, file.checksum)
        for file in files
    )
