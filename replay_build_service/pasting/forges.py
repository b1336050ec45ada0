"""The pages of git servers: GitHub, GitLab, Gitea and Forgejo (Codeberg), Bitbucket, SourceHut, cgit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from replay_build_service.errors import BadLink
from replay_build_service.pasting.address import Address
from replay_build_service.pasting.pasted import ABOUT, FULL_SHA, Pasted, at, somewhere

_GITHUB_PAGES = re.compile(
    r"about|account|apps|codespaces|collections|contact|customer-stories|dashboard|discussions|enterprise|explore|features|issues|"
    r"join|login|marketplace|new|notifications|organizations|orgs|pricing|pulls|readme|search|security|settings|site|sponsors|"
    r"stars|team|topics|trending|users"
)
"""First parts of addresses at github.com that are nobody's name."""

_VIEWS = frozenset({"tree", "blob", "raw", "edit", "blame", "commits", "blob_plain"})
"""Pages of GitHub and GitLab whose address goes on with a ref and a path."""

_DOWNLOAD = re.compile(r"\.(zip|tar\.gz|tar\.bz2|tar\.xz|tar|tgz|bundle)$")
_FORGE_HOST = re.compile(
    r"(git|gitlab|gitea|forgejo|forge|github|code|scm|src|salsa|framagit|invent)[0-9]*(-[a-z0-9-]+)?\."
)
"""How the names of hosts begin whose every page is one of a repository, as far as can be told."""


def source(address: Address, parts: Sequence[str]) -> tuple[str, str]:
    """Provider and locator of the repository at that path of a host. Raises `BadLink` where the path is too short for one."""
    *folders, last = parts or ("",)
    name = last.removesuffix(".git")
    plain = "/".join([*folders, name])
    match address.host:
        case "github.com" if len(parts) == 2:
            return "gh", plain
        case "gitlab.com" if len(parts) >= 2:
            return "gl", plain
        case "gist.github.com" if len(parts) == 2:
            return "gist", plain
        case "github.com" | "gitlab.com":
            raise BadLink(
                f"This address names no repository. One reads https://{address.host}/OWNER/REPOSITORY, and a notebook of it does, too."
            )
        case _ if name:
            return "git", address.url(tuple(parts))
        case _:
            raise BadLink(f"This address names a host, {address.host}, and no repository there.")


def github(address: Address) -> Pasted:
    """github.com, and what shows the same addresses under another name."""
    return github_path(address.parts)


def github_path(parts: Sequence[str]) -> Pasted:
    """What follows ``https://github.com/``."""
    if len(parts) < 2 or _GITHUB_PAGES.fullmatch(parts[0]):
        raise BadLink(
            "This address of GitHub names no repository. One reads https://github.com/OWNER/REPOSITORY, and a notebook of it does, too."
        )
    locator = f"{parts[0]}/{parts[1].removesuffix('.git')}"
    match list(parts[2:]):
        case []:
            return at("gh", locator)
        case [view, *rest] if view in _VIEWS:
            return somewhere("gh", locator, tuple(rest))
        case ["commit", sha, *_] | ["pull", _, "commits", sha, *_]:
            return at("gh", locator, sha)
        case ["pull", number, *_] if _is_number(number):
            return at("gh", locator, f"refs/pull/{number}/head")
        case ["releases", "tag", *tag] if tag:
            return at("gh", locator, "/".join(tag))
        case ["releases", "download", tag, *_]:
            return at("gh", locator, tag)
        case ["archive" | "zipball" | "tarball" | "zip" | "tar.gz", *rest] if rest:
            return at("gh", locator, _downloaded(rest))
        case _:
            return at("gh", locator, notes=[ABOUT])


def gist(address: Address) -> Pasted:
    """gist.github.com and gist.githubusercontent.com."""
    match list(address.parts):
        case [user, name, "raw" | "archive", *rest]:
            return _gist_at(user, name, [_DOWNLOAD.sub("", part) for part in rest[:1]] + rest[1:])
        case [user, name, *rest]:
            return _gist_at(user, name, rest)
        case [name] if name not in {"discover", "starred", "forked"}:
            # Nobody's name is in it, so that the provider for gists cannot be asked; git can.
            return at("git", f"https://gist.github.com/{name.removesuffix('.git')}.git")
        case _:
            raise BadLink("This address names no gist. One reads https://gist.github.com/OWNER/ID.")


