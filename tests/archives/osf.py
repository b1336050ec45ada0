"""A stand-in for OSF's API: https://developer.osf.io, version 2.

- ``GET /v2/nodes/ID/`` (#operation/nodes_read) and ``/v2/registrations/ID/`` (#operation/registrations_read), with ``embed=license``. What is
  private answers 401, what was deleted 410.
- ``GET /v2/nodes/ID/files/osfstorage/`` and ``…/FOLDER/`` (#operation/nodes_files_list), in pages.
- ``GET osf.io/download/FILE/?version=`` redirects to the region that keeps the file, and that to its store.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from replay_build_service.sources.osf import Osf
from tests.archives.server import NOT_FOUND, Answer, ArchiveServer, Published, Request, paths

MOST_IN_A_PAGE = 3
"""Fewer than OSF gives, so that tests need fewer files."""


@dataclass
class _Project:
    title: str
    files: dict[str, bytes]
    day: int
    kind: str
    is_public: bool = True
    extra: dict[str, Any] | None = None

    @property
    def changed(self) -> str:
        return f"2024-01-{self.day:02}T10:11:12.123456"

    @property
    def version(self) -> str:
        return f"202401{self.day:02}T101112"


class OsfServer(ArchiveServer):
    """OSF, with projects that tests put there."""

    provider = "osf"
    has_versions = False
    misspelt = "zzzzz"

    def __init__(self) -> None:
        super().__init__()
        self.projects: dict[str, _Project] = {}
        self.gone: set[str] = set()

    def source(self) -> Osf:
        return Osf(f"{self.url}/v2", self.url)

    def publish(
        self, *versions: Mapping[str, bytes], title: str = "A record", kind: str = "nodes", **extra: Any
    ) -> Published:
        number = f"ab{len(self.projects):03}"
        self.projects[number] = _Project(title, {}, 0, kind, extra=extra)
        address = f"{self.url}/{number}"
        record = Published(number, address, (), page=f"{address}/", title=title, license="MIT License")
        for files in versions:
            record = self.add_version(record, files)
        return record

    def add_version(self, record: Published, files: Mapping[str, bytes]) -> Published:
        project = self.projects[record.locator]
        project.files, project.day = dict(files), project.day + 1
        return replace(record, versions=(*record.versions, project.version))

    def change(self, record: Published, files: Mapping[str, bytes]) -> None:
        self.projects[record.locator].files = dict(files)

    def withdraw(self, record: Published) -> None:
        self.gone.add(record.locator)

    def restrict(self, record: Published) -> None:
        self.projects[record.locator].is_public = False

    def answer(self, request: Request) -> Answer:
        if (match := re.fullmatch(r"/v2/(nodes|registrations)/([a-z0-9]+)/(.*)", request.path)) is not None:
            project = self.projects.get(match[2])
            if match[2] in self.gone:
                return Answer.of_json({"errors": [{"detail": "The requested node is no longer available."}]}, 410)
            if project is None or project.kind != match[1]:
                return Answer.of_json({"errors": [{"detail": "Not found."}]}, 404)
            if not project.is_public:
                return Answer.of_json({"errors": [{"detail": "Authentication credentials were not provided."}]}, 401)
            if not match[3]:
                return self._about(match[2], project, request)
            folder = match[3].removeprefix("files/osfstorage").strip("/")
            return self._files(request, project, folder)
        if (match := re.fullmatch(r"/download/(\w+)/", request.path)) is not None:
            return Answer.redirect(f"{self.url}/v1/resources/x/providers/osfstorage/{match[1]}?direct=&version=1")
        if (match := re.fullmatch(r"/v1/resources/x/providers/osfstorage/(\w+)", request.path)) is not None:
            return Answer.redirect(f"{self.url}/store/{match[1]}?X-Goog-Expires=10")
        if (match := re.fullmatch(r"/store/(\w+)", request.path)) is not None:
            files = [one for project in self.projects.values() for one in project.files.items()]
            return next((Answer.of_bytes(body) for path, body in files if _number(path) == match[1]), NOT_FOUND)
        return NOT_FOUND

    def _about(self, number: str, project: _Project, request: Request) -> Answer:
        registered = {"date_registered": "2024-02-03T04:05:06.123Z"} if project.kind == "registrations" else {}
        attributes = {
            "title": project.title,
            "public": True,
            "date_modified": project.changed,
            **registered,
            **(project.extra or {}),
        }
        license_ = {"data": {"id": "1", "type": "licenses", "attributes": {"name": "MIT License"}}}
        embeds = {"license": license_} if request.query.get("embed") == "license" else {}
        return Answer.of_json(
            {"data": {"id": number, "type": project.kind, "attributes": attributes, "embeds": embeds}}
        )

    def _files(self, request: Request, project: _Project, folder: str) -> Answer:
        folders = ["", *(path[: match.start()] for path in project.files for match in re.finditer("/", path))]
        inside = next((f"{one}/" if one else "" for one in folders if _number(one) == folder or not folder), None)
        if inside is None:
            return NOT_FOUND
        entries: dict[str, dict[str, Any]] = {}
        for path, body in paths(project.files):
            if path.startswith(inside):
                name, deeper, _ = path.removeprefix(inside).partition("/")
                entries[name] = self._entry(inside + name, None if deeper else body, project)
        shown = list(entries.values())
        page, size = int(request.query["page"]), min(MOST_IN_A_PAGE, int(request.query["page[size]"]))
        more = f"{self.url}{request.path}?page={page + 1}" if page * size < len(shown) else None
        links = {
            "first": None,
            "last": None,
            "prev": None,
            "next": more,
            "meta": {"total": len(shown), "per_page": size},
        }
        return Answer.of_json({"data": shown[(page - 1) * size : page * size], "links": links})

    def _entry(self, path: str, body: bytes | None, project: _Project) -> dict[str, Any]:
        number = _number(path)
        attributes: dict[str, Any] = {
            "kind": "folder" if body is None else "file",
            "name": path.rpartition("/")[2],
            "path": f"/{number}/" if body is None else f"/{number}",
            "materialized_path": f"/{path}/" if body is None else f"/{path}",
            "provider": "osfstorage",
            "size": None if body is None else len(body),
            "date_modified": None if body is None else project.changed + "Z",
            "current_version": 1,
            "extra": {"hashes": {"md5": None, "sha256": None}},
        }
        if body is not None:
            attributes["extra"] = {
                "hashes": {"md5": hashlib.md5(body).hexdigest(), "sha256": hashlib.sha256(body).hexdigest()},
                "downloads": 0,
            }
        return {"id": number, "type": "files", "attributes": attributes}


def _number(path: str) -> str:
    return hashlib.md5(path.encode()).hexdigest()[:24]
