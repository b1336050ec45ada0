"""A stand-in for Zenodo's API, as it answers since Zenodo runs on InvenioRDM.

- Records, https://developers.zenodo.org/#representation22 and #retrieve37: ``id``, ``conceptrecid``, ``files`` with ``key``, ``size`` and
  ``checksum``, ``metadata`` with ``access_right``.
- The number of the concept DOI redirects to the newest version: https://support.zenodo.org/help/en-gb/1-upload-deposit/97-what-is-doi-versioning
- Files, https://inveniordm.docs.cern.ch/reference/rest_api_drafts_records/#download-a-record-file: ``/records/ID/files/NAME/content``.
- What was deleted answers 410 with a tombstone: https://inveniordm.docs.cern.ch/reference/rest_api_drafts_records/
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from replay_build_service.sources.zenodo import Zenodo
from tests.archives.server import NOT_FOUND, Answer, ArchiveServer, Published, Request, paths

PREFIX = "10.5281"


@dataclass
class _Version:
    concept: int
    title: str
    files: dict[str, bytes]
    access: str = "open"
    is_gone: bool = False


class ZenodoServer(ArchiveServer):
    """Zenodo, with records that tests put there."""

    provider = "zenodo"
    misspelt = f"{PREFIX}/zenodo.99999999"

    def __init__(self) -> None:
        super().__init__()
        self._versions: dict[int, _Version] = {}
        self._next = 3242000

    def source(self) -> Zenodo:
        return Zenodo({PREFIX: self.url})

    def publish(self, *versions: Mapping[str, bytes], title: str = "A record") -> Published:
        concept = self._number()
        record = Published(f"{PREFIX}/zenodo.{concept}", f"https://doi.org/{PREFIX}/zenodo.{concept}", (), title=title)
        for files in versions:
            record = self.add_version(record, files)
        return record

    def add_version(self, record: Published, files: Mapping[str, bytes]) -> Published:
        number = self._number()
        self._versions[number] = _Version(self._concept(record), record.title, dict(files))
        return replace(
            record,
            versions=(*record.versions, str(number)),
            locators=(*record.locators, f"{PREFIX}/zenodo.{number}"),
            page=f"{self.url}/records/{number}",
            license="cc-by-4.0",
        )

    def change(self, record: Published, files: Mapping[str, bytes]) -> None:
        self._versions[int(record.versions[-1])].files = dict(files)

    def withdraw(self, record: Published) -> None:
        for version in record.versions:
            self._versions[int(version)].is_gone = True

    def restrict(self, record: Published, access: str = "restricted") -> None:
        for version in record.versions:
            self._versions[int(version)].access = access

    def answer(self, request: Request) -> Answer:
        if (match := re.fullmatch(r"/api/records/(\d+)", request.path)) is not None:
            return self._record(int(match[1]))
        if (match := re.fullmatch(r"/api/records/(\d+)/files/(.+)/content", request.path)) is not None:
            version = self._versions.get(int(match[1]))
            if version is None or version.is_gone or match[2] not in version.files:
                return NOT_FOUND
            if version.access != "open":
                return Answer.of_json({"status": 403, "message": "Permission denied."}, 403)
            return Answer.of_bytes(version.files[match[2]])
        return NOT_FOUND

    def _record(self, number: int) -> Answer:
        version = self._versions.get(number)
        if version is None:
            newest = max((one for one, its in self._versions.items() if its.concept == number), default=None)
            return NOT_FOUND if newest is None else Answer.redirect(f"{self.url}/api/records/{newest}", 301)
        if version.is_gone:
            tombstone = {"removal_reason": {"id": "retracted"}, "note": "", "is_visible": True}
            return Answer.of_json({"status": 410, "message": "Record deleted", "tombstone": tombstone}, 410)
        listed = [
            {
                "id": hashlib.sha1(name.encode()).hexdigest(),
                "key": name,
                "size": len(body),
                "checksum": "md5:" + hashlib.md5(body).hexdigest(),
                "links": {"self": f"{self.url}/api/records/{number}/files/{name}/content"},
            }
            for name, body in paths(version.files)
        ]
        return Answer.of_json(
            {
                "id": number,
                "recid": str(number),
                "conceptrecid": str(version.concept),
                "doi": f"{PREFIX}/zenodo.{number}",
                "conceptdoi": f"{PREFIX}/zenodo.{version.concept}",
                "title": version.title,
                "metadata": {
                    "title": version.title,
                    "access_right": version.access,
                    "license": {"id": "cc-by-4.0"},
                    "resource_type": {"title": "Software", "type": "software"},
                },
                "files": listed if version.access == "open" else [],
                "status": "published",
                "submitted": True,
            }
        )

    def _number(self) -> int:
        self._next += 1
        return self._next

    @staticmethod
    def _concept(record: Published) -> int:
        return int(record.locator.rpartition(".")[2])