def gist_path(parts: Sequence[str]) -> Pasted:
    """``OWNER/ID[/SHA][/FILE]``, as pages that show notebooks write it."""
    if len(parts) < 2:
        raise BadLink("This address names no gist. One reads https://gist.github.com/OWNER/ID.")
    return _gist_at(parts[0], parts[1], list(parts[2:]))


def _gist_at(user: str, name: str, rest: list[str]) -> Pasted:
    sha, path = (rest[0], rest[1:]) if rest and FULL_SHA.fullmatch(rest[0]) else ("HEAD", rest)
    return at("gist", f"{user}/{name.removesuffix('.git')}", sha, path)


def gitlab(address: Address) -> Pasted | None:
    """GitLab anywhere, by the ``/-/`` in its addresses, and gitlab.com with or without it."""
    parts = address.parts
    dash = parts.index("-") if "-" in parts else 0
    if dash >= 2:
        return _gitlab_page(address, parts[:dash], parts[dash + 1 :])
    return _viewed(address) if address.host == "gitlab.com" else None


def _gitlab_page(address: Address, repository: tuple[str, ...], page: Sequence[str]) -> Pasted:
    if address.host != "gitlab.com" and not repository[-1].endswith(".git"):
        repository = (*repository[:-1], f"{repository[-1]}.git")  # where it answers without redirecting
    provider, locator = source(address, repository)
    namespace = {"heads": "refs/heads/", "tags": "refs/tags/"}.get(address.asked("ref_type"), "")
    match list(page):
        case [view, *rest] if view in _VIEWS:
            return somewhere(provider, locator, tuple(rest), namespace)
        case ["commit", sha, *_]:
            return at(provider, locator, sha)
        case ["tags" | "releases", *tag] if tag:
            return at(provider, locator, "/".join(tag))
        case ["merge_requests", number, *_] if _is_number(number):
            return at(provider, locator, f"refs/merge-requests/{number}/head")
        case ["archive", *rest, _] if rest:
            return at(provider, locator, "/".join(rest))
        case _:
            return at(provider, locator, notes=[ABOUT])


def _viewed(address: Address) -> Pasted:
    """A repository at any depth, and perhaps a page of it, after one of `_VIEWS`."""
    parts = address.parts
    at_view = next((number for number, part in enumerate(parts) if number >= 2 and part in _VIEWS), None)
    if at_view is None:
        return at(*source(address, parts))
    return somewhere(*source(address, parts[:at_view]), parts[at_view + 1 :])


_GITEA_VIEWS = frozenset({"src", "raw", "media", "blame", "commits", "_edit", "rss"})
_GITEA_REFS = {"branch": "refs/heads/", "tag": "refs/tags/", "commit": ""}


def gitea(address: Address) -> Pasted | None:
    """Gitea and Forgejo anywhere, by ``src/branch``, ``src/tag`` and ``src/commit`` in their addresses."""
    parts = address.parts
    for number in range(2, len(parts) - 2):
        if parts[number] in _GITEA_VIEWS and (kind := parts[number + 1]) in _GITEA_REFS:
            repository, rest = source(address, parts[:number]), parts[number + 2 :]
            if kind == "commit":
                return at(*repository, rest[0], rest[1:])
            return somewhere(*repository, rest, _GITEA_REFS[kind])
    return None


def codeberg(address: Address) -> Pasted:
    """Codeberg, of which every address with two parts is a repository's, and gitea.com."""
    found = gitea(address)
    if found is not None:
        return found
    if len(address.parts) < 2:
        raise BadLink(f"This address names no repository. One reads https://{address.host}/OWNER/REPOSITORY.")
    repository = source(address, address.parts[:2])
    match list(address.parts[2:]):
        case []:
            return at(*repository)
        case ["commit", sha, *_]:
            return at(*repository, sha)
        case ["pulls", number, *_] if _is_number(number):
            return at(*repository, f"refs/pull/{number}/head")
        case ["releases", "tag", *tag] if tag:
            return at(*repository, "/".join(tag))
        case ["archive", *rest] if rest:
            return at(*repository, _downloaded(rest))
        case ["src", *rest] if rest:
            return somewhere(*repository, tuple(rest))
        case _:
            return at(*repository, notes=[ABOUT])


