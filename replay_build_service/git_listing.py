"""What a git server says of its refs, read: protocol version 0 and 1 (https://git-scm.com/docs/gitprotocol-pack) and 2
(https://git-scm.com/docs/gitprotocol-v2).

Pure, and for bytes of strangers. What is not just as those pages have it is `NotUnderstood`, for git itself to make something of.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from replay_build_service.pkt_lines import MalformedLines, Mark, pkt_line, read_lines

__all__ = [
    "Abilities",
    "NotUnderstood",
    "RemoteRefs",
    "read_abilities",
    "read_advertisement",
    "read_ls_refs",
    "write_ls_refs",
]

_SHA = re.compile(rb"[0-9a-f]{40}|[0-9a-f]{64}")
_NAME = re.compile(
    rb"[^\x00-\x20\x7f]+"
)  # https://git-scm.com/docs/git-check-ref-format, of which this alone matters here
_SERVICE = b"# service=git-upload-pack"


class NotUnderstood(Exception):
    """It is no list of refs in a form that is known here."""


@dataclass(frozen=True, slots=True)
class RemoteRefs:
    """What a repository advertised, at one moment."""

    url: str
    """Where it answered, after redirects."""
    default_branch: str | None
    """What ``HEAD`` points to, in full (``refs/heads/main``); ``None`` where the server does not say."""
    refs: Mapping[str, str]
    """From ``HEAD`` and full names to object ids, as advertised: an annotated tag's is that of the tag object."""
    peeled: Mapping[str, str]
    """For annotated tags: from the full name to what the tag is of."""
    is_whole: bool = True
    """False where the repository has more refs than are read at once, and these are those that were asked for."""

    def target(self, name: str) -> str | None:
        """What a full ref name leads to, tags peeled; ``None`` where there is no such ref."""
        return self.peeled.get(name) or self.refs.get(name)


@dataclass(slots=True)
class _Found:
    default: str | None = None
    refs: dict[str, str] = field(default_factory=dict[str, str])
    peeled: dict[str, str] = field(default_factory=dict[str, str])

    def add(self, value: bytes, name: bytes) -> None:
        if not _SHA.fullmatch(value) or not _NAME.fullmatch(name):
            raise NotUnderstood("a line that names no ref")
        if value.count(b"0") == len(value):
            return  # so a repository without refs says what it can do, and git shows a HEAD whose branch does not exist
        into = self.peeled if name.endswith(b"^{}") else self.refs
        into[name.removesuffix(b"^{}").decode(errors="replace")] = value.decode()

    def at(self, url: str, *, is_whole: bool) -> RemoteRefs:
        return RemoteRefs(url, self.default, self.refs, self.peeled, is_whole)


def read_advertisement(url: str, data: bytes) -> RemoteRefs:
    """All refs, from the answer to the first request of protocol version 0 or 1. Raises `NotUnderstood`."""
    lines = _message(data)
    if lines and lines[0] == b"version 1":
        del lines[0]
    if not lines:
        raise NotUnderstood("nothing")
    found = _Found()
    lines[0], _, abilities = lines[0].partition(b"\0")
    for ability in abilities.split(b" "):
        if ability.startswith(b"symref=HEAD:"):
            found.default = ability.removeprefix(b"symref=HEAD:").decode(errors="replace")
    for line in lines:
        value, _, name = line.partition(b" ")
        if value != b"shallow":
            found.add(value, name)
    return found.at(url, is_whole=True)


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a server of protocol version 2 can do, as far as it matters for a list of refs."""

    object_format: str | None
    """``sha1`` or ``sha256``; `None` where it does not say, and is not to be told."""


def read_abilities(data: bytes) -> Abilities:
    """From the answer to the first request of protocol version 2. Raises `NotUnderstood`, also for a server that knows 0 and 1 only."""
    lines = _message(data)
    if not lines or lines[0] != b"version 2":
        raise NotUnderstood("another version")
    said = {name: value for name, _, value in (line.partition(b"=") for line in lines[1:])}
    if b"ls-refs" not in said:
        raise NotUnderstood("no ls-refs")
    formats = {b"sha1": "sha1", b"sha256": "sha256", None: None}
    object_format = said.get(b"object-format")
    if object_format not in formats:
        raise NotUnderstood("another kind of object ids")
    return Abilities(formats[object_format])


def write_ls_refs(abilities: Abilities, prefixes: Sequence[str], agent: str) -> bytes:
    """The request for the refs whose full names begin in one of these ways. Raises `ValueError` for one that is too long."""
    told = ["command=ls-refs", f"agent={agent}"]
    if abilities.object_format is not None:
        told.append(f"object-format={abilities.object_format}")
    wanted = ["peel", "symrefs", *(f"ref-prefix {prefix}" for prefix in prefixes)]
    return _written(told) + Mark.DELIMITER.value + _written(wanted) + Mark.FLUSH.value


def _written(lines: Iterable[str]) -> bytes:
    return b"".join(map(pkt_line, lines))


def read_ls_refs(url: str, data: bytes) -> RemoteRefs:
    """The refs, from the answer to that. Raises `NotUnderstood`."""
    found = _Found()
    for line in _message(data):
        value, name, *attributes = [*line.split(b" "), b""]
        if value == b"unborn":
            continue
        found.add(value, name)
        for attribute in attributes:
            kind, _, of = attribute.partition(b":")
            if kind == b"peeled":
                found.add(of, name + b"^{}")
            elif kind == b"symref-target" and name == b"HEAD":
                found.default = of.decode(errors="replace")
    return found.at(url, is_whole=False)


def _message(data: bytes) -> list[bytes]:
    """The lines of the one message that an answer is, the line before it aside that names the service."""
    lines: list[bytes] = []
    ended = False
    try:
        for line in read_lines(data):
            if ended or line in {Mark.DELIMITER, Mark.END}:
                raise NotUnderstood("more than a list")
            if isinstance(line, bytes):
                lines.append(line)
            elif lines == [_SERVICE]:
                lines.clear()
            else:
                ended = True
    except MalformedLines as error:
        raise NotUnderstood(str(error)) from error
    if not ended or any(line.startswith(b"ERR ") for line in lines[:1]):
        raise NotUnderstood("no list")
    return lines
