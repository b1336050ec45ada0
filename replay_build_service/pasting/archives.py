"""Published records: DOIs in any spelling, SWHIDs, and the pages of Zenodo, figshare, Dataverse, HydroShare, OSF, CKAN and
Software Heritage."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote

from replay_build_service.errors import BadLink
from replay_build_service.pasting.address import Address
from replay_build_service.pasting.forges import at_ref
from replay_build_service.pasting.pasted import Pasted, at, opened, opened_file

MOST_DOI = 300
"""Characters of a DOI."""

_DOI = re.compile(r"(?:doi(?:\s*:\s*|\s+)?/?|info:doi/)?(10\.[0-9]{4,9}(?:\.[0-9]+)*/\S+)", re.IGNORECASE)
_DOI_HOSTS = frozenset({"doi.org", "dx.doi.org", "hdl.handle.net"})
_SOFTWARE_HERITAGE = frozenset({"archive.softwareheritage.org", "webapp.softwareheritage.org"})
_ZENODO_DOI = re.compile(r"(10\.(?:5281|5072)/zenodo\.[0-9]+)", re.IGNORECASE)
_FIGSHARE_DOI = re.compile(r"10\.6084/m9\.figshare\.[0-9]+(?:\.v[0-9]+)?", re.IGNORECASE)
_HYDROSHARE_DOI = re.compile(r"10\.4211/hs\.([0-9a-f]{32})", re.IGNORECASE)
_OSF_DOI = re.compile(r"10\.17605/osf\.io/([a-z0-9]{5,6})", re.IGNORECASE)
_HARVARD = "10.7910/"
_VERSION = re.compile(r"[0-9]{1,6}\.[0-9]{1,6}")
_ACTIVITY = re.compile(r"[A-Za-z0-9_-]{2,100}")
_OSF_ID = re.compile(r"[a-z0-9]{5}", re.IGNORECASE)
_HEX = re.compile(r"[0-9a-f]{32}", re.IGNORECASE)
_SWHID = re.compile(r"swh:1:(?P<kind>cnt|dir|rev|rel|snp):[0-9a-f]{40}", re.IGNORECASE)


# DOIs


def record(text: str, path: Sequence[str] = ()) -> Pasted | None:
    """The record of a DOI as people write it, or of a record's id with its provider unsaid; none for anything else."""
    text = text.strip()
    if found := _DOI.fullmatch(text):
        return of_doi(found[1], path)
    if text.lower().startswith(("https://", "http://")):
        return archive(Address.of(text))
    return at("hydroshare", text.lower(), "") if _HEX.fullmatch(text) else None


def of_doi(doi: str, path: Sequence[str] = (), version: str = "") -> Pasted:
    """Raises `BadLink` for one that is too long."""
    doi = doi.strip("/")
    if len(doi) > MOST_DOI:
        raise BadLink(f"This DOI is too long: {len(doi)} characters, and at most {MOST_DOI} are read.")
    provider, locator = "doi", doi
    if _ZENODO_DOI.fullmatch(doi):
        provider, locator = "zenodo", doi.lower()
    elif _FIGSHARE_DOI.fullmatch(doi):
        provider, locator = "figshare", doi.lower()
    elif found := _HYDROSHARE_DOI.fullmatch(doi):
        provider, locator = "hydroshare", found[1].lower()
    elif found := _OSF_DOI.fullmatch(doi):
        provider, locator = "osf", found[1].lower()
    elif doi.startswith(_HARVARD):
        provider = "dataverse"
    found_at = at(provider, locator, version)
    return Pasted(found_at.spec, opened_file(path))


# the pages of archives


def archive(address: Address) -> Pasted | None:
    """A record's page at one of the archives that are known by their hosts; none for any other host.

    Raises `BadLink` for a page of an archive that is of no record.
    """
    host = address.host
    if host in _DOI_HOSTS:
        return _resolver(address)
    if host in {"zenodo.org", "sandbox.zenodo.org"}:
        return _zenodo(address)
    if host == "figshare.com" or host.endswith(".figshare.com"):
        return _figshare(address)
    if host in {"hydroshare.org", "beta.hydroshare.org"}:
        return _hydroshare(address)
    if host in {"osf.io", "api.osf.io"}:
        return _osf(address)
    if host in _SOFTWARE_HERITAGE:
        return _software_heritage(address)
    return None


