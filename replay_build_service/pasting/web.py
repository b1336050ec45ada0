"""Which room reads a web address: by its host, and else by its shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from replay_build_service.errors import BadLink
from replay_build_service.pasting import archives, binders, forges, viewers
from replay_build_service.pasting.address import Address
from replay_build_service.pasting.pasted import Pasted, at, nothing_known

_LEFT_OUT = "The password or token in the address was left out: Replay asks as nobody in particular."

_HOSTS: Mapping[str, Callable[[Address], Pasted]] = {
    "github.com": forges.github,
    "github.dev": forges.github,
    "codeload.github.com": forges.github,
    "codespaces.new": forges.github,
    "gist.github.com": forges.gist,
    "gist.githubusercontent.com": forges.gist,
    "raw.githubusercontent.com": viewers.raw,
    "media.githubusercontent.com": viewers.raw,
    "cdn.jsdelivr.net": viewers.jsdelivr,
    "codeberg.org": forges.codeberg,
    "gitea.com": forges.codeberg,
    "bitbucket.org": forges.bitbucket,
    "git.sr.ht": forges.sourcehut,
    "sr.ht": forges.sourcehut,
}

_VIEWERS = frozenset(
    {
        "nbviewer.org",
        "nbviewer.jupyter.org",
        "nbviewer.ipython.org",
        "colab.research.google.com",
        "colab.sandbox.google.com",
        "studiolab.sagemaker.aws",
        "console.paperspace.com",
        "kaggle.com",
    }
)

_SHAPES: tuple[Callable[[Address], Pasted | None], ...] = (
    archives.archive,
    binders.binder,
    archives.dataverse,
    forges.gitlab,
    forges.gitea,
    forges.bitbucket_server,
    forges.ends_in_git,
    forges.other_forge,
    archives.ckan,
)
"""In this order, since a shape may be part of another one."""


def read_address(text: str) -> Pasted:
    """What a web address names. Raises `BadLink`."""
    address = Address.of(text)
    found = _holding_another(address) or _plain(address)
    return found.noting(_LEFT_OUT) if address.had_secret else found


def _holding_another(address: Address) -> Pasted | None:
    """What is read from an address within this one, and no deeper; none for any other address."""
    if binders.pulls(address):
        return binders.pulled(address, _plain(Address.of(address.asked("repo"))))
    if archives.shows_origin(address):
        return archives.of_origin(address, _plain(Address.of(archives.origin_of(address))))
    if address.host in _VIEWERS:
        shown = (address.asked("src") if address.host == "kaggle.com" else "") or viewers.viewer(address)
        return _plain(Address.of(shown)) if isinstance(shown, str) else shown
    return None


def _plain(address: Address) -> Pasted:
    if (read := _HOSTS.get(address.host)) is not None:
        return read(address)
    for shape in _SHAPES:
        if (found := shape(address)) is not None:
            return found
    raise nothing_known(address.host)


def read_git(host_and_path: str, ref: str = "") -> Pasted:
    """A git server's own address, its scheme aside: ``HOST/PATH``. Raises `BadLink`."""
    address = Address.of(f"https://{host_and_path}")
    known = {"ssh.github.com": "github.com", "altssh.gitlab.com": "gitlab.com", "altssh.bitbucket.org": "bitbucket.org"}
    host = known.get(address.host, address.host)
    if host != address.host:
        address = Address.of(f"https://{host}{address.path}")
    if not address.parts:
        raise BadLink(f"This address names a host, {host}, and no repository there.")
    found = at(*forges.source(address, address.parts), ref or "HEAD")
    return found.noting(_LEFT_OUT) if address.had_secret else found
