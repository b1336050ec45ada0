"""What a crash left of sessions: found when the hub starts and every few minutes, removed, and told in the hub's log.

Something is left over when it is a launch's by its mark and no server of this hub is that launch's. That is asked of the hub
itself, in its own process. Where sessions leave something, and how that is removed, each kind of spawner knows.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jupyterhub import orm

from replay_spawner.plans import launch_in

SETTLING_SECONDS = 1.0
"""After the first server or page of a hub that has just started."""

MOST_NAMED = 20
"""Of what is told in one line of the log."""

KEY = "replay_sweeper"
"""In the settings of the hub's application, which are one for all its spawners."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something of a launch's that may have to go."""

    launch: str
    name: str
    """For the log: what it is, and how it is called where it is."""
    age: float
    """Seconds."""
    what: Any = None
    """What its place needs to remove it."""


class Place(Protocol):
    """Where sessions of this hub leave something: an engine, a cluster, this machine."""

    async def found(self) -> Sequence[Leftover]:
        """Whatever is marked as a launch's of this hub, also what belongs to sessions that run. Raises what it wants."""
        ...

    async def remove(self, leftover: Leftover) -> None:
        """Remove it, with what is its own. No error where it is gone. Raises where it cannot be removed."""
        ...


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep did."""

    removed: Sequence[str] = ()
    failed: Sequence[str] = ()


class Sweeper:
    """Sweeps one place again and again, for as long as the hub's loop runs."""

    def __init__(
        self, place: Place, in_use: Callable[[], frozenset[str]], *, period: float, grace: float, log: Any = None
    ) -> None:
        """``in_use`` tells the launches that are servers now, or on their way to one; it is asked again before each removal.

        Seconds: ``period`` between two sweeps; what is younger than ``grace`` is left for a later one.
        """
        self._place = place
        self._in_use = in_use
        self._period = period
        self._grace = grace
        self._log = log or logging.getLogger(__name__)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """From now on. The task is this object's; whoever has the object keeps it."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="replay-sweeper")

    async def _run(self) -> None:
        await asyncio.sleep(SETTLING_SECONDS)
        while True:
            try:
                await self.sweep()
            except Exception as error:  # noqa: BLE001 - an engine, a cluster, a disk or a database that does not answer now
                self._log.warning("Could not look for what ended sessions have left; trying again: %r", error)
            await asyncio.sleep(self._period)

    async def sweep(self) -> Swept:
        """Look once. Raises what the place raises where it does not tell what there is."""
        found = [one for one in await self._place.found() if one.age >= self._grace]
        removed: list[str] = []
        failed: list[str] = []
        for one in found:
            # Asked each time: between two removals the hub goes on.
            if one.launch in self._in_use():
                continue
            try:
                await self._place.remove(one)
            except Exception as error:  # noqa: BLE001 - what cannot be removed now must not keep the rest
                self._log.warning("%s of launch %s cannot be removed yet: %r", one.name, one.launch, error)
                failed.append(one.name)
            else:
                removed.append(f"{one.name} of launch {one.launch}")
        if removed:
            self._log.warning(
                "Removed %d leftovers of sessions that have no server: %s%s",
                len(removed),
                ", ".join(removed[:MOST_NAMED]),
                " …" if len(removed) > MOST_NAMED else "",
            )
        return Swept(removed, failed)


def sweep_with(spawner: Any, place_of: Callable[[Any], Place | None]) -> None:
    """Have the first spawner of a hub's process begin to sweep, for all others. ``place_of`` makes the place from it.

    JupyterHub tells its spawner class of nothing before there is a spawner. It makes one for each server on record when it
    starts, and one for whoever comes to a page of it.
    """
    settings: dict[str, Any] | None = getattr(spawner.user, "settings", None)
    app = settings.get("app") if settings else None
    if settings is None or app is None or KEY in settings or not spawner.replay_sweep_seconds:
        return
    place = place_of(spawner)
    if place is None:
        return
    settings[KEY] = sweeper = Sweeper(
        place,
        lambda: launches_in_use(app),
        period=spawner.replay_sweep_seconds,
        grace=spawner.replay_sweep_grace,
        log=spawner.log,
    )
    sweeper.start()


def launches_in_use(app: Any) -> frozenset[str]:
    """The launches that are servers of this hub, or on their way to or from one."""
    return frozenset({*_of_spawners(app.users.values()), *_of_records(app.db)})


def _of_spawners(users: Iterable[Any]) -> Iterator[str]:
    for user in list(users):
        for spawner in list(user.spawners.values()):
            if spawner.active or spawner.orm_spawner.server is not None:
                yield from _named(spawner)


def _named(spawner: Any) -> Iterator[str]:
    """Whatever says which launch a spawner is about."""
    if (plan := getattr(spawner, "plan", None)) is not None:
        yield plan.launch
    session = getattr(spawner, "_session", None)
    if session is not None:
        yield Path(session).name
    if launch := launch_in(spawner.user_options or {}):
        yield launch


def _of_records(db: Any) -> Iterator[str]:
    """Servers on record, also those for which there is no spawner yet."""
    for record in db.query(orm.Spawner).filter(orm.Spawner.server != None):  # noqa: E711 - SQLAlchemy's
        if launch := launch_in(record.user_options or {}):
            yield launch
        state: Mapping[str, Any] = record.state or {}
        for name in ("replay_launch", "replay_session"):
            if isinstance(value := state.get(name), str):
                yield Path(value).name


def mark_of_hub(*parts: str) -> str:
    """A name for a hub, from what makes it that hub: valid as a label's value, and telling nobody anything."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def age_of(began: float) -> float:
    """Seconds since then, by this machine's clock; ``began`` in seconds since the epoch."""
    return time.time() - began
