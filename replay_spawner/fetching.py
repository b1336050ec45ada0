"""What a person is told where an image could not be fetched, by what an engine or a node says of it. Pure.

A fault of the network is never a word on the image.
"""

import re
from enum import Enum, auto

_FULL = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
# “pull access denied … repository does not exist or may require login” means either: it is no word on the image.
_NOT_ALLOWED = re.compile(
    r"unauthorized|denied|authentication required|no basic auth|forbidden|\b40[13]\b", re.IGNORECASE
)
_UNREACHABLE = re.compile(r"\bdial\b|no such host|connection re|timeout|deadline|\bx509\b|\btls\b", re.IGNORECASE)
_DAMAGED = re.compile(
    # Of a registry (distribution's error codes in words), of the classic image store, of containerd's.
    r"(manifest|name|blob) unknown|unknown blob|manifest .* not found"
    r"|verification failed|invalid checksum|gzip: invalid|invalid tar header"
    r"|unexpected commit digest|: not found$",
    re.IGNORECASE,
)


class PullFault(Enum):
    """Why an image did not come."""

    FULL = auto()
    NOT_ALLOWED = auto()
    DAMAGED = auto()
    OUT_OF_REACH = auto()
    """Also where nothing of what was said is known: another try may help."""


def fault_of(text: str) -> PullFault:
    """Read what was said of a pull."""
    text = text.strip()
    if _FULL.search(text):
        return PullFault.FULL
    if _NOT_ALLOWED.search(text):
        return PullFault.NOT_ALLOWED
    if _DAMAGED.search(text) and not _UNREACHABLE.search(text):
        return PullFault.DAMAGED
    return PullFault.OUT_OF_REACH


def sentence_for(text: str) -> str:
    """What a person is told of the words about a pull."""
    match fault_of(text):
        case PullFault.FULL:
            return (
                "The disk of the machine that runs sessions is full, so the image could not be fetched. Tell the "
                "administrators."
            )
        case PullFault.NOT_ALLOWED:
            return (
                "The registry does not give this hub the image. Tell the administrators: the hub's access to it needs "
                "care."
            )
        case PullFault.DAMAGED:
            return (
                "The image of this repository is damaged or gone in the registry. Open the repository's link again: it "
                "is then built anew where that is possible. If this comes back, tell the administrators."
            )
        case PullFault.OUT_OF_REACH:
            return (
                "The image could not be fetched from the registry. Try again in a few minutes; if this comes back, tell "
                "the administrators."
            )
