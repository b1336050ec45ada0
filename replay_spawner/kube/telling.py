"""How far a session's start is, told in a person's words as its pod and the events about it change."""

import time
from collections.abc import Callable, Iterable, MutableMapping

from replay_spawner.answers import size_of
from replay_spawner.kube.pods import NOTEBOOK
from replay_spawner.kube.reasons import room_lacks
from replay_spawner.kube.states import CONTENT, Fetched, PodEvent, PodState, fetched

STILL_SECONDS = 20.0
"""How long a fetch goes on without a word to the person."""

_OTHERWISE = {
    "TriggeredScaleUp": "The cluster adds a machine for this session, which takes a few minutes",
    "NotTriggerScaleUp": "The cluster has no machine that it could add for this session",
    "FailedMount": "The machine waits for something that it is to give to the session",
    "FailedAttachVolume": "The machine waits for something that it is to give to the session",
    "FailedCreatePodSandBox": "The machine has trouble making a place for the session and tries again",
    "NetworkNotReady": "The machine's network is not ready yet",
}
"""By the reason of an event."""


class Telling:
    """One start. ``known`` is what was learned of images before, by their location; it is added to."""

    def __init__(self, tell: Callable[[int, str], None], location: str, known: MutableMapping[str, Fetched]) -> None:
        self._tell_step = tell
        self._location = location
        self._known = known
        self._told: set[str] = set()
        self._lacked = ""
        self._fetching_since: float | None = None
        self._fetches_content = False
        self._next_word = 0.0

    @property
    def is_fetching(self) -> bool:
        """Whether the image is on its way."""
        return self._fetching_since is not None and not self._fetches_content

    def look(self, state: PodState, events: Iterable[PodEvent]) -> None:
        """Tell what is new."""
        if state.notebook_runs:
            self._fetching_since = None
        if not state.is_scheduled:
            if state.unschedulable is not None and (lacks := room_lacks(state.unschedulable)) != self._lacked:
                self._lacked = lacks
                self._tell_step(8, f"There is no room for the session yet: {lacks}. Waiting for it")
        elif self._lacked and self._is_new("room"):
            self._tell_step(10, "There is room for the session now")
        if state.content_runs:
            self._content_begins()
        for event in events:
            self._look_at(event)
        if self._fetching_since is not None and time.monotonic() >= self._next_word:
            self._next_word += STILL_SECONDS
            percent, what = (18, "content") if self._fetches_content else (30, "image")
            seconds = time.monotonic() - self._fetching_since
            self._tell_step(percent, f"Still fetching the {what} ({seconds:.0f} seconds so far)")
        if state.notebook_runs and self._is_new("waiting"):
            self._tell_step(80, "Waiting for the server")

    def pull_is_tried_again(self) -> None:
        """Tell of a registry that may yet answer."""
        if self._is_new("again"):
            self._tell_step(25, "The registry did not give the image at the first try. Trying again")

    def _look_at(self, event: PodEvent) -> None:
        if event.container == CONTENT and event.reason == "Started":
            self._content_begins()
        if event.container not in ("", NOTEBOOK):
            return
        match event.reason:
            case "Pulling" if self._is_new("pulling"):
                self._begin_to_fetch(content=False)
                self._tell_step(20, f"Fetching the image{self._usually()}")
            case "Pulled" if self._is_new("pulled"):
                self._fetching_since = None
                if (took := fetched(event)) is not None:
                    self._known[self._location] = took
            case "Created" if self._is_new("created"):
                self._tell_step(60, "Starting the container")
            case reason if reason in _OTHERWISE and self._is_new(_OTHERWISE[reason]):
                self._tell_step(15, _OTHERWISE[reason])
            case _:
                pass

    def _content_begins(self) -> None:
        if self._is_new("content"):
            self._begin_to_fetch(content=True)
            self._tell_step(17, "Fetching the content")

    def _begin_to_fetch(self, *, content: bool) -> None:
        self._fetches_content = content
        self._fetching_since = time.monotonic()
        self._next_word = self._fetching_since + STILL_SECONDS

    def _usually(self) -> str:
        """What earlier fetches of this image have taught."""
        known = self._known.get(self._location)
        if known is None:
            return ""
        size = "" if known.size is None else f"{size_of(known.size)}; "
        return f" ({size}it took {_in_words(known.seconds)} the last time)"

    def _is_new(self, what: str) -> bool:
        is_new = what not in self._told
        self._told.add(what)
        return is_new


def _in_words(seconds: float) -> str:
    if seconds < 90:
        number = max(1, round(seconds))
        return f"{number} second{'' if number == 1 else 's'}"
    return f"{round(seconds / 60)} minutes"
