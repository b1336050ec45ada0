"""Usage: what a VO's sessions had reserved, for how long, by person and month. Pure but for where sessions are read.

Counted from launches: a session counts from when its server answered until it ended (or until now), with what the policy
reserved for it when it was started. What a session really used of its memory and processors is not measured here.
Months are those of UTC. A launch's row and its usage go together: who removes the one removes the other.
"""

import csv
import io
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from replay_build_service.errors import BadLink
from replay_build_service.managing.admission import Manager
from replay_build_service.records import UsedSession

GB = 1024**3
MOST_MONTHS = 24
"""Of one table or file."""


class UsageStore(Protocol):
    """See `replay_build_service.db.Store`."""

    def used_sessions(self, vo: str, start: datetime, end: datetime) -> AsyncIterator[Sequence[UsedSession]]: ...


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """A month of UTC."""

    year: int
    number: int

    @classmethod
    def of(cls, moment: datetime) -> "Month":
        return cls(moment.astimezone(UTC).year, moment.astimezone(UTC).month)

    @classmethod
    def parse(cls, text: str) -> "Month":
        """``2026-11``. Raises `BadLink`."""
        found = re.fullmatch(r"(20\d{2})-(0[1-9]|1[0-2])", text)
        if found is None:
            raise BadLink("A month should read like 2026-11.")
        return cls(int(found[1]), int(found[2]))

    @property
    def start(self) -> datetime:
        return datetime(self.year, self.number, 1, tzinfo=UTC)

    @property
    def next(self) -> "Month":
        return Month(self.year + self.number // 12, self.number % 12 + 1)

    @property
    def previous(self) -> "Month":
        return Month(self.year - (self.number == 1), 12 if self.number == 1 else self.number - 1)

    def __str__(self) -> str:
        return f"{self.year}-{self.number:02d}"


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one person in one month, or of more together."""

    sessions: int = 0
    """That ran at some time in it; one over the end of a month counts in both."""
    server_hours: float = 0
    memory_hours: float = 0
    """GB-hours, of 1024³ bytes."""
    core_hours: float = 0
    gpu_hours: float = 0
    unknown: int = 0
    """Sessions among them of which is not recorded what they had reserved: they count as hours, and as no memory."""

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.sessions + other.sessions,
            self.server_hours + other.server_hours,
            self.memory_hours + other.memory_hours,
            self.core_hours + other.core_hours,
            self.gpu_hours + other.gpu_hours,
            self.unknown + other.unknown,
        )


@dataclass(frozen=True, slots=True)
class UsageRow:
    month: Month
    user: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class UsageTable:
    """By month, latest first, and person."""

    rows: tuple[UsageRow, ...]

    def by_month(self) -> Sequence[tuple[Month, Usage]]:
        """The sums, latest month first."""
        sums: dict[Month, Usage] = {}
        for row in self.rows:
            sums[row.month] = sums.get(row.month, Usage()) + row.usage
        return sorted(sums.items(), reverse=True)

    def of(self, month: Month) -> "UsageTable":
        return UsageTable(tuple(row for row in self.rows if row.month == month))

    @property
    def total(self) -> Usage:
        return sum((row.usage for row in self.rows), Usage())


class Tally:
    """Adds up sessions of a span of months as they are read."""

    def __init__(self, first: Month, last: Month, now: datetime) -> None:
        self._start, self._end, self._now = first.start, last.next.start, now
        self._sums: dict[tuple[Month, str], Usage] = {}

    def add(self, session: UsedSession) -> None:
        """Each month gets its own part."""
        for month, hours in _hours_by_month(session, self._start, self._end, self._now):
            key = (month, session.user)
            self._sums[key] = self._sums.get(key, Usage()) + Usage(
                sessions=1,
                server_hours=hours,
                memory_hours=hours * (session.memory or 0) / GB,
                core_hours=hours * (session.cores or 0),
                gpu_hours=hours * session.gpus,
                unknown=0 if session.memory is not None else 1,
            )

    def table(self) -> UsageTable:
        ordered = sorted(self._sums.items(), key=lambda item: item[0][1])
        ordered.sort(key=lambda item: item[0][0], reverse=True)
        return UsageTable(tuple(UsageRow(month, user, usage) for (month, user), usage in ordered))


def _hours_by_month(
    session: UsedSession, start: datetime, end: datetime, now: datetime
) -> Iterator[tuple[Month, float]]:
    begins = max(session.running_at, start)
    ends = min(session.ended_at or now, end)
    month = Month.of(begins)
    while begins < ends:
        until = min(ends, month.next.start)
        yield month, (until - begins).total_seconds() / 3600
        begins, month = until, month.next


class Usages:
    """The usage of each VO."""

    def __init__(self, store: UsageStore) -> None:
        self._store = store

    async def table(self, manager: Manager, first: Month, last: Month) -> UsageTable:
        """Raises `BadLink` for a span of more than `MOST_MONTHS`, or one that ends before it begins."""
        tally = Tally(first, last, datetime.now(UTC))
        async for batch in self.read(manager, first, last):
            for session in batch:
                tally.add(session)
        return tally.table()

    async def read(self, manager: Manager, first: Month, last: Month) -> AsyncIterator[Sequence[UsedSession]]:
        """The sessions themselves. Raises as `table`."""
        months = (last.year - first.year) * 12 + last.number - first.number + 1
        if not 0 < months <= MOST_MONTHS:
            raise BadLink(f"Choose at most {MOST_MONTHS} months, the first before the last.")
        async for batch in self._store.used_sessions(manager.vo, first.start, last.next.start):
            yield batch


_COLUMNS = (
    "month",
    "vo",
    "person",
    "sessions",
    "server_hours",
    "memory_gb_hours",
    "core_hours",
    "gpu_hours",
    "sessions_without_record_of_resources",
)


def as_csv(table: UsageTable, vo: str) -> str:
    """RFC 4180, with a head. Texts that a spreadsheet would take for a formula begin with an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(_COLUMNS)
    for row in table.rows:
        usage = row.usage
        numbers = (usage.server_hours, usage.memory_hours, usage.core_hours, usage.gpu_hours)
        writer.writerow(
            [
                str(row.month),
                _cell(vo),
                _cell(row.user),
                usage.sessions,
                *(f"{number:.4f}" for number in numbers),
                usage.unknown,
            ]
        )
    return out.getvalue()


def _cell(text: str) -> str:
    # https://owasp.org/www-community/attacks/CSV_Injection
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
