"""Dataverse's datasets, at any installation, by its native API (https://guides.dataverse.org/en/latest/api/native-api.html).

A dataset's published versions are numbered (``1.0``, ``1.1``, ``2.0``) and stay as they are. A file's DOI stands for its dataset. A table that
Dataverse has turned into its own form is fetched as it was uploaded
(https://guides.dataverse.org/en/latest/api/dataaccess.html#basic-file-access), since that is what the notebooks were written for; the
checksum that is published is that of the upload, too (https://github.com/IQSS/dataverse/issues/7275).

Files that not everybody may download are left out, and the person is told: code is often published beside data that may not be, and it is
theirs to decide whether it is of use without. A dataset of nothing else is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from pydantic import BaseModel, Field

from replay_build_service.errors import BadLink, RefNotFound, RepositoryNotFound, SourceFault
from replay_build_service.sources.asking import Asker
from replay_build_service.sources.base import Record, RemoteFile
from replay_build_service.sources.dataverse_installations import Installation, shipped_installations
from replay_build_service.sources.handles import DOI_ORIGIN, landing_page

__all__ = ["Dataverse"]

_DOI = re.compile(r"(?:doi:)?(?P<doi>10\.[0-9.]{4,12}/[!-~]{1,200})", re.IGNORECASE)
_VERSION = re.compile(r"[0-9]{1,6}\.[0-9]{1,6}")
_API_URL = re.compile(
    r"(?P<origin>https?://[A-Za-z0-9.:\[\]_-]+)/api/datasets/:persistentId/versions/(?P<version>[0-9]{1,6}\.[0-9]{1,6})"
    r"\?persistentId=doi:(?P<doi>[A-Za-z0-9%/._~-]+)"
)
_CHECKSUMS = {"MD5": ("md5", 32), "SHA-1": ("sha1", 40), "SHA-256": ("sha256", 64), "SHA-512": ("sha512", 128)}
"""https://guides.dataverse.org/en/latest/installation/config.html#filefixitychecksumalgorithm"""
_LATEST = ":latest-published"


class _Checksum(BaseModel):
    type: str = ""
    value: str = ""


class _Embargo(BaseModel):  # The names are Dataverse's own, here and below.
    dateAvailable: date | None = None


class _Retention(BaseModel):
    dateUnavailable: date | None = None


class _DataFile(BaseModel):
    id: int = Field(ge=1)
    filename: str = Field(default="", max_length=4096)
    filesize: int | None = Field(default=None, ge=0)
    originalFileFormat: str | None = None
    originalFileName: str | None = Field(default=None, max_length=4096)
    originalFileSize: int | None = Field(default=None, ge=0)
    md5: str | None = None
    checksum: _Checksum | None = None
    embargo: _Embargo | None = None
    retention: _Retention | None = None


class _File(BaseModel):
    label: str = Field(default="", max_length=4096)
    directoryLabel: str = Field(default="", max_length=4096)
    restricted: bool = False
    dataFile: _DataFile


class _MetadataField(BaseModel):
    typeName: str = ""
    value: Any = None


class _Block(BaseModel):
    fields: list[_MetadataField] = Field(default_factory=list[_MetadataField])


class _License(BaseModel):
    name: str = ""


class _Version(BaseModel):
    datasetPersistentId: str = ""
    versionNumber: int = Field(ge=0, lt=10**6)
    versionMinorNumber: int = Field(default=0, ge=0, lt=10**6)
    license: _License | str | None = None
    metadataBlocks: dict[str, _Block] = Field(default_factory=dict[str, _Block])
    files: list[_File] = Field(default_factory=list[_File], max_length=100_000)


class _VersionAnswer(BaseModel):
    data: _Version


class _Owner(BaseModel):
    datasetPersistentId: str


class _FileData(BaseModel):
    datasetVersion: _Owner


class _FileAnswer(BaseModel):
    data: _FileData


