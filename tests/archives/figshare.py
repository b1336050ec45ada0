"""A stand-in for figshare's API: https://docs.figshare.com.

- ``GET /v2/articles/ID`` (the newest version) and ``/versions/V``: #article_details, #article_version_details. Both list ten files at most.
- ``GET /v2/articles/ID/versions/V/files?page=&page_size=``: #article_version_files.
- ``POST /v2/articles/search`` with ``doi``: #articles_search. It finds the newest version, by that version's own DOI.
- Downloads are at another host, which redirects to its storage: https://docs.figshare.com/#upload_files_example_upload_on_figshare.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from replay_build_service.sources.figshare import Figshare
from tests.archives.server import NOT_FOUND, Answer, ArchiveServer, Published, Request, paths

PREFIX = "10.6084/m9.figshare"
IN_AN_ANSWER = 10
"""Files that an article's own answer lists."""


@dataclass
class _Article:
    doi: str
    title: str
    versions: list[dict[str, bytes]]
    extra: dict[str, Any]
    """What every version's answer says besides."""
    linked: tuple[str, ...] = ()
    """Names of files that are links to elsewhere."""


class FigshareServer(ArchiveServer):
    """figshare, with articles that tests put there."""

    provider = "figshare"
    misspelt = f"{PREFIX}.99999999"

    def __init__(self) -> None:
        super().__init__()
        self._articles: dict[int, _Article] = {}
        self._next = 9782000

    def source(self) -> Figshare:
        return Figshare(api=f"{self.url}/v2", downloads=f"{self.url}/files")

    def publish(
        self,
        *versions: Mapping[str, bytes],
        title: str = "A record",
        doi: str = "",
        linked: tuple[str, ...] = (),
        **extra: Any,
    ) -> Published:
        """``doi``: with ``{number}`` where the article's is, as an institution has them; ``extra``: what answers say besides."""
        self._next += 1
        number = self._next
        doi = (doi or f"{PREFIX}.{{number}}").format(number=number)
        self._articles[number] = _Article(doi, title, [], extra, linked)
        record = Published(doi, f"https://doi.org/{doi.lower()}", (), title=title)
        for files in versions:
            record = self.add_version(record, files)
        return record

    def add_version(self, record: Published, files: Mapping[str, bytes]) -> Published:
        number, article = self._of(record)
        article.versions.append(dict(files))
        count = len(article.versions)
        return replace(
            record,
            versions=(*record.versions, str(count)),
            locators=(*record.locators, f"{record.locator}.v{count}"),
            page=f"https://figshare.com/articles/software/A_record/{number}/{count}",
            license="CC BY 4.0",
        )

    def change(self, record: Published, files: Mapping[str, bytes]) -> None:
        self._of(record)[1].versions[-1] = dict(files)

    def withdraw(self, record: Published) -> None:
        del self._articles[self._of(record)[0]]

    def restrict(self, record: Published) -> None:
        self._of(record)[1].extra |= {"is_embargoed": True, "embargo_type": "file", "embargo_date": "2099-01-01"}

    def answer(self, request: Request) -> Answer:
        if request.method == "POST" and request.path == "/v2/articles/search":
            return Answer.of_json([self._short(number) for number, _ in self._found(request.json()["doi"])])
        if (match := re.fullmatch(r"/v2/articles/(\d+)(?:/versions/(\d+)(/files)?)?", request.path)) is not None:
            article = self._articles.get(int(match[1]))
            version = int(match[2] or (len(article.versions) if article else 0))
            if article is None or not 1 <= version <= len(article.versions):
                return NOT_FOUND
            if match[3]:
                page, size = int(request.query.get("page", "1")), int(request.query.get("page_size", "10"))
                return Answer.of_json(self._files(int(match[1]), version)[(page - 1) * size : page * size])
            return Answer.of_json(self._whole(int(match[1]), version))
        if (match := re.fullmatch(r"/files/(\d+)", request.path)) is not None:
            return Answer.redirect(f"{self.url}/storage/{match[1]}?X-Amz-Expires=10")
        if (match := re.fullmatch(r"/storage/(\d+)", request.path)) is not None:
            return self._stored(int(match[1]))
        return NOT_FOUND

    def _found(self, doi: str) -> Sequence[tuple[int, _Article]]:
        """Each version has its DOI, and the search knows that of the newest alone."""
        found = self._articles.items()
        return [(number, one) for number, one in found if doi in {one.doi, f"{one.doi}.v{len(one.versions)}"}]

    def _short(self, number: int) -> dict[str, Any]:
        article = self._articles[number]
        return {"id": number, "title": article.title, "doi": f"{article.doi}.v{len(article.versions)}"}

    def _whole(self, number: int, version: int) -> dict[str, Any]:
        article = self._articles[number]
        return {
            "id": number,
            "title": article.title,
            "doi": f"{article.doi}.v{version}",
            "version": version,
            "url_public_html": "https://figshare.com/articles/software/A_record/" + str(number),
            "figshare_url": f"https://figshare.com/articles/software/A_record/{number}",
            "license": {"value": 1, "name": "CC BY 4.0", "url": "https://creativecommons.org/licenses/by/4.0/"},
            "is_embargoed": False,
            "is_confidential": False,
            "is_metadata_record": False,
            "download_disabled": False,
            "files": self._files(number, version)[:IN_AN_ANSWER],
            "folder_structure": self._folders(number, version),
            **article.extra,
        }

    def _files(self, number: int, version: int) -> list[dict[str, Any]]:
        article = self._articles[number]
        if article.extra.get("is_embargoed"):
            return []
        return [
            {
                "id": self._file(number, version, index),
                "name": name.rpartition("/")[2],
                "size": 0 if name in article.linked else len(body),
                "is_link_only": name in article.linked,
                "download_url": f"https://ndownloader.figshare.com/files/{self._file(number, version, index)}",
                "supplied_md5": "",
                "computed_md5": "" if name in article.linked else hashlib.md5(body).hexdigest(),
                "mimetype": "application/octet-stream",
            }
            for index, (name, body) in enumerate(paths(article.versions[version - 1]))
        ]

    def _folders(self, number: int, version: int) -> dict[str, str]:
        names = [name for name, _ in paths(self._articles[number].versions[version - 1])]
        return {
            str(self._file(number, version, index)): name.rpartition("/")[0]
            for index, name in enumerate(names)
            if "/" in name
        }

    @staticmethod
    def _file(number: int, version: int, index: int) -> int:
        return (number * 100 + version) * 10_000 + index

    def _stored(self, file: int) -> Answer:
        rest, index = divmod(file, 10_000)
        number, version = divmod(rest, 100)
        article = self._articles.get(number)
        if article is None:
            return NOT_FOUND
        return Answer.of_bytes(paths(article.versions[version - 1])[index][1])

    def _of(self, record: Published) -> tuple[int, _Article]:
        return next((number, one) for number, one in self._articles.items() if one.doi == record.locator)