def bitbucket(address: Address) -> Pasted:
    """bitbucket.org. A commit's page may say in ``?at=`` of which branch it is; the commit is meant."""
    if len(address.parts) < 2:
        raise BadLink("This address names no repository. One reads https://bitbucket.org/WORKSPACE/REPOSITORY.")
    repository = source(address, address.parts[:2])
    match list(address.parts[2:]):
        case []:
            return at(*repository)
        case ["src" | "raw" | "annotate" | "history-node", *rest] if rest:
            return somewhere(*repository, tuple(rest))
        case ["commits", "tag", *tag] if tag:
            return at(*repository, "/".join(tag))
        case ["branch", *branch] if branch:
            return at(*repository, "/".join(branch))
        case ["commits", sha, *_]:
            return at(*repository, sha)
        case ["get", *rest] if rest:
            return at(*repository, _downloaded(rest))
        case _:
            return at(*repository, notes=[ABOUT])


def bitbucket_server(address: Address) -> Pasted | None:
    """Bitbucket Data Center: ``/projects/KEY/repos/NAME/browse/PATH?at=REF``."""
    parts = address.parts
    start = next((n for n, part in enumerate(parts) if part in {"projects", "users"}), len(parts))
    match list(parts[start : start + 4]):
        case [kind, key, "repos", name]:
            owner = f"~{key}" if kind == "users" else key.lower()
            repository = source(address, (*parts[:start], "scm", owner, f"{name}.git"))
        case _:
            return None
    ref = address.asked("at", "until").removeprefix("refs/heads/") or "HEAD"
    match list(parts[start + 4 :]):
        case ["browse" | "raw", *path]:
            return at(*repository, ref, path)
        case ["commits", sha, *_]:
            return at(*repository, sha)
        case _:
            return at(*repository, ref)


def sourcehut(address: Address) -> Pasted:
    """git.sr.ht, and sr.ht's page of a project, which is no repository."""
    if address.host != "git.sr.ht" or len(address.parts) < 2:
        raise BadLink("This address names no git repository. One reads https://git.sr.ht/~OWNER/REPOSITORY.")
    repository = source(address, address.parts[:2])
    match list(address.parts[2:]):
        case []:
            return at(*repository)
        case ["tree" | "blob" | "log", *rest] if "item" in rest[1:]:
            item = rest.index("item", 1)
            return at(*repository, "/".join(rest[:item]), rest[item + 1 :])
        case ["tree" | "log", *rest] if rest:
            return at(*repository, "/".join(rest))
        case ["blob" | "blame", *rest] if rest:
            return somewhere(*repository, tuple(rest))
        case ["commit" | "refs", ref, *_]:
            return at(*repository, ref)
        case _:
            return at(*repository, notes=[ABOUT])


def ends_in_git(address: Address) -> Pasted | None:
    """Any address with a part that ends in ``.git``; cgit's go on with a page, and have the ref in their query."""
    parts = address.parts
    end = next((number for number, part in enumerate(parts, 1) if part.endswith(".git") and part != ".git"), 0)
    if not end:
        return None
    ref = address.asked("id", "h") or "HEAD"
    is_file = parts[end : end + 1] in {("tree",), ("plain",), ("blame",)}
    found = at(*source(address, parts[:end]), ref, parts[end + 1 :] if is_file else ())
    return found if is_file or ref != "HEAD" or end == len(parts) else found.noting(ABOUT)


def other_forge(address: Address) -> Pasted | None:
    """A host whose name says that it has repositories, and an address as GitHub's and GitLab's are."""
    if len(address.parts) < 2 or not _FORGE_HOST.match(f"{address.host}."):
        return None
    return _viewed(address)


def at_ref(pasted: Pasted, ref: str) -> Pasted:
    """The same repository at that ref, if there is one, whatever the address said."""
    if not ref:
        return pasted
    notes = tuple(note for note in pasted.notes if note != ABOUT)
    return replace(pasted, spec=replace(pasted.spec, ref=ref), undecided=(), notes=notes)


def _downloaded(rest: Sequence[str]) -> str:
    """The ref of an archive to download: ``refs/heads/main.zip``."""
    ref = _DOWNLOAD.sub("", "/".join(rest))
    return ref.removeprefix("refs/heads/").removeprefix("refs/tags/")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()
