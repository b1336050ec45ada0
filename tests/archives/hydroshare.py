"""A stand-in for HydroShare: https://www.hydroshare.org/hsapi/.

- ``GET /hsapi/resource/ID/sysmeta/``: the title, the day of the last change as MM-DD-YYYY, whether it is public.
- ``GET /hsapi/resource/ID/files/``: pages of files, each with its address, size and the store's checksum. HydroShare itself
  leaves out empty files, which are here.
- ``GET /hsapi/resource/ID/files/PATH/`` redirects to the download, and that to a store elsewhere.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import quote

from replay_build_service.sources.hydroshare import HydroShare
from tests.archives.server import NOT_FOUND, Answer, ArchiveServer, Published, Request, paths

IN_A_PAGE = 3


@dataclass
class _Resource:
    title: str
    files: dict[str, bytes]
    day: int = 0
    is_public: bool = True
    large: str = ""
    """The path of a file that was uploaded in parts."""

    @property
    def version(self) -> str:
        return f"202401{self.day + 1:02}"


class HydroShareServer(ArchiveServer):
    """HydroShare, with resources that tests put there."""

    provider = "hydroshare"
    has_versions = False
    misspelt = "0" * 32

    def __init__(self) -> None:
        super().__init__()
        self.resources: dict[str, _Resource] = {}

    def source(self) -> HydroShare:
        return HydroShare(self.url)

    def publish(self, *versions: Mapping[str, bytes], title: str = "A record") -> Published:
        number = hashlib.md5(f"resource {len(self.resources)}".encode()).hexdigest()
        self.resources[number] = _Resource(title, {}, -1)
        address = f"{self.url}/resource/{number}"
        record = Published(number, address, (), page=f"{address}/", title=title)
        for files in versions:
            record = self.add_version(record, files)
        return record

    def add_version(self, record: Published, files: Mapping[str, bytes]) -> Published:
        resource = self.resources[record.locator]
        resource.files, resource.day = dict(files), resource.day + 1
        return replace(record, versions=(*record.versions, resource.version))

    def change(self, record: Published, files: Mapping[str, bytes]) -> None:
        self.resources[record.locator].files = dict(files)

    def withdraw(self, record: Published) -> None:
        del self.resources[record.locator]

    def restrict(self, record: Published) -> None:
        self.resources[record.locator].is_public = False

    def answer(self, request: Request) -> Answer:
        match = re.fullmatch(r"/(?:hsapi/resource|django_s3/rest_download|store)/([0-9a-f]{32})/(.*)", request.path)
        resource = self.resources.get(match[1]) if match else None
        if match is None or resource is None:
            return Answer.of_json({"detail": "No resource was found for resource id"}, 404)
        if not resource.is_public:
            return Answer.of_json({"detail": "You do not have permission to perform this action."}, 403)
        number, rest = match[1], match[2]
        if rest == "sysmeta/":
            return self._about(number, resource)
        if rest == "files/":
            return self._files(number, resource, int(request.query.get("page", "1")))
        path = rest.removeprefix("files/").removeprefix("data/contents/").strip("/")
        if path not in resource.files:
            return NOT_FOUND
        if rest.startswith("files/"):
            return Answer.redirect(f"/django_s3/rest_download/{number}/data/contents/{quote(path)}")
        if request.path.startswith("/django_s3/"):
            return Answer.redirect(f"{self.url}/store/{number}/data/contents/{quote(path)}?X-Amz-Expires=10")
        return Answer.of_bytes(resource.files[path])

    def _about(self, number: str, resource: _Resource) -> Answer:
        return Answer.of_json(
            {
                "resource_type": "CompositeResource",
                "resource_title": resource.title,
                "resource_id": number,
                "creator": "Somebody",
                "date_created": "12-31-2023",
                "date_last_updated": f"01-{resource.day + 1:02}-2024",
                "public": True,
                "published": False,
                "bag_url": f"{self.url}/django_s3/download/bags/{number}.zip",
            }
        )

    def _files(self, number: str, resource: _Resource, page: int) -> Answer:
        files = paths(resource.files)
        shown = files[(page - 1) * IN_A_PAGE : page * IN_A_PAGE]
        more = f"{self.url}/hsapi/resource/{number}/files/?page={page + 1}" if page * IN_A_PAGE < len(files) else None
        results = [
            {
                "url": f"http://www.hydroshare.org/resource/{number}/data/contents/{quote(path)}",
                "file_name": path.rpartition("/")[2],
                "size": len(body),
                "content_type": "None",
                "logical_file_type": "",
                "modified_time": "2024-01-01T08:28:14",
                "checksum": hashlib.md5(body).hexdigest() + ("-2" if path == resource.large else ""),
            }
            for path, body in shown
        ]
        return Answer.of_json({"count": len(files), "next": more, "previous": None, "results": results})