def _resolver(address: Address) -> Pasted:
    found = _DOI.fullmatch("/".join(address.parts))
    if found is None:
        raise BadLink("This address has no DOI in it. One reads https://doi.org/10.5281/zenodo.3242074.")
    return of_doi(found[1])


def _zenodo(address: Address) -> Pasted:
    prefix = "10.5072" if address.host.startswith("sandbox.") else "10.5281"
    match [part for part in address.parts if part != "api"]:
        case ["record" | "records", number, *rest] if _is_number(number):
            path = rest[1:2] if rest[:1] in (["files"], ["preview"]) else []
            found = of_doi(f"{prefix}/zenodo.{number}", path)
            if rest[:1] == ["latest"]:
                return found.noting("The address asks for the newest version; the one that it names is meant.")
            return found
        case ["doi", *doi] if (found := _DOI.fullmatch("/".join(doi))) is not None:
            return of_doi(found[1])
        case ["badge", kind, *doi] if kind.upper() == "DOI" and doi:
            return of_doi("/".join(doi).removesuffix(".svg"))
        case ["badge", *_]:
            raise BadLink(
                "This badge of Zenodo does not name its record. Open it, and paste the DOI that its page shows."
            )
        case ["deposit" | "uploads" | "me", *_]:
            raise BadLink("This is a draft that only you can see. Publish it, and paste its DOI.")
        case _:
            raise BadLink(
                "This page of Zenodo is of no record. One reads https://zenodo.org/records/3242074; its DOI does, too."
            )


def _figshare(address: Address) -> Pasted:
    parts = address.parts
    start = parts.index("articles") + 1 if "articles" in parts and "account" not in parts else len(parts)
    words = [part for part in parts[start:] if part != "versions"]
    numbers: list[str] = []
    while words and _is_number(words[-1]) and len(numbers) < 2:
        numbers.insert(0, words.pop())
    if len(numbers) == 2 and len(numbers[1]) >= 5:
        del numbers[0]  # a title that ends in a number
    if not numbers:
        raise BadLink(
            "This page of figshare is of no public item. One reads https://figshare.com/articles/dataset/TITLE/12345678; its DOI does, too."
        )
    version = f".v{numbers[1]}" if len(numbers) == 2 else ""
    return of_doi(f"10.6084/m9.figshare.{numbers[0]}{version}")


def _hydroshare(address: Address) -> Pasted:
    match [part for part in address.parts if part != "hsapi"]:
        case ["resource", name, *rest] if _HEX.fullmatch(name):
            path = rest[2:] if rest[:2] == ["data", "contents"] else []
            return Pasted(at("hydroshare", name.lower(), "").spec, opened_file(path))
        case _:
            raise BadLink(
                "This page of HydroShare is of no resource. One reads https://www.hydroshare.org/resource/ID/."
            )


def _osf(address: Address) -> Pasted:
    parts = [part for part in address.parts if part not in {"v2", "nodes", "project"}]
    if not parts or not _OSF_ID.fullmatch(parts[0]) or parts[0] in {"login", "files", "prereg"}:
        raise BadLink("This page of OSF is of no project. One reads https://osf.io/abcde/.")
    return at("osf", parts[0].lower(), "")


# archives at any host, by the shape of the address


def dataverse(address: Address) -> Pasted | None:
    """A dataset's or file's page of any Dataverse: ``?persistentId=doi:…``, with ``&version=`` where one is shown."""
    named = address.asked("persistentId")
    if not named and address.parts[-1:] in {("dataset.xhtml",), ("file.xhtml",)}:
        raise BadLink("This address does not name its dataset. Paste the DOI that the dataset's page shows.")
    if not named:
        return None
    found = _DOI.fullmatch(named.strip())
    if found is None:
        host_at = named.lower().find("10.") if named.lower().startswith(("https://", "http://")) else -1
        found = _DOI.fullmatch(named[host_at:]) if host_at > 0 else None
    if found is None:
        raise BadLink("This dataset has no DOI, and Replay finds datasets of a Dataverse by their DOIs alone.")
    version = address.asked("version")
    provider = at("dataverse", found[1].strip("/"), version if _VERSION.fullmatch(version) else "")
    if version.lower().strip(":") == "draft":
        return provider.noting("The draft of this dataset is not public; its newest version is meant.")
    return provider


