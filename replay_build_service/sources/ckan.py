"""CKAN's datasets, at any portal, by its action API (https://docs.ckan.org/en/latest/api/).

CKAN keeps no older files of a dataset, so the version here is the moment when it was changed last, with the digest over what it lists. An older
list of files can be named where a portal shows its activities (``?activity_id=`` in a dataset's address, ``activity_data_show``).

A portal may be a catalogue of files that others keep. Files at another host than the portal's are fetched where this Replay may ask that host,
and left out otherwise, which the person is told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit

from pydantic import BaseModel, Field, field_validator

from replay_build_service.errors import BadLink, OriginRefused, RefNotFound, RepositoryNotFound
from replay_build_service.outgoing import Origin
from replay_build_service.sources.asking import Asker
from replay_build_service.sources.base import Record, RemoteFile
from replay_build_service.sources.moments import version_of

__all__ = ["Ckan"]

_NAME = re.compile(r"[A-Za-z0-9_-]{2,100}")
"""https://docs.ckan.org/en/latest/api/#ckan.logic.action.create.package_create: of a dataset, and of an id."""
_FOLDER = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*){0,10}")
"""Of a site, where CKAN lies in one."""
_API_URL = re.compile(
    r"(?P<portal>https?://[A-Za-z0-9.:\[\]_~/-]+)/api/3/action/(?:package_show\?id=(?P<name>[A-Za-z0-9_-]{2,100})"
    r"|activity_data_show\?id=(?P<activity>[A-Za-z0-9_-]{2,100})&object_type=package)"
)
_ASCII = "".join(map(chr, range(0x21, 0x7F)))
_HASHES = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}


class _Resource(BaseModel):
    id: str = Field(max_length=200)
    url: str = Field(default="", max_length=8192)
    url_type: str | None = None
    name: str | None = Field(default=None, max_length=4096)
    size: int | None = None
    hash: str | None = None
    state: str = "active"

    @field_validator("size", mode="before")
    @classmethod
    def _known(cls, value: Any) -> int | None:
        """Portals write it as a number, as text, in words or not at all; what is no number of bytes is not known."""
        text = str(value)
        return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


class _Package(BaseModel):
    id: str = Field(max_length=200)
    name: str = Field(pattern=r"^[A-Za-z0-9_-]{2,100}$")
    title: str | None = None
    license_id: str | None = None
    license_title: str | None = None
    private: bool | None = None
    state: str = "active"
    metadata_modified: str
    resources: list[_Resource] = Field(default_factory=list[_Resource], max_length=20_000)


class _Answer(BaseModel):
    success: bool
    result: _Package


class _Dataset(NamedTuple):
    """Where a dataset is asked for."""

    portal: str
    """Its address below which the API is; CKAN may lie in a folder of a site."""
    name: str
    activity: str | None

    @property
    def api_url(self) -> str:
        if self.activity is None:
            return f"{self.portal}/api/3/action/package_show?id={self.name}"
        return f"{self.portal}/api/3/action/activity_data_show?id={self.activity}&object_type=package"


@dataclass(frozen=True, slots=True)
class Ckan:
    """`RecordSource` of CKAN's portals. Which portals may be asked is the outgoing rules' to say."""

    @property
    def name(self) -> str:
        """As it stands in links."""
        return "ckan"

    async def find(self, ask: Asker, locator: str, version: str | None) -> Record:
        """See `RecordSource.find`. There is one version at any time, named by the moment of the last change."""
        record = await _asked(ask, _dataset(locator))
        if version not in {None, record.version}:
            raise RefNotFound(
                f"A CKAN portal keeps no older files, and the dataset has changed since version {version}.",
                (record.pinned,),
            )
        return record

    async def listed(self, ask: Asker, api_url: str) -> Record:
        """See `RecordSource.listed`."""
        match = _API_URL.fullmatch(api_url)
        if match is None:
            raise BadLink("That is no address of a dataset in a CKAN portal.")
        return await _asked(ask, _Dataset(match["portal"], match["name"] or "", match["activity"]))


def _dataset(locator: str) -> _Dataset:
    """From the address of a dataset, of a resource in it, or of an activity of it, as a browser shows them."""
    wrong = "A CKAN link holds the dataset's address, percent-encoded: https%3A%2F%2FHOST%2Fdataset%2FNAME."
    origin = Origin.of_url(locator)
    parts = urlsplit(locator)
    before, found, after = parts.path.partition("/dataset/")
    segments = [unquote(segment) for segment in after.split("/") if segment]
    activity = next(iter(parse_qs(parts.query).get("activity_id", [])), None)
    if not found or not segments:
        raise BadLink(wrong)
    if segments[0] == "activity" and len(segments) > 1:  # /dataset/activity/NAME[/history] of newer portals
        segments = segments[1:]
    if "history" in segments[1:-1]:
        activity = segments[segments.index("history", 1) + 1]
    if not _NAME.fullmatch(segments[0]) or not (activity is None or _NAME.fullmatch(activity)):
        raise BadLink(wrong)
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    port = "" if origin.port == {"https": 443, "http": 80}[origin.scheme] else f":{origin.port}"
    # What follows the language of a page, /en/dataset/NAME, is no folder that an API lies in.
    folder = re.sub(r"(?:/[a-z]{2}(?:_[A-Za-z]{2,4}){0,2})+$", "", before)
    if not _FOLDER.fullmatch(folder):
        raise BadLink(wrong)
    return _Dataset(f"{origin.scheme}://{host}{port}{folder}", segments[0], activity)


