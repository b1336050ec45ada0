"""What a pasted text means, and where in an undecided address the ref ends and the path begins."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from urllib.parse import parse_qs, quote, unquote_plus

from replay_build_service.errors import BadLink, UnknownProvider
from replay_build_service.links import Repository, RepoSpec, link_path, safe_urlpath

_OF_CONTENT = "The second repository that this link names, after “content=”:"

FULL_SHA = re.compile(r"[0-9a-fA-F]{40}|[0-9a-fA-F]{64}")

MOST_REF_PARTS = 20
"""Parts between slashes that a branch's name is looked for with."""

ABOUT = "This address leads to a page about the repository, so the newest commit of its main branch is meant."

_BRANCHES, _TAGS = "refs/heads/", "refs/tags/"
_ARCHIVE = re.compile(r"\.(zip|tar|tgz|tar\.(gz|bz2|xz)|7z|rar)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Pasted:
    """A repository or record at a version, and what of it to open."""

    spec: RepoSpec
    """Where it is undecided: with the first part taken for the ref."""
    urlpath: str = ""
    """As ``?urlpath=`` of a link; empty for the session's own default."""
    notes: tuple[str, ...] = ()
    """Sentences for the person: what of the text was not taken over, and what was understood that they may not expect."""
    content: str = ""
    """As ``?content=`` of a link: ``PROVIDER/SPEC``."""
    undecided: tuple[str, ...] = ()
    """The parts of a path of which the first, or the first few, are the ref and the others a path in the repository."""
    namespace: str = ""
    """``refs/heads/`` or ``refs/tags/``, where the address says which of them an undecided ref is."""

    @property
    def link(self) -> str:
        """The path of the link, from ``/v2/`` on."""
        return link_path(self.spec.text, self.content, self.urlpath)

    def checked(self) -> Pasted:
        """The same, in its canonical spelling. Raises `BadLink` where a link cannot say this."""
        spec = RepoSpec.parse(self.spec.text)
        Repository.of_url(spec.url)  # whoever launches it asks that, too
        # Twice: what is left without its leading slash has to be one, too.
        return replace(self, spec=spec, urlpath=safe_urlpath(safe_urlpath(self.urlpath)))

    def noting(self, *notes: str) -> Pasted:
        """The same with more to say."""
        return replace(self, notes=(*self.notes, *notes))


def at(provider: str, locator: str, ref: str = "HEAD", path: Sequence[str] = (), notes: Sequence[str] = ()) -> Pasted:
    """A repository at a ref, and a file or folder of it, by the parts of its path."""
    return Pasted(RepoSpec(provider, locator, ref), opened(path), tuple(notes))


def somewhere(provider: str, locator: str, parts: Sequence[str], namespace: str = "") -> Pasted:
    """A repository of which ``parts`` name a ref and then a path. Decided where the text tells already."""
    if parts[:2] == ("refs", "heads") or parts[:2] == ("refs", "tags"):
        namespace, parts = f"refs/{parts[1]}/", parts[2:]
    if not parts:
        return at(provider, locator)
    if parts[0] == "refs" and len(parts) >= 4:
        # refs/pull/7/head, refs/merge-requests/7/head
        return at(provider, locator, "/".join(parts[:4]), parts[4:])
    ref, path = parts[0], parts[1:]
    pasted = at(provider, locator, ref, path)
    is_decided = not path or ref == "HEAD" or "/" in ref or FULL_SHA.fullmatch(ref)
    return pasted if is_decided else replace(pasted, undecided=tuple(parts), namespace=namespace)


def decide(pasted: Pasted, refs: Collection[str]) -> Pasted:
    """The same, decided: of the refs that the parts begin with the longest that exists; else the first part.

    ``refs`` are the repository's, in full (``refs/heads/main``). Raises `BadLink` where a link cannot say this.
    """
    parts, spec = pasted.undecided, pasted.spec
    if not parts:
        return pasted.checked()
    namespaces = (pasted.namespace,) if pasted.namespace else (_BRANCHES, _TAGS)
    for length in range(min(len(parts), MOST_REF_PARTS), 1, -1):
        name = "/".join(parts[:length])
        if any(namespace + name in refs for namespace in namespaces):
            break
    else:
        name, length = spec.ref, 1
    if pasted.namespace == _TAGS and _BRANCHES + name in refs:
        name = _TAGS + name  # or the branch would be meant
    return at(spec.provider, spec.locator, name, parts[length:], pasted.notes).checked()


def opened(path: Sequence[str]) -> str:
    """A file or folder of the repository in JupyterLab; nothing for none."""
    return "lab/tree/" + quote("/".join(path)) if path else ""


def opened_file(path: Sequence[str]) -> str:
    """The same for a file of a record; nothing for an archive, which is unpacked."""
    return "" if path and _ARCHIVE.search(path[-1]) else opened(path)


def urlpath_of(query: str) -> str:
    """What a link wants opened: ``urlpath`` as it is, ``labpath`` in Lab's single-document view, ``filepath`` in the tree.

    As BinderHub reads them (https://binderhub.readthedocs.io/en/latest/reference/urls.html).
    """
    arguments = parse_qs(query)

    def first(name: str) -> str:
        return arguments.get(name, [""])[0]

    if urlpath := first("urlpath"):
        return urlpath
    if labpath := first("labpath"):
        return "doc/tree/" + quote(labpath.lstrip("/"))
    if filepath := first("filepath"):
        return "tree/" + quote(filepath.lstrip("/"))
    return ""


def content_of(query: str) -> str:
    """The second repository or record that a link names, ``PROVIDER/SPEC`` in its canonical spelling; empty for none.

    Raises `BadLink` where it is none, and `UnknownProvider`.
    """
    pairs = (pair.partition("=") for pair in query.split("&"))
    named = [value for name, _, value in pairs if name == "content" and value]
    if len(named) > 1:
        raise BadLink("This link names more than one repository after “content=”. A session takes one beside its own.")
    if not named:
        return ""
    try:
        # An address in it may be percent-encoded once, as in a link of its own, or once more as a part of a query.
        return RepoSpec.parse(named[0]).text
    except BadLink:
        pass
    try:
        return RepoSpec.parse(unquote_plus(named[0])).text
    except UnknownProvider as error:
        raise UnknownProvider(f"{_OF_CONTENT} {error.sentence}") from error
    except BadLink as error:
        raise BadLink(f"{_OF_CONTENT} {error.sentence}") from error


def nothing_known(host: str = "") -> BadLink:
    """For what can be read in no way."""
    if host:
        return BadLink(
            f"Replay does not know what is at {host}. If that is a git repository, paste its address with .git at the "
            "end; if it is a published record, paste its DOI."
        )
    return BadLink(
        "Replay cannot read this. Paste the address of a repository or of a notebook in it (GitHub, GitLab, Codeberg, Bitbucket, "
        "or any address that ends in .git), a DOI, a SWHID, or the link or badge of a Binder."
    )