def ckan(address: Address) -> Pasted | None:
    """A dataset's page of any CKAN: ``…/dataset/NAME[/resource/ID/download/FILE]``, and ``?activity_id=`` for how it once was."""
    parts = address.parts
    start = parts.index("dataset") + 1 if "dataset" in parts else len(parts)
    if parts[start : start + 1] in {("groups",), ("activity",), ("showcases",)} and len(parts) > start + 1:
        parts = (*parts[:start], *parts[start + 1 :])
    if len(parts) <= start:
        return None
    rest = parts[start + 1 :]
    path = rest[3:] if rest[:1] == ("resource",) and rest[2:3] == ("download",) else ()
    activity = rest[1] if rest[:1] == ("history",) and len(rest) > 1 else address.asked("activity_id")
    once = f"?activity_id={activity}" if _ACTIVITY.fullmatch(activity) else ""
    return Pasted(at("ckan", address.url(parts[: start + 1]) + once, "").spec, opened_file(path))


# Software Heritage

_ARCHIVED = (
    "The page shows what Software Heritage saw of this repository. What the repository has now is meant; for what is archived, open "
    "“Permalinks” there and paste the SWHID."
)


def shows_origin(address: Address) -> bool:
    """Whether this is Software Heritage's page of a repository, whose address it has in its query."""
    return address.host in _SOFTWARE_HERITAGE and address.parts[:2] == ("browse", "origin") and bool(origin_of(address))


def origin_of(address: Address) -> str:
    """The address of that repository; empty where there is none."""
    return address.asked("origin_url")


def of_origin(address: Address, repository: Pasted) -> Pasted:
    """What such a page shows, of the repository that it is of."""
    path = address.asked("path").strip("/")
    return at_ref(
        Pasted(repository.spec, opened([path]) if path else "", (*repository.notes, _ARCHIVED)),
        address.asked("revision"),
    )


def _software_heritage(address: Address) -> Pasted:
    path = unquote(address.path)
    start = path.lower().find("swh:1:")
    if start >= 0:
        return swhid(path[start:].rstrip("/"))
    kinds = {"revision": "rev", "release": "rel", "directory": "dir", "snapshot": "snp", "content": "cnt"}
    match list(address.parts):
        case ["browse", kind, name, *_] if kind in kinds and _SWHID.fullmatch(
            told := f"swh:1:{kinds[kind]}:{name.removeprefix('sha1_git:')}"
        ):
            path = address.asked("path").strip("/")
            inside = opened([path]) if path and kind != "content" else ""
            return Pasted(at("swh", told.lower(), "").spec, inside)
        case _:
            raise BadLink(
                "This page of Software Heritage names no object that is pinned. Open “Permalinks” there, and paste the SWHID."
            )


def swhid(text: str) -> Pasted:
    """A SWHID with its qualifiers (https://www.swhid.org/specification/v1.2/): ``origin``, ``visit``, ``anchor``, ``path``, ``lines``.

    Where there is an anchor, that is the whole tree, and the object one file or folder in it.
    """
    core, *qualifiers = text.split(";")
    found = _SWHID.fullmatch(core)
    if found is None:
        raise BadLink(
            "That is no SWHID. One reads swh:1:rev: and 40 hexadecimal digits (or dir, rel, snp, cnt for rev)."
        )
    told = {name: value for name, _, value in (part.partition("=") for part in qualifiers)}
    anchor, path = unquote(told.get("anchor", "")), unquote(told.get("path", "")).strip("/")
    if _SWHID.fullmatch(anchor) and not anchor.lower().startswith("swh:1:cnt:"):
        return Pasted(at("swh", anchor.lower(), "").spec, opened([path]) if path else "")
    is_whole = found["kind"].lower() in {"rev", "rel", "snp"}
    return Pasted(at("swh", core.lower(), "").spec, opened([path]) if path and is_whole else "")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()
