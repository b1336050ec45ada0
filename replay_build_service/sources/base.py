"""What an archive's record is to us, and the seam to the archives.

A record is a list of files under a version. Archives do not promise that the list of a version stays as it is, so a digest over it is part of
the version that Replay pins: what is fetched is compared with it, and what has changed is not built under the old name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from replay_build_service.errors import BadLink, SourceFault
from replay_build_service.sources.paths import shown

if TYPE_CHECKING:
    from pathlib import Path

    from replay_build_service.sources.asking import Asker

__all__ = ["PreparingSource", "Record", "RecordSource", "RemoteFile", "split_fetch_url", "split_pin"]

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._]{0,39}")
_DIGEST_DIGITS = 32
"""128 bits: who writes a record can try names for as long as they like, to have two lists of one digest."""
_PIN = re.compile(rf"(?P<version>[A-Za-z0-9][A-Za-z0-9._]{{0,39}})(?:-(?P<digest>[0-9a-f]{{{_DIGEST_DIGITS}}}))?")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a record."""

    path: str
    """Below the record's folder, with slashes, as the archive names it: not checked yet."""
    url: str
    """Where its bytes are."""
    size: int | None = None
    """In bytes; none where the archive does not say."""
    checksum: str = ""
    """``md5:``, ``sha1:``, ``sha256:`` or ``sha512:`` and hexadecimal digits; empty where the archive publishes none."""


@dataclass(frozen=True, slots=True)
class Record:
    """One version of a record."""

    source: str
    """The archive's name in links."""
    api_url: str
    """Where exactly this version is listed, now and later."""
    version: str
    """As the archive counts it: letters, digits, ``.`` and ``_``, at most 40."""
    identity: str
    """A web address that all versions of the record share, and no other record has."""
    page: str
    """Where people read about this version."""
    files: Sequence[RemoteFile]
    title: str = ""
    license: str = ""
    content: str = ""
    """What identifies the content as a whole, where the archive has such a thing and no list of files (an SWHID)."""
    notes: Sequence[str] = ()
    """Sentences for the person: what of the record is left out, and why."""

    def __post_init__(self) -> None:
        if not _VERSION.fullmatch(self.version):
            raise SourceFault("The archive's answer was not understood: its version cannot be one. Try again later.")

    @property
    def digest(self) -> str:
        """32 hexadecimal digits over the paths, sizes and checksums of the files; their order does not matter."""
        listed = sorted((file.path, file.size, file.checksum) for file in self.files)
        text = json.dumps([self.content, listed], ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_DIGITS]

    @property
    def pinned(self) -> str:
        """The version that Replay pins: the archive's own, and the digest."""
        return f"{self.version}-{self.digest}"

    @property
    def fetch_url(self) -> str:
        """How builders are told what to fetch."""
        return f"{self.source}+{self.api_url}"


class RecordSource(Protocol):
    """One archive. Its answers are asked for through an `Asker`, which keeps to the rules of what may be asked.

    Each method raises `RepositoryNotFound` (gone, private, embargoed, without files), `RefNotFound` (no such version, with the
    nearest), `BadLink` (the locator is none of this archive's), `OriginRefused`, `Refused` (more files than are read) and `SourceFault`.
    """

    @property
    def name(self) -> str:
        """As it stands in links."""
        ...

    async def find(self, ask: Asker, locator: str, version: str | None) -> Record:
        """What a locator means now: the version that it names, or ``version`` (the archive's own), or the newest."""
        ...

    async def listed(self, ask: Asker, api_url: str) -> Record:
        """Exactly the version that is listed at a record's ``api_url``."""
        ...


@runtime_checkable
class PreparingSource(Protocol):
    """A `RecordSource` whose archive packs a record when it is asked to, and whose content can be checked as a whole.

    Whoever fetches calls both, before the first file is fetched and when all are in place. ``say``: a line for the build's log.
    """

    async def prepare(self, ask: Asker, record: Record, say: Callable[[str], None]) -> None:
        """Have the record's files made, and wait until they are there. Raises as `RecordSource.find`."""
        ...

    async def verify(self, ask: Asker, record: Record, folder: Path, say: Callable[[str], None]) -> None:
        """Compare all that is in ``folder`` with what the record is named by. Raises `SourceFault` where it is something else."""
        ...


def split_pin(ref: str) -> tuple[str | None, str | None]:
    """The archive's version and the digest in what a link pins; none where it pins none. Raises `BadLink`."""
    if not ref:
        return None, None
    match = _PIN.fullmatch(ref)
    if match is None:
        raise BadLink(
            f"“{shown(ref)}” is no version of a record. Leave out what follows the “@” to open the newest one."
        )
    return match["version"], match["digest"]


def split_fetch_url(fetch_url: str, sources: Mapping[str, RecordSource]) -> tuple[RecordSource, str] | None:
    """The archive and the address of a record that is to be fetched; none where it is a git repository.

    Raises `BadLink` where this version of Replay has no such archive.
    """
    scheme, _, _ = fetch_url.partition("://")
    name, plus, scheme = scheme.rpartition("+")
    if not plus:
        return None
    if name not in sources:
        raise BadLink(f"This Replay cannot fetch from “{shown(name)}”. Open the repository's link again.")
    return sources[name], fetch_url[len(name) + 1 :]
