"""How every archive of records resolves: from a spec to a version of a record, pinned with a digest over its files.

What differs between archives is in `replay_build_service.sources`; one file here per provider says which. A version and a digest that a link
pins are compared with what the archive lists, so that a link to “exactly this version” never opens anything else.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Self

from cachetools import TTLCache

from replay_build_service.domain import ResolvedRef
from replay_build_service.errors import RefNotFound, RepositoryNotFound
from replay_build_service.links import Repository, RepoSpec
from replay_build_service.providers.context import ProviderContext
from replay_build_service.providers.flights import MAX_ASKED_AT_ONCE, SingleFlight
from replay_build_service.sources.base import Record, RecordSource, split_pin

__all__ = ["MOST_KEPT", "NEWEST_KEPT", "VERSION_KEPT", "RecordProvider"]

NEWEST_KEPT = 60.0
"""Seconds for which the newest version of a record is believed to be that."""
VERSION_KEPT = 3600.0
"""Seconds for which a version's list of files is kept. Archives change one seldom, and whoever fetches compares."""
MOST_KEPT = 64_000_000
"""Bytes, about, that the records of one archive may take: twice, for newest ones and for versions."""
_LONG_LIST = 1_000
"""Files of a record of which a digest is made beside the loop."""

_Key = tuple[str, str | None]


@dataclass(frozen=True, slots=True)
class _Known:
    """A record, and what would take long to work out again for each who asks."""

    record: Record
    digest: str
    weight: int
    """Bytes, about."""

    @classmethod
    def of_record(cls, record: Record) -> Self:
        """Takes some 0.3 s for the longest list that is read."""
        texts = (record.title, record.license, record.page, record.content, *record.notes)
        files = sum(300 + len(file.path) + len(file.url) for file in record.files)
        return cls(record, record.digest, 1_000 + sum(map(len, texts)) + files)


class RecordProvider:
    """Resolves specs of one archive. ``newest_kept``: seconds, longer than usual where what a locator means never changes."""

    def __init__(self, source: RecordSource, context: ProviderContext, *, newest_kept: float = NEWEST_KEPT) -> None:
        self._source = source
        self._ask = context.ask
        self._newest: TTLCache[_Key, _Known] = TTLCache(MOST_KEPT, newest_kept, context.clock, _weight)
        self._versions: TTLCache[_Key, _Known] = TTLCache(MOST_KEPT, VERSION_KEPT, context.clock, _weight)
        limit = asyncio.Semaphore(MAX_ASKED_AT_ONCE)
        self._flights = SingleFlight(self._asked, context.tasks, limit, context.clock)

    @property
    def name(self) -> str:
        """As it stands in links."""
        return self._source.name

    async def resolve(self, spec: RepoSpec) -> ResolvedRef:
        """See `RepoProvider.resolve`."""
        version, digest = split_pin(spec.ref)
        known = await self._find((spec.locator, version))
        record, pinned = known.record, f"{known.record.version}-{known.digest}"
        if digest is not None and digest != known.digest:
            raise RefNotFound(
                f"The files of {Repository.of_url(record.identity).short}, version {version}, have changed since this link was made, so "
                "what it meant is not there any more. Open the version as it is now.",
                (pinned,),
            )
        if not record.files and not record.content:
            raise RepositoryNotFound(f"{Repository.of_url(record.identity).short} has no files to run.")
        repository = Repository.of_url(record.identity)
        return ResolvedRef(
            repository, spec, record.fetch_url, pinned, record.page, record.title[:300], record.license[:100]
        )

    async def _find(self, key: _Key) -> _Known:
        kept = (self._newest if key[1] is None else self._versions).get(key)
        return await self._flights.get(key) if kept is None else kept

    async def _asked(self, key: _Key) -> _Known:
        locator, version = key
        record = await self._source.find(self._ask, locator, version)
        is_long = len(record.files) > _LONG_LIST
        known = await asyncio.to_thread(_Known.of_record, record) if is_long else _Known.of_record(record)
        if known.weight <= MOST_KEPT:
            self._versions[locator, record.version] = known
            if version is None:
                self._newest[key] = known
        return known


def _weight(known: _Known) -> int:
    return known.weight
