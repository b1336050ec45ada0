"""For how long nobody has used a session, from all that is known of it. Pure: ages only, so that no two clocks are compared."""

from dataclasses import dataclass
from datetime import timedelta

LONGEST_WARNING = timedelta(minutes=10)
LOOKS_WHILE_WARNING = 5
LOOKS_PER_LIMIT = 4

_NOW = timedelta()
_SLACK = timedelta(minutes=1)
"""By so much two clocks may differ before a person's action counts as one of an earlier session in the same home."""


def warning_time(limit: timedelta) -> timedelta:
    """So long before its end a session's person is warned."""
    return min(LONGEST_WARNING, limit / 2)


def cull_every(limit: timedelta) -> int:
    """Seconds between two rounds of the culler: what the warning says is at most a fifth of its time old."""
    return max(1, int(warning_time(limit).total_seconds() / LOOKS_WHILE_WARNING))


@dataclass(frozen=True, slots=True)
class Reading:
    """What a session's server told of itself. It is a stranger's program: it may tell what it likes."""

    is_busy: bool = False
    """A kernel computes."""
    kernels: tuple[timedelta, ...] = ()
    """How long ago each last did something."""
    terminals: tuple[timedelta, ...] = ()
    """How long ago each last printed or was typed into."""
    saved: tuple[timedelta, ...] = ()
    """How long ago the files of open notebooks were saved."""
    person: timedelta | None = None
    """How long ago the person used keyboard or pointer, where JupyterLab has our extension."""
    has_apps: bool = False
    """It serves programs beside Jupyter's own, such as RStudio: of their use nothing is known but the traffic."""


@dataclass(frozen=True, slots=True)
class Known:
    """All that is known of a server at one moment."""

    age: timedelta
    """Since its start."""
    traffic: timedelta | None
    """Since the hub last saw any; none where it never did."""
    reading: Reading | None
    """None where the server was silent, or its answers were no answers."""
    remembered: timedelta | None = None
    """Since an earlier look found that it was used."""
    kept: timedelta | None = None
    """Since its person asked to keep it."""
    is_session: bool = True
    """A launch's. The hub's ordinary servers have no extension of ours: of their use the traffic tells, as it always did."""


def idle_time(known: Known) -> timedelta:
    """How long nobody has used it.

    What it does by itself for an open page counts for nothing, since a page may be forgotten: an idle kernel that is asked
    for its state each few seconds is not used. Where nothing better is known, the hub's traffic decides.
    """
    ages = [known.age]
    ages += [age for age in (known.remembered, known.kept) if age is not None]
    reading = known.reading
    if reading is None:
        ages += _traffic(known)
    else:
        if reading.is_busy:
            return _NOW
        ages += [*reading.kernels, *reading.terminals, *reading.saved]
        if reading.person is not None:
            ages.append(reading.person)
        if (
            not known.is_session
            or reading.has_apps
            or not (reading.kernels or reading.terminals or _lab_reports(known.age, reading))
        ):
            ages += _traffic(known)
    return max(_NOW, min(ages))


def rest(idle: timedelta, limit: timedelta) -> timedelta:
    """So long a session need not be looked at again: it cannot come near its end before, whatever happens in it."""
    return max(_NOW, min(limit - warning_time(limit) - idle, limit / LOOKS_PER_LIMIT))


def _traffic(known: Known) -> list[timedelta]:
    return [] if known.traffic is None else [known.traffic]


def _lab_reports(age: timedelta, reading: Reading) -> bool:
    return reading.person is not None and reading.person <= age + _SLACK
