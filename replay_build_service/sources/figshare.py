"""figshare's articles (https://docs.figshare.com): those of figshare.com and of the portals that institutions have there, which share one API.

A DOI without ``.vN`` stands for the newest version, one with it for that version. Institutions have prefixes of their own, and mostly the
article's number at the end: the article of that number is then asked for, and believed only if its DOI is the one that was meant; the
rest is searched for by DOI. figshare's own DOIs name the article of their number also where an institution has given that another DOI, as the
addresses of its portal's pages do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, Field, RootModel

from replay_build_service.errors import BadLink, OriginRefused, RefNotFound, RepositoryNotFound
from replay_build_service.outgoing import Origin
from replay_build_service.sources.asking import Asker
from replay_build_service.sources.base import Record, RemoteFile
from replay_build_service.sources.paging import pages

__all__ = ["Figshare"]

_LOCATOR = re.compile(r"(?P<doi>10\.[0-9]{4,9}/[!-~]{1,200}?)(?:\.v(?P<version>[1-9][0-9]{0,5}))?", re.IGNORECASE)
_NUMBER = re.compile(r"[./](?P<number>[1-9][0-9]{2,11})\Z")
_OWN = re.compile(r"10\.6084/m9\.figshare\.[1-9][0-9]{2,11}", re.IGNORECASE | re.ASCII)
"""figshare's own DOIs are made of the article's number, and so name it also where an institution has given it another DOI."""
_VERSION = re.compile(r"[1-9][0-9]{0,5}")

_OTHERS = ("10.5281/zenodo.", "10.5072/zenodo.", "10.17605/osf.io/", "10.4211/hs.")
"""How DOIs begin that other archives give. Policies know records by their DOIs, so none of figshare's may pass for one of these."""

_LISTED_AT_MOST = 10
"""Files that an article's own answer lists; of a longer list it may be the beginning."""
_PAGE = 1000
_MOST_PAGES = 200


class _File(BaseModel):
    id: int = Field(ge=1)
    name: str = Field(max_length=4096)
    size: int | None = Field(default=None, ge=0)
    is_link_only: bool = False
    computed_md5: str | None = Field(default=None, pattern=r"^([0-9a-f]{32})?$")


class _Files(RootModel[list[_File]]):
    pass


class _License(BaseModel):
    name: str | None = ""


class _Found(BaseModel):
    id: int = Field(ge=1, lt=10**12)
    doi: str | None = ""


class _FoundList(RootModel[list[_Found]]):
    pass


class _Article(_Found):
    # It becomes the record's address, by which policies know it. Without any, the article's number stands for it.
    doi: str | None = Field(default="", pattern=r"^(|10\.[0-9]{4,9}/[!-~]{1,200})$")
    title: str | None = ""
    version: int = Field(ge=1, lt=10**6)
    files: list[_File] = Field(default_factory=list[_File])
    # https://docs.figshare.com: “Mapping of file ids to folder paths, if folders are used”; an empty list where none are.
    folder_structure: dict[str, str] | list[object] | None = None
    license: _License | None = None
    figshare_url: str | None = None
    is_embargoed: bool = False
    is_confidential: bool = False
    is_metadata_record: bool = False
    download_disabled: bool = False


