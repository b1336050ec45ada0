"""A stand-in for an installation of Dataverse, and for doi.org where a DOI's prefix says nothing.

- Versions, https://guides.dataverse.org/en/latest/api/native-api.html#get-version-of-a-dataset, by persistent id; ``:latest-published``.
- A file's DOI, #get-json-representation-of-a-file with ``returnDatasetVersion=true``.
- Downloads, https://guides.dataverse.org/en/latest/api/dataaccess.html#basic-file-access: ``format=original`` of a table gives the upload, and
  else Dataverse's own form of it; both from a store elsewhere, by a redirect.
- A DOI's address, https://www.doi.org/the-identifier/resources/factsheets/doi-resolution-documentation#5-proxy-server-rest-api
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from replay_build_service.sources.dataverse import Dataverse
from replay_build_service.sources.dataverse_installations import Installation
from tests.archives.server import NOT_FOUND, Answer, ArchiveServer, Published, Request, paths

PREFIX = "10.70122/FK2/"
ELSEWHERE = "10.9999/"
"""A prefix of no installation."""


@dataclass
class _Dataset:
    title: str
    number: int
    versions: dict[str, dict[str, bytes]]
    closed: set[str] = field(default_factory=set[str])
    """Paths of files that are restricted."""
    embargoed: set[str] = field(default_factory=set[str])
    tables: set[str] = field(default_factory=set[str])
    """Paths of uploads that Dataverse has made tables of, which it calls ``….tab``."""
    is_gone: bool = False


class DataverseServer(ArchiveServer):
    """An installation, with datasets that tests put there."""

    provider = "dataverse"
    names_versions = False
    misspelt = f"{PREFIX}NONE00"

    def __init__(self) -> None:
        super().__init__()
        self.datasets: dict[str, _Dataset] = {}

    def source(self) -> Dataverse:
        host = self.url.partition("://")[2]
        return Dataverse((Installation(host, (PREFIX,), "http"),), self.url)

    def publish(self, *versions: Mapping[str, bytes], title: str = "A record", prefix: str = PREFIX) -> Published:
        number = len(self.datasets) + 1
        doi = f"{prefix}ABC{number:03}"
        self.datasets[doi] = _Dataset(title, number, {})
        record = Published(doi, f"https://doi.org/{doi.lower()}", (), title=title, license="CC0 1.0")
        for files in versions:
            record = self.add_version(record, files)
        return record

    def add_version(self, record: Published, files: Mapping[str, bytes]) -> Published:
        dataset = self.datasets[record.locator]
        number = f"{len(dataset.versions) + 1}.0"
        dataset.versions[number] = dict(files)
        page = f"{self.url}/dataset.xhtml?persistentId=doi:{record.locator}&version={number}"
        return replace(record, versions=(*record.versions, number), page=page)

    def change(self, record: Published, files: Mapping[str, bytes]) -> None:
        self.datasets[record.locator].versions[record.versions[-1]] = dict(files)

    def withdraw(self, record: Published) -> None:
        self.datasets[record.locator].is_gone = True

    def restrict(self, record: Published) -> None:
        dataset = self.datasets[record.locator]
        dataset.closed = {path for files in dataset.versions.values() for path in files}

    def answer(self, request: Request) -> Answer:
        doi = request.query.get("persistentId", "").removeprefix("doi:")
        if (match := re.fullmatch(r"/api/datasets/:persistentId/versions/(.+)", request.path)) is not None:
            return self._version(doi, match[1])
        if request.path == "/api/files/:persistentId":
            owner = doi.rpartition("/")[0]
            if owner not in self.datasets:
                return NOT_FOUND
            return Answer.of_json({"status": "OK", "data": {"datasetVersion": {"datasetPersistentId": f"doi:{owner}"}}})
        if (match := re.fullmatch(r"/api/access/datafile/(\d+)", request.path)) is not None:
            return Answer.redirect(f"{self.url}/store/{match[1]}/{request.query.get('format', 'own')}?X-Amz-Expires=10")
        if (match := re.fullmatch(r"/store/(\d+)/(own|original)", request.path)) is not None:
            return self._stored(int(match[1]), match[2])
        if (match := re.fullmatch(r"/api/handles/(.+)", request.path)) is not None:
            return self._handle(match[1])
        return NOT_FOUND

    def _handle(self, doi: str) -> Answer:
        if doi not in self.datasets:
            return Answer.of_json({"responseCode": 100, "handle": doi}, 404)
        url = f"{self.url}/citation?persistentId=doi:{doi}"
        value = {"index": 1, "type": "URL", "data": {"format": "string", "value": url}, "ttl": 86400}
        return Answer.of_json({"responseCode": 1, "handle": doi, "values": [value]})

    def _version(self, doi: str, version: str) -> Answer:
        dataset = self.datasets.get(doi)
        if dataset is not None and version == ":latest-published":
            version = list(dataset.versions)[-1]
        if dataset is None or dataset.is_gone or version not in dataset.versions:
            return Answer.of_json(
                {"status": "ERROR", "message": f"Dataset with Persistent ID doi:{doi} not found."}, 404
            )
        major, minor = version.split(".")
        title = {"typeName": "title", "multiple": False, "typeClass": "primitive", "value": dataset.title}
        author = {"typeName": "author", "multiple": True, "typeClass": "compound", "value": [{}]}
        data = {
            "id": 1,
            "datasetPersistentId": f"doi:{doi}",
            "versionNumber": int(major),
            "versionMinorNumber": int(minor),
            "versionState": "RELEASED",
            "license": {"name": "CC0 1.0", "uri": "http://creativecommons.org/publicdomain/zero/1.0"},
            "metadataBlocks": {"citation": {"displayName": "Citation Metadata", "fields": [author, title]}},
            "files": [self._file(dataset, version, index) for index in range(len(dataset.versions[version]))],
        }
        return Answer.of_json({"status": "OK", "data": data})

    def _file(self, dataset: _Dataset, version: str, index: int) -> dict[str, Any]:
        path, body = paths(dataset.versions[version])[index]
        folder, _, name = path.rpartition("/")
        own = f"{name.rpartition('.')[0]}.tab" if path in dataset.tables else name
        number = dataset.number * 1_000_000 + list(dataset.versions).index(version) * 10_000 + index + 1
        data: dict[str, Any] = {
            "id": number,
            "filename": own,
            "contentType": "application/octet-stream",
            "filesize": len(body),
            "md5": hashlib.md5(body).hexdigest(),
            "checksum": {"type": "MD5", "value": hashlib.md5(body).hexdigest()},
        }
        if path in dataset.tables:
            data |= {
                "contentType": "text/tab-separated-values",
                "filesize": len(_own_form(body)),
                "originalFileFormat": "text/csv",
                "originalFormatLabel": "Comma Separated Values",
                "originalFileSize": len(body),
                "originalFileName": name,
            }
        if path in dataset.embargoed:
            data["embargo"] = {"dateAvailable": "2099-01-01", "reason": "A paper is to come."}
        listed = {"label": own, "restricted": path in dataset.closed, "version": 1, "dataFile": data}
        return listed | ({"directoryLabel": folder} if folder else {})

    def _stored(self, number: int, form: str) -> Answer:
        which, rest = divmod(number, 1_000_000)
        version, index = divmod(rest - 1, 10_000)
        dataset = next(one for one in self.datasets.values() if one.number == which)
        path, body = paths(list(dataset.versions.values())[version])[index]
        if path in dataset.closed | dataset.embargoed:
            return Answer.of_json({"status": "ERROR", "message": "Not authorized"}, 403)
        return Answer.of_bytes(_own_form(body) if path in dataset.tables and form == "own" else body)


def _own_form(body: bytes) -> bytes:
    return body.replace(b",", b"\t")
