"""The features of one session from its start to its end: prepared within bounds, renewed in time, cleaned up.

In the hub's process, with no browser open. What is given is brought into the session by its spawner, which this room knows
by the protocol `Place`. Nothing that a feature does or fails to do reaches the session's start but what it gives.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol, cast

from replay_build_service.schemas import FeatureReport
from replay_spawner.features.base import Feature, Given, SessionFile, Unavailable
from replay_spawner.features.places import checked

PHASE_SECONDS = 15.0
"""For each thing that is asked of a feature."""

AGAIN_SECONDS = 30.0
AGAIN_AT_MOST_SECONDS = 300.0
"""Between two tries of what failed, the longer it fails the more."""

LEAST_SECONDS = 0.2
"""Between two times that one feature is asked, whatever it says."""

_LOOK_SECONDS = 30.0
"""Waiting is done in pieces: a machine that slept, or whose clock was set, is noticed."""

_TRIED_AGAIN = " It is tried again."
"""What pages say by themselves, with the time."""


class Place(Protocol):
    """Where files of a running session are."""

    async def deliver(self, files: Sequence[SessionFile]) -> None:
        """Put files in the place of those that are there. Whatever it raises, it is asked again."""
        ...

    async def read(self, files: Sequence[SessionFile]) -> Mapping[tuple[str, str], bytes]:
        """What is there now of these, by folder and name."""
        ...


@dataclass(slots=True)
class _Kept:
    """One feature, and how it stands with it."""

    feature: Feature
    given: Given = field(default_factory=Given)
    state: str = "absent"
    sentence: str = ""
    due: float | None = None
    """When something is to be done about it, in seconds since the epoch."""
    pause: float = AGAIN_SECONDS
    undelivered: list[SessionFile] = field(default_factory=list[SessionFile])

    def has(self, given: Given) -> None:
        # A feature that wants to be asked again at once would have the hub do nothing else.
        due = None if given.renew_at is None else max(given.renew_at, time.time() + LEAST_SECONDS)
        self.given, self.due, self.pause = given, due, AGAIN_SECONDS
        self.state = "given" if given.is_complete else "absent" if given.renew_at is None else "delayed"
        self.sentence = given.notice

    def fails(self, sentence: str, *, is_final: bool = False) -> None:
        self.state, self.sentence = "absent" if is_final else "delayed", sentence
        self.due = None if is_final else time.time() + self.pause
        self.pause = min(2 * self.pause, AGAIN_AT_MOST_SECONDS)


class SessionFeatures:
    """What one session has beside its image."""

    def __init__(self, features: Sequence[Feature], log: Any, lacking: Sequence[str] = ()) -> None:
        """``lacking``: names of what the launch was to have, and this hub does not know."""
        self._kept = [_Kept(feature) for feature in features]
        self._lacking = lacking
        self._log = log
        self._task: asyncio.Task[None] | None = None
        self._ended = False

    # what the session starts with

    async def prepare(self) -> None:
        """Ask all features at once what the session starts with; returns within `PHASE_SECONDS`."""
        await asyncio.gather(*(self._prepared(kept) for kept in self._kept))

    async def _prepared(self, kept: _Kept) -> None:
        if (given := await self._asked(kept, "prepare", kept.feature.prepare)) is not None:
            kept.has(given)
        else:
            # What was not said before the start cannot be brought into the session any more.
            kept.state, kept.due = "absent", None

    def not_brought(self) -> None:
        """The files of the start could not be brought into the session: they are brought later."""
        for kept in self._kept:
            kept.undelivered = [file for file in kept.given.files if file.content is not None]
            if kept.undelivered:
                kept.fails("It could not be brought into this session.")

    @property
    def environment(self) -> dict[str, str]:
        """All features' variables. Where files are is not among them: that is the spawner's to say."""
        return {name: value for kept in self._kept for name, value in kept.given.environment.items()}

    @property
    def files(self) -> list[SessionFile]:
        return [file for kept in self._kept for file in kept.given.files]

    @property
    def pod_parts(self) -> list[Any]:
        return [kept.given.pod for kept in self._kept]

    @property
    def sidecars(self) -> dict[str, list[str]]:
        """Names of the containers that each feature adds to a pod."""
        return {
            kept.feature.name: [str(one.get("name")) for one in kept.given.pod.containers]
            for kept in self._kept
            if kept.given.pod.containers
        }

    @property
    def names(self) -> list[str]:
        """Of those that a restarted hub has to go on with."""
        return [kept.feature.name for kept in self._kept if kept.state != "absent"]

    # while it runs

    def keep_fresh(self, place: Place) -> None:
        """From now on until `end`."""
        self._begin(self._keep(place))

    def resume(self, place: Place, files: Sequence[SessionFile]) -> None:
        """As `keep_fresh`, for a session that a hub finds at its start; ``files`` are those that it was given."""
        self._begin(self._resumed(place, files))

    def _begin(self, work: Any) -> None:
        if self._task is not None:
            raise RuntimeError("These features are kept fresh already.")
        self._task = asyncio.get_running_loop().create_task(work, name="features of a session")

    async def _resumed(self, place: Place, files: Sequence[SessionFile]) -> None:
        found: Mapping[tuple[str, str], bytes] = {}
        try:
            async with asyncio.timeout(PHASE_SECONDS):
                found = await place.read(files)
        except Exception as error:  # noqa: BLE001 - an engine, a cluster or a disk that does not say: new ones come all the same
            self._log.warning("The files of a session could not be read: %r", error)
        await asyncio.gather(
            *(self._renewed(kept, place, lambda kept=kept: kept.feature.resume(found)) for kept in self._kept)
        )
        await self._keep(place)

    async def _keep(self, place: Place) -> None:
        while dues := [kept.due for kept in self._kept if kept.due is not None]:
            wait = min(dues) - time.time()
            if wait > 0:
                await asyncio.sleep(min(wait, _LOOK_SECONDS))
                continue
            now = time.time()
            due = [kept for kept in self._kept if kept.due is not None and kept.due <= now]
            await asyncio.gather(*(self._renewed(kept, place, kept.feature.renew) for kept in due))

    async def _renewed(self, kept: _Kept, place: Place, renew: Callable[[], Awaitable[Given]]) -> None:
        """One feature's files anew, brought into the session."""
        if not kept.undelivered or (kept.given.renew_at or 0) <= time.time():
            given = await self._asked(kept, "renew", renew)
            if given is None:
                return
            kept.undelivered = [file for file in given.files if file.content is not None]
            kept.has(replace(given, environment=kept.given.environment, pod=kept.given.pod))
        if kept.undelivered:
            await self._delivered(kept, place)

    async def _delivered(self, kept: _Kept, place: Place) -> None:
        try:
            async with asyncio.timeout(PHASE_SECONDS):
                await place.deliver(kept.undelivered)
        except Exception as error:  # noqa: BLE001 - an engine or a cluster that does not answer, in whatever words
            self._log.warning("%s could not be brought into a session: %r", kept.feature.title, error)
            kept.fails("It could not be renewed in this session.")
            return
        kept.undelivered = []
        kept.has(kept.given)

    async def _asked(self, kept: _Kept, phase: str, ask: Callable[[], Awaitable[Given]]) -> Given | None:
        """A feature's answer; none where it has none, and then what is told of that is kept."""
        feature = kept.feature
        try:
            async with asyncio.timeout(PHASE_SECONDS):
                given = await ask()
            # It may be anybody's program.
            if not isinstance(cast("object", given), Given):
                raise TypeError(f"{phase} has to return what is given, and returned {type(given).__name__}")
            checked(given.files)
            return given
        except Unavailable as error:
            self._log.warning("%s of launch %s: %s", feature.name, feature.session.launch, error)
            kept.fails(str(error), is_final=error.is_final)
        except TimeoutError:
            self._log.warning("%s of launch %s: %s took too long", feature.name, feature.session.launch, phase)
            kept.fails(f"It took longer than {PHASE_SECONDS:.0f} seconds.")
        except Exception:  # noqa: BLE001 - whatever a community's own feature raises ends no session, and keeps none from starting
            self._log.exception("%s of launch %s broke in %s", feature.name, feature.session.launch, phase)
            kept.fails("There is a fault on the hub's side. Tell the administrators.")
        return None

    # the end

    async def end(self) -> None:
        """Stop renewing, and have each feature clean up; raises nothing, and returns within `PHASE_SECONDS` or so."""
        if self._ended:
            return
        self._ended = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*(self._cleaned_up(kept.feature) for kept in self._kept))

    async def _cleaned_up(self, feature: Feature) -> None:
        try:
            async with asyncio.timeout(PHASE_SECONDS):
                await feature.clean_up()
        except Exception:  # noqa: BLE001 - one feature that breaks must not keep the others from their end
            self._log.exception("%s of launch %s could not clean up", feature.name, feature.session.launch)

    # what is told of them

    def reports(self) -> list[FeatureReport]:
        """For the pages."""
        told = [
            FeatureReport(
                name=kept.feature.name,
                title=kept.feature.title,
                state="given" if kept.state == "given" else "delayed" if kept.state == "delayed" else "absent",
                sentence=kept.sentence.removesuffix(_TRIED_AGAIN),
                next_try=datetime.fromtimestamp(kept.due, UTC) if kept.due and kept.state == "delayed" else None,
            )
            for kept in self._kept
        ]
        lacking = "This hub does not have it any more, so this session is without."
        return told + [FeatureReport(name=name, title=name, state="absent", sentence=lacking) for name in self._lacking]