@dataclass(frozen=True, slots=True)
class Dataverse:
    """`RecordSource` of all installations of Dataverse that are known.

    ``installations``: which these are. ``doi_origin``: who is asked about a DOI whose prefix is none of theirs.
    """

    installations: Sequence[Installation] = field(default_factory=shipped_installations)
    doi_origin: str = DOI_ORIGIN

    @property
    def name(self) -> str:
        """As it stands in links."""
        return "dataverse"

    def is_installation(self, host: str) -> bool:
        """Whether a host, with its port if that is not HTTPS's, is an installation that is known."""
        return any(one.host == host.lower() for one in self.installations)

    def host_of(self, doi: str) -> str | None:
        """The installation of a DOI as its prefix tells it, without asking anybody."""
        found = self._by_prefix(doi)
        return None if found is None else found.host

    async def find(self, ask: Asker, locator: str, version: str | None) -> Record:
        """See `RecordSource.find`. The version of a dataset is ``1.0``; a file's DOI means its dataset."""
        match = _DOI.fullmatch(locator)
        if match is None:
            raise BadLink("A link to a Dataverse reads /v2/dataverse/10.7910/DVN/NAME, with the dataset's DOI.")
        doi, origin = match["doi"], (await self._installation(ask, match["doi"])).origin
        record = await self._found(ask, origin, doi, version)
        own = _API_URL.fullmatch(record.api_url)
        if own is None or not await self._is_of(ask, unquote(own["doi"]), doi, origin):
            host = origin.partition("://")[2]
            raise SourceFault(f"{host} answered with a dataset that is none of its own. Try again later.")
        return record

    async def _is_of(self, ask: Asker, own: str, doi: str, origin: str) -> bool:
        """Whether an installation may call a dataset so. ``doi``: what was asked for there, where a DOI of that registrant leads.

        Policies know datasets by their DOIs, so no installation is believed about those of others.
        """
        if own.partition("/")[0] == doi.partition("/")[0]:
            return True
        try:
            return (await self._installation(ask, own)).origin == origin
        except (BadLink, RepositoryNotFound):
            return False

    async def _found(self, ask: Asker, origin: str, doi: str, version: str | None) -> Record:
        is_number = version is not None and _VERSION.fullmatch(version) is not None
        if version is not None and is_number:
            with suppress(RepositoryNotFound):
                return await _dataset(ask, origin, doi, version)
        newest = await _newest(ask, origin, doi)
        if version is None or version == newest.version:
            return newest
        owner = _API_URL.fullmatch(newest.api_url)
        if is_number and owner is not None and unquote(owner["doi"]).lower() != doi.lower():  # the DOI is a file's
            with suppress(RepositoryNotFound):
                return await _dataset(ask, origin, unquote(owner["doi"]), version)
        raise RefNotFound(
            f"The dataset {doi} has no published version {version}: they are numbered like 1.0.", (newest.pinned,)
        )

    async def listed(self, ask: Asker, api_url: str) -> Record:
        """See `RecordSource.listed`."""
        match = _API_URL.fullmatch(api_url)
        if match is None:
            raise BadLink("That is no address of a version of a dataset in a Dataverse.")
        return await _dataset(ask, match["origin"], unquote(match["doi"]), match["version"])

    def _by_prefix(self, doi: str) -> Installation | None:
        begins = [
            (len(prefix), one)
            for one in self.installations
            for prefix in one.prefixes
            if doi.lower().startswith(prefix.lower())
        ]
        return max(begins, key=lambda found: found[0])[1] if begins else None

    async def _installation(self, ask: Asker, doi: str) -> Installation:
        if (known := self._by_prefix(doi)) is not None:
            return known
        page = await landing_page(ask, doi, self.doi_origin)
        try:
            host = urlsplit(page).netloc.lower().removesuffix(":443")
        except ValueError as error:
            raise SourceFault(f"The DOI {doi} leads to no web address. Try again later.") from error
        for one in self.installations:
            if one.host == host:
                return one
        raise BadLink(
            f"The DOI {doi} leads to {host[:100]}, which is no Dataverse that this Replay knows. An administrator of this hub can add it."
        )


async def _newest(ask: Asker, origin: str, doi: str) -> Record:
    try:
        return await _dataset(ask, origin, doi, _LATEST)
    except RepositoryNotFound as absent:
        missing = absent
    # https://guides.dataverse.org/en/latest/api/native-api.html#get-json-representation-of-a-file
    url = f"{origin}/api/files/:persistentId?persistentId=doi:{quote(doi, safe='/')}&returnDatasetVersion=true"
    answer = await ask.json(url, _FileAnswer, missing=missing.sentence)
    owner = _DOI.fullmatch(answer.data.datasetVersion.datasetPersistentId)
    if owner is None:
        raise RepositoryNotFound(f"The dataset of the file {doi} has no DOI, so it cannot be named for good.")
    return await _dataset(ask, origin, owner["doi"], _LATEST)


