"""What the cluster says of a session's pod, as values: its status, and the events about it. Pure.

Statuses and events come as the API's JSON; whatever is missing is taken for not said.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from replay_spawner.kube.pods import NOTEBOOK
from replay_spawner.plans import LAUNCH_LABEL

SIDECARS = "replay.egi.eu/sidecars"
"""A pod's annotation: its containers that belong to features, by commas. What becomes of them is no trouble of the session's."""

CONTENT = "replay-content"
"""The init container that fetches a content, and its volume. Without what it brings the session is not what was asked for."""

_IN_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|us|µs|ns|m|s)")
# “… in 1.5s (1m2s including waiting). Image size: 123 bytes.”: what it took, without the wait for other images' turn.
_PULLED = re.compile(r"Successfully pulled image .* in (?P<took>[\d.a-zµ]+)(?:.*Image size: (?P<size>\d+) bytes)?")
_FAILED_PULL = re.compile(r'(?s)Failed to pull image "[^"]*": (?P<why>.+)')


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a container does not run yet, in the node's words."""

    container: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Ended:
    """How a container ended."""

    container: str
    exit_code: int
    reason: str
    message: str
    runs_again: bool
    """Whether it was, or will be, started anew since."""


@dataclass(frozen=True, slots=True)
class PodState:
    """A pod at one moment."""

    uid: str
    launch: str | None
    phase: str
    reason: str
    message: str
    is_going: bool
    """Whether somebody has deleted it."""
    disruption: str | None
    """Why the cluster is about to end it."""
    is_scheduled: bool
    unschedulable: str | None
    """The scheduler's words, where it has found no place yet."""
    something_runs: bool
    """Whether any of its containers does, by the node's account."""
    notebook_runs: bool
    content_runs: bool
    """Whether a content is being fetched."""
    has_address: bool
    waiting: Waiting | None
    """The notebook's container, or another one with a reason that is no mere beginning."""
    ended: Ended | None
    """The notebook's container, or another one that failed: of a content's, at any time, unless it was fetched since."""
    has_start_hook: bool

    @property
    def has_ended(self) -> bool:
        """Whether the session is over. What it made was in its container, so one that was started anew is another."""
        return self.phase in ("Succeeded", "Failed") or (
            self.ended is not None and self.ended.container in (NOTEBOOK, CONTENT)
        )


@dataclass(frozen=True, slots=True)
class PodEvent:
    """Something that the cluster said of a pod."""

    reason: str
    message: str
    container: str
    """The container that it is about; empty for the whole pod."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What is known of an image that a node has fetched."""

    seconds: float
    size: int | None
    """Bytes, as they lay in the registry."""


_BEGINNING = frozenset({"", "ContainerCreating", "PodInitializing"})


def pod_state(pod: Mapping[str, Any]) -> PodState:
    """Read a pod of the API's."""
    metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    conditions = {one.get("type"): one for one in status.get("conditions") or []}
    placed = conditions.get("PodScheduled") or {}
    disrupted = conditions.get("DisruptionTarget") or {}
    sidecars = ((metadata.get("annotations") or {}).get(SIDECARS) or "").split(",")
    statuses = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    all_statuses = statuses
    statuses = [one for one in statuses if one.get("name") not in sidecars]
    own = next((one for one in status.get("containerStatuses") or [] if one.get("name") == NOTEBOOK), {})
    container = next((one for one in spec.get("containers") or [] if one.get("name") == NOTEBOOK), {})
    return PodState(
        uid=metadata.get("uid") or "",
        launch=(metadata.get("labels") or {}).get(LAUNCH_LABEL),
        phase=status.get("phase") or "",
        reason=status.get("reason") or "",
        message=status.get("message") or "",
        is_going=bool(metadata.get("deletionTimestamp")),
        disruption=(disrupted.get("reason") or "unknown") if disrupted.get("status") == "True" else None,
        is_scheduled=placed.get("status") == "True" or bool(spec.get("nodeName")),
        unschedulable=(placed.get("message") or "") if placed.get("reason") == "Unschedulable" else None,
        # A sidecar, too: the node has to let it unmount what it mounted.
        something_runs=any("running" in (one.get("state") or {}) for one in all_statuses),
        notebook_runs="running" in (own.get("state") or {}),
        content_runs=any(one.get("name") == CONTENT and "running" in (one.get("state") or {}) for one in all_statuses),
        has_address=bool(status.get("podIP")),
        waiting=_waiting(statuses),
        ended=_ended(own, statuses),
        has_start_hook="postStart" in (container.get("lifecycle") or {}),
    )


def events_of(uid: str, events: Iterable[Mapping[str, Any]]) -> list[PodEvent]:
    """Those about this very pod, none of an earlier one of the same name; in the order in which they came."""
    found = [one for one in events if (one.get("involvedObject") or {}).get("uid") == uid]
    found.sort(key=lambda one: (one.get("lastTimestamp") or one.get("eventTime") or "", one["metadata"]["name"]))
    return [_event(one) for one in found]


def fetched(event: PodEvent) -> Fetched | None:
    """What an event says of an image that has come."""
    if event.reason != "Pulled" or not (match := _PULLED.search(event.message)):
        return None
    return Fetched(_seconds(match["took"]), int(match["size"]) if match["size"] else None)


def failed_pull(event: PodEvent) -> str | None:
    """Why an image did not come, in the node's words."""
    match = _FAILED_PULL.search(event.message) if event.reason == "Failed" else None
    return match["why"] if match else None


def _event(event: Mapping[str, Any]) -> PodEvent:
    field = (event.get("involvedObject") or {}).get("fieldPath") or ""
    return PodEvent(event.get("reason") or "", event.get("message") or "", field.partition("{")[2].rstrip("}"))


def _waiting(statuses: Iterable[Mapping[str, Any]]) -> Waiting | None:
    found = [
        Waiting(one.get("name") or "", waiting.get("reason") or "", waiting.get("message") or "")
        for one in statuses
        if (waiting := (one.get("state") or {}).get("waiting")) is not None
    ]
    telling = [one for one in found if one.reason not in _BEGINNING]
    return min(telling, key=lambda one: one.container != NOTEBOOK, default=None)


def _ended(own: Mapping[str, Any], statuses: Iterable[Mapping[str, Any]]) -> Ended | None:
    """The notebook's end, also one after which it was started anew; or the failure of another container."""
    for one in [own, *(other for other in statuses if other is not own)]:
        for key in ("state", "lastState"):
            terminated = (one.get(key) or {}).get("terminated")
            if terminated is None:
                continue
            if one is not own and terminated.get("exitCode") == 0:
                break  # Whatever went wrong before, it did its work then.
            if one is not own and key == "lastState" and one.get("name") != CONTENT:
                continue
            return Ended(
                one.get("name") or "",
                terminated.get("exitCode", -1),
                terminated.get("reason") or "",
                terminated.get("message") or "",
                runs_again=key == "lastState",
            )
    return None


def _seconds(duration: str) -> float:
    return sum(float(number) * _IN_SECONDS[unit] for number, unit in _DURATION_PART.findall(duration))
