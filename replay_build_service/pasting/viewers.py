"""Pages that show, run or hand out files of repositories that are elsewhere."""

from __future__ import annotations

from replay_build_service.errors import BadLink
from replay_build_service.pasting.address import Address
from replay_build_service.pasting.forges import gist_path, github_path
from replay_build_service.pasting.pasted import Pasted, at, somewhere

_NO_FILE = "This address names no file of a repository. Paste the repository's own address."


def raw(address: Address) -> Pasted:
    """raw.githubusercontent.com: ``OWNER/REPOSITORY/REF/PATH``. media.githubusercontent.com has ``media`` before that."""
    parts = address.parts[1:] if address.parts[:1] == ("media",) else address.parts
    if len(parts) < 3:
        raise BadLink(_NO_FILE)
    return somewhere("gh", f"{parts[0]}/{parts[1]}", parts[2:])


def jsdelivr(address: Address) -> Pasted:
    """cdn.jsdelivr.net: ``gh/OWNER/REPOSITORY[@REF]/PATH``."""
    match list(address.parts):
        case ["gh", owner, name, *path]:
            name, _, ref = name.partition("@")
            return at("gh", f"{owner}/{name}", ref or "HEAD", path)
        case _:
            raise BadLink(_NO_FILE)


def viewer(address: Address) -> Pasted | str:
    """nbviewer, Colab and others: ``[…/]github/…`` and ``[…/]gist/…`` as there, and ``url/…`` for an address of anywhere.

    The last one is given back to be read.
    """
    parts = address.parts[1:] if address.parts[:1] == ("import",) else address.parts
    match list(parts):
        case ["github", *rest]:
            return github_path(tuple(rest))
        case ["gist", *rest]:
            return gist_path(tuple(rest))
        case ["url" | "urls" as kind, _, *_]:
            # As it came: it may hold a path that is percent-encoded on purpose.
            return "https://" + address.path.split(f"/{kind}/", 1)[-1] + (f"?{address.query}" if address.query else "")
        case ["drive", *_]:
            raise BadLink(
                "This notebook lies in a Google Drive, where Replay cannot get it. Save a copy in a repository and paste that one's address."
            )
        case _:
            raise BadLink(
                f"This address of {address.host} names no notebook of a repository. Paste the repository's own address."
            )