async def _dataset(ask: Asker, origin: str, doi: str, version: str) -> Record:
    # https://guides.dataverse.org/en/latest/api/native-api.html#get-version-of-a-dataset
    host = origin.partition("://")[2]
    missing = f"{host} has no published dataset {doi}. It is gone, not published yet, withdrawn or misspelt."
    asked = f"{origin}/api/datasets/:persistentId/versions/{version}?persistentId=doi:{quote(doi, safe='/')}"
    found = (await ask.json(asked, _VersionAnswer, missing=missing)).data
    own = _DOI.fullmatch(found.datasetPersistentId)
    doi = own["doi"] if own is not None else doi
    number = f"{found.versionNumber}.{found.versionMinorNumber}"
    if _VERSION.fullmatch(version) and version != number:
        raise SourceFault(f"{host} answered with another version than it was asked for. Try again later.")
    open_files = [file for file in found.files if _is_open(file, datetime.now(UTC).date())]
    closed = len(found.files) - len(open_files)
    if closed and not open_files:
        raise RepositoryNotFound(
            f"All files of the dataset {doi} are restricted or under an embargo, so none can be run."
        )
    persistent = quote(doi, safe="/")
    return Record(
        source="dataverse",
        api_url=f"{origin}/api/datasets/:persistentId/versions/{number}?persistentId=doi:{persistent}",
        version=number,
        identity=f"https://doi.org/{persistent.lower()}",
        page=f"{origin}/dataset.xhtml?persistentId=doi:{persistent}&version={number}",
        files=tuple(_remote(origin, open_files)),
        title=_title(found),
        license=found.license if isinstance(found.license, str) else found.license.name if found.license else "",
        notes=_told(closed),
    )


def _is_open(file: _File, today: date) -> bool:
    embargo, retention = file.dataFile.embargo, file.dataFile.retention
    return not (
        file.restricted
        or (embargo is not None and embargo.dateAvailable is not None and embargo.dateAvailable > today)
        or (retention is not None and retention.dateUnavailable is not None and retention.dateUnavailable <= today)
    )


def _told(closed: int) -> tuple[str, ...]:
    if not closed:
        return ()
    files, they = ("One file", "it is") if closed == 1 else (f"{closed} files", "they are")
    return (f"{files} of the dataset cannot be downloaded by everybody, so {they} left out.",)


def _title(found: _Version) -> str:
    fields = found.metadataBlocks.get("citation", _Block()).fields
    return next((one.value for one in fields if one.typeName == "title" and isinstance(one.value, str)), "")


def _remote(origin: str, files: Sequence[_File]) -> Iterator[RemoteFile]:
    """The addresses are put together here, not taken from the answer."""
    labels = {_path(file, file.label or file.dataFile.filename) for file in files}
    for file in files:
        data, url = file.dataFile, f"{origin}/api/access/datafile/{file.dataFile.id}"
        label = _path(file, file.label or data.filename)
        if data.originalFileFormat is None:
            yield RemoteFile(label, url, data.filesize, _checksum(data))
            continue
        original = _path(file, data.originalFileName) if data.originalFileName else label
        if original != label and original in labels:
            # Somebody uploaded a file of that name beside it: the table stays in Dataverse's form, which has another checksum.
            yield RemoteFile(label, url, data.filesize)
        else:
            yield RemoteFile(original, f"{url}?format=original", data.originalFileSize, _checksum(data))


def _path(file: _File, name: str) -> str:
    folder = file.directoryLabel.strip("/")
    return f"{folder}/{name}" if folder else name


def _checksum(data: _DataFile) -> str:
    kind, value = (data.checksum.type, data.checksum.value) if data.checksum is not None else ("MD5", data.md5 or "")
    name, digits = _CHECKSUMS.get(kind.upper(), ("", 0))
    value = value.lower()
    return f"{name}:{value}" if name and re.fullmatch(rf"[0-9a-f]{{{digits}}}", value) else ""
