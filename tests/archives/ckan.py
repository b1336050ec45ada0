"""A stand-in for a portal of CKAN: https://docs.ckan.org/en/latest/api/.

- ``GET /api/3/action/package_show?id=``: by name or id. What is private answers 403, what was deleted 404.
- ``GET /api/3/action/activity_data_show?id=&object_type=package``: a dataset as it was listed once.
- Uploads: ``/dataset/ID/resource/ID/download/NAME``. A portal's files lie in no folders, and it publishes no checksum that it made itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from replay_build_service.sources.ckan import Ckan
from tests.archives.server import NOT_FOUND, Answer, ArchiveServer, Published, Request, paths


@dataclass
class _Dataset:
    title: str
    files: dict[str, bytes]
    day: int = 0
    state: str = "active"
    is_private: bool = False
    resources: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """More of them, as tests have them."""
    activities: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    @property
    def version(self) -> str:
        return f"202401{self.day:02}T101112"


class CkanServer(ArchiveServer):
    """A portal, with datasets that tests put there."""

    provider = "ckan"
    has_versions = False
    has_checksums = False
    folders = False

    def __init__(self) -> None:
        super().__init__()
        self.datasets: dict[str, _Dataset] = {}
        self.misspelt = f"{self.url}/dataset/no-such-data"

    def source(self) -> Ckan:
        return Ckan()

    def publish(self, *versions: Mapping[str, bytes], title: str = "A record") -> Published:
        name = f"data-{len(self.datasets)}"
        self.datasets[name] = _Dataset(title, {})
        address = f"{self.url}/dataset/{name}"
        record = Published(address, address, (), page=address, title=title, license="cc-by")
        for files in versions:
            record = self.add_version(record, files)
        return record

    def add_version(self, record: Published, files: Mapping[str, bytes]) -> Published:
        name = record.locator.rpartition("/")[2]
        dataset = self.datasets[name]
        dataset.files, dataset.day = dict(files), dataset.day + 1
        dataset.activities.append(self._shown(name, dataset))
        return replace(record, versions=(*record.versions, dataset.version))

    def change(self, record: Published, files: Mapping[str, bytes]) -> None:
        self._of(record).files = dict(files)

    def withdraw(self, record: Published) -> None:
        del self.datasets[record.locator.rpartition("/")[2]]

    def restrict(self, record: Published) -> None:
        self._of(record).is_private = True

    def answer(self, request: Request) -> Answer:
        if request.path == "/api/3/action/package_show":
            asked = request.query.get("id", "").removeprefix("id-of-")
            dataset = self.datasets.get(asked)
            if dataset is None:
                return Answer.of_json({"success": False, "error": {"__type": "Not Found Error"}}, 404)
            if dataset.is_private:
                return Answer.of_json({"success": False, "error": {"__type": "Authorization Error"}}, 403)
            return Answer.of_json({"help": "", "success": True, "result": self._shown(asked, dataset)})
        if request.path == "/api/3/action/activity_data_show":
            name, _, number = request.query.get("id", "").rpartition("_")
            dataset = self.datasets.get(name)
            if dataset is None or int(number) >= len(dataset.activities):
                return Answer.of_json({"success": False, "error": {"__type": "Not Found Error"}}, 404)
            return Answer.of_json({"help": "", "success": True, "result": dataset.activities[int(number)]})
        if (match := re.fullmatch(r"/dataset/id-of-(.+)/resource/(\d+)/download/(.+)", request.path)) is not None:
            dataset = self.datasets.get(match[1])
            if dataset is not None and match[3] in dataset.files:
                return Answer.of_bytes(dataset.files[match[3]])
        return NOT_FOUND

    def _shown(self, name: str, dataset: _Dataset) -> dict[str, Any]:
        uploads = [
            {
                "id": str(index),
                "name": f"The file {path}",
                "url": f"{self.url}/dataset/id-of-{name}/resource/{index}/download/{path}",
                "url_type": "upload",
                "size": len(body),
                "hash": "",
                "state": "active",
            }
            for index, (path, body) in enumerate(paths(dataset.files))
        ]
        return {
            "id": f"id-of-{name}",
            "name": name,
            "title": dataset.title,
            "license_id": "cc-by",
            "license_title": "Creative Commons Attribution",
            "private": False,
            "state": dataset.state,
            "metadata_modified": f"2024-01-{dataset.day:02}T10:11:12.123456",
            "resources": uploads + dataset.resources,
        }

    def _of(self, record: Published) -> _Dataset:
        return self.datasets[record.locator.rpartition("/")[2]]