@dataclass(frozen=True, slots=True)
class Figshare:
    """`RecordSource` of figshare."""

    api: str = "https://api.figshare.com/v2"
    downloads: str = "https://ndownloader.figshare.com/files"

    @property
    def name(self) -> str:
        """As it stands in links."""
        return "figshare"

    async def find(self, ask: Asker, locator: str, version: str | None) -> Record:
        """See `RecordSource.find`. Versions are numbers from 1 on."""
        match = _LOCATOR.fullmatch(locator)
        if match is None:
            raise BadLink("A link to figshare reads /v2/figshare/10.6084/m9.figshare.NUMBER, as in the article's DOI.")
        if version is not None and not _VERSION.fullmatch(version):
            raise RefNotFound(f"“{version}” is no version of an article of figshare: they count from 1.")
        article = await self._article_of(ask, match["doi"], match["version"] or version)
        record = await self._record(ask, article)
        if version is not None and match["version"] not in {None, version}:
            raise RefNotFound(f"{locator} names version {match['version']}, and not {version}.", (record.pinned,))
        return record

    async def listed(self, ask: Asker, api_url: str) -> Record:
        """See `RecordSource.listed`."""
        match = re.fullmatch(re.escape(self.api) + r"/articles/([0-9]{1,12})/versions/([0-9]{1,6})", api_url)
        if match is None:
            raise BadLink("That is no address of an article of figshare.")
        missing = f"Version {match[2]} of article {match[1]} is not public at figshare any more."
        return await self._record(ask, await self._article(ask, int(match[1]), match[2], missing))

    # ---- which article a DOI means

    async def _article_of(self, ask: Asker, doi: str, version: str | None) -> _Article:
        missing = f"figshare has no public article with the DOI {doi}. It is gone, private or misspelt."
        if (match := _NUMBER.search(doi)) is not None:
            try:
                article = await self._article(ask, int(match["number"]), version, missing)
            except RepositoryNotFound:
                article = None
            if article is not None and (_is_of(article, doi) or _OWN.fullmatch(doi)):
                return article
        number = await self._searched(ask, doi, version, missing)
        try:
            return await self._article(ask, number, version, missing)
        except RepositoryNotFound as error:
            newest = None if version is None else await self._article(ask, number, None, missing)
            if newest is None:
                raise
            record = await self._record(ask, newest)
            raise RefNotFound(f"The article {doi} has no version {version}.", (record.pinned,)) from error

    async def _searched(self, ask: Asker, doi: str, version: str | None, missing: str) -> int:
        """Articles are found by their newest version's DOI, so both spellings are asked for."""
        spellings = [doi] if version is None else [f"{doi}.v{version}", doi]
        for spelling in spellings:
            found = await ask.json(f"{self.api}/articles/search", _FoundList, missing=missing, body={"doi": spelling})
            for one in found.root:
                if _is_of(one, doi):
                    return one.id
        if (match := _NUMBER.search(doi)) is not None and version is not None:
            newest = await self._article(ask, int(match["number"]), None, missing)
            if _is_of(newest, doi) or _OWN.fullmatch(doi):
                return newest.id
        raise RepositoryNotFound(missing)

    async def _article(self, ask: Asker, number: int, version: str | None, missing: str) -> _Article:
        which = "" if version is None else f"/versions/{version}"
        return await ask.json(f"{self.api}/articles/{number}{which}", _Article, missing=missing)

    # ---- what it is to us

    async def _record(self, ask: Asker, article: _Article) -> Record:
        doi = _without_version(article.doi or "") or f"10.6084/m9.figshare.{article.id}"
        shown = f"The article {doi} of figshare"
        if doi.lower().startswith(_OTHERS):
            raise RepositoryNotFound(f"The DOI {doi} is none of figshare's. Open it as /v2/doi/{doi}.")
        if article.is_metadata_record:
            raise RepositoryNotFound(f"{shown} is a description without files, so there is nothing to run.")
        if article.is_confidential or article.download_disabled:
            raise RepositoryNotFound(f"{shown} has files that are not public, so they cannot be run.")
        api_url = f"{self.api}/articles/{article.id}/versions/{article.version}"
        listed = await self._files(ask, article, api_url, shown)
        files = [file for file in listed if not file.is_link_only]
        if article.is_embargoed and not files:
            raise RepositoryNotFound(f"{shown} is under embargo: its files are not public yet.")
        if listed and not files:
            raise RepositoryNotFound(f"{shown} only links to files elsewhere, so there is nothing here to run.")
        # A portal's own address; what is none of the web is no link for people.
        page = (
            article.figshare_url if _is_page(article.figshare_url) else f"https://figshare.com/articles/_/{article.id}"
        )
        return Record(
            source=self.name,
            api_url=api_url,
            version=str(article.version),
            identity=f"https://doi.org/{doi.lower()}",
            page=f"{page}/{article.version}",
            files=self._remote(files, article.folder_structure),
            title=article.title or "",
            license=(article.license.name if article.license else None) or "",
            notes=tuple(
                f"{file.name} is a link to another place, and is left out." for file in listed[:20] if file.is_link_only
            ),
        )

    async def _files(self, ask: Asker, article: _Article, api_url: str, shown: str) -> list[_File]:
        if len(article.files) < _LISTED_AT_MOST:
            return article.files

        async def page(number: int) -> _Files:
            address = f"{api_url}/files?page={number}&page_size={_PAGE}"
            return await ask.json(address, _Files, missing=f"{shown} is gone.")

        files: list[_File] = []
        async for found in pages(
            page,
            lambda found: found.root,
            goes_on=lambda found: len(found.root) >= _PAGE,
            most=_MOST_PAGES,
            too_many=lambda: f"{shown} has more than {len(files):,} files, which is the limit here.",
        ):
            files.extend(found.root)
        return files

    def _remote(
        self, files: Sequence[_File], folders: Mapping[str, str] | Sequence[object] | None
    ) -> tuple[RemoteFile, ...]:
        """The addresses are put together here, not taken from the answer, so that an article cannot send anybody elsewhere."""
        of = folders if isinstance(folders, Mapping) else dict[str, str]()
        return tuple(
            RemoteFile(
                "/".join(part for part in (of.get(str(file.id), "").strip("/"), file.name) if part),
                f"{self.downloads}/{file.id}",
                file.size,
                f"md5:{file.computed_md5}" if file.computed_md5 else "",
            )
            for file in files
        )


def _without_version(doi: str) -> str:
    return re.sub(r"\.v[0-9]+\Z", "", doi, flags=re.IGNORECASE | re.ASCII)


def _is_of(article: _Found, doi: str) -> bool:
    return _without_version(article.doi or "").lower() == doi.lower()


def _is_page(url: str | None) -> bool:
    try:
        return url is not None and Origin.of_url(url).scheme == "https"
    except (BadLink, OriginRefused):
        return False