async def _asked(ask: Asker, dataset: _Dataset) -> Record:
    host = dataset.portal.partition("://")[2].partition("/")[0]
    shown = dataset.name or f"with the activity {dataset.activity}"
    if not ask.is_portal(dataset.portal):
        raise OriginRefused(
            f"{host} is not among the hosts that this Replay takes for portals of CKAN. An administrator of this hub can add portals."
        )
    missing = f"{host} has no public dataset {shown}. It is gone, private or misspelt."
    answer = await ask.json(dataset.api_url, _Answer, missing=missing)
    package = answer.result
    if not answer.success or package.private or package.state != "active":
        raise RepositoryNotFound(missing)
    # A dataset is asked for by its id, too; both spellings mean one.
    dataset = dataset._replace(name=package.name)
    active = [one for one in package.resources if one.state == "active" and one.url]
    files, refused = _remote(ask, dataset.portal, active)
    if refused and not files:
        raise RepositoryNotFound(
            f"All files of the dataset are kept elsewhere, at {', '.join(sorted(refused)[:3])}, which this Replay does not fetch from. "
            "An administrator of this hub can add it."
        )
    page = f"{dataset.portal}/dataset/{package.name}"
    return Record(
        source="ckan",
        api_url=dataset.api_url,
        version=version_of(package.metadata_modified),
        identity=page,
        page=page if dataset.activity is None else f"{page}?activity_id={dataset.activity}",
        files=files,
        title=package.title or package.name,
        license=package.license_id or package.license_title or "",
        notes=_told(refused),
    )


def _told(refused: Sequence[str]) -> tuple[str, ...]:
    if not refused:
        return ()
    hosts = ", ".join(sorted(set(refused))[:3])
    files = "One file is" if len(refused) == 1 else f"{len(refused)} files are"
    return (f"{files} kept elsewhere ({hosts}), where this Replay does not fetch from, and left out.",)


def _remote(ask: Asker, portal: str, resources: Sequence[_Resource]) -> tuple[tuple[RemoteFile, ...], list[str]]:
    """The files, and the hosts of those that may not be fetched, one for each."""
    files: list[RemoteFile] = []
    refused: list[str] = []
    for path, resource in _named(resources):
        try:
            origin = Origin.of_url(resource.url)
        except (BadLink, OriginRefused):
            refused.append("an address that is no web address")
            continue
        if origin != Origin.of_url(portal) and not ask.may_ask(resource.url):
            refused.append(origin.host)
        else:
            files.append(RemoteFile(path, _encoded(origin, resource.url), _size(resource), _checksum(resource)))
    return tuple(files), refused


def _encoded(origin: Origin, url: str) -> str:
    """The address as it is asked for: portals write letters of all scripts in it."""
    parts = urlsplit(url)
    rest = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return f"{origin.scheme}://{origin.netloc}{quote(rest, safe=_ASCII)}"


def _named(resources: Sequence[_Resource]) -> Iterator[tuple[str, _Resource]]:
    """Each with the last part of its address, as repo2docker names them; where two are named alike, below a folder of its id."""
    names = [(_file_name(one), one) for one in resources]
    counted: dict[str, int] = {}
    for name, _ in names:
        counted[name.casefold()] = counted.get(name.casefold(), 0) + 1
    for name, one in names:
        yield (name if counted[name.casefold()] == 1 else f"{one.id}/{name}"), one


def _file_name(resource: _Resource) -> str:
    try:
        last = unquote(urlsplit(resource.url).path).rstrip("/").rpartition("/")[2]
    except ValueError:
        last = ""
    return last if last not in {"", ".", ".."} else resource.id


def _size(resource: _Resource) -> int | None:
    """Of what lies elsewhere it is what somebody once wrote, and no fact."""
    return resource.size if resource.url_type == "upload" else None


def _checksum(resource: _Resource) -> str:
    value = (resource.hash or "").lower().rpartition(":")[2]
    if resource.url_type != "upload" or not re.fullmatch(r"[0-9a-f]+", value) or len(value) not in _HASHES:
        return ""
    return f"{_HASHES[len(value)]}:{value}"
