"""What a pod's state tells of its build. Pure.

The builder's container says itself how its build ended, in its termination message; what follows here is for all the ends
that it does not live to tell.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from typing import Any, cast

from replay_build_service.builders.detached.failures import INTERNAL, KILLED, duration
from replay_build_service.builders.kubernetes.pods import ATTEMPT_ANNOTATION, BUILDER, LOG
from replay_build_service.domain import BuildFailure, FailureReason

_KILLED_STATUS = 137
"""128 + SIGKILL, which is what the kernel sends to what takes too much memory."""

_NO_IMAGE = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_NO_CONTAINER = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})

_REASONS = frozenset(FailureReason)

_DELETED = BuildFailure(
    FailureReason.KILLED, "The build's pod was deleted before it was done. Open the link again to start a new one."
)
_EVICTED = BuildFailure(
    FailureReason.EVICTED,
    "The machine that built the image ended the build, for want of memory or disk or because it went away, and so did the "
    "next one. Try again later; if that does not help, tell the administrators.",
)
_MEMORY = BuildFailure(
    FailureReason.MEMORY,
    "The program that directs the build ran out of memory. If the repository is very large, make it smaller; otherwise tell "
    "the administrators.",
)


class Stage(Enum):
    """Where the builder's container is."""

    WAITING = auto()
    RUNNING = auto()
    ENDED = auto()


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt at a build ended."""

    outcome: str | BuildFailure
    """The digest of what it made, or why it failed."""
    is_worth_another: bool = False
    """Nothing of the build's own ended it, so that it may well go better in another pod."""


def stage_of(pod: Mapping[str, Any]) -> Stage:
    """Where the build is."""
    state = _state(pod, BUILDER)
    if "terminated" in state or pod["status"].get("phase") in {"Failed", "Succeeded"}:
        return Stage.ENDED
    return Stage.RUNNING if "running" in state else Stage.WAITING


def log_is_at_hand(pod: Mapping[str, Any]) -> bool:
    """Whether the container that keeps the log runs."""
    return "running" in _state(pod, LOG)


def created_at(pod: Mapping[str, Any]) -> float:
    """Seconds since the epoch."""
    return datetime.fromisoformat(pod["metadata"]["creationTimestamp"]).timestamp()


def attempt_of(pod: Mapping[str, Any]) -> int:
    """The first is 1."""
    annotations: Mapping[str, str] = pod["metadata"].get("annotations") or {}
    told = annotations.get(ATTEMPT_ANNOTATION, "1")
    return int(told) if told.isdecimal() else 1


def why_it_waits(pod: Mapping[str, Any]) -> str | None:
    """A sentence for the person, for a pod whose builder does not run yet; ``None`` where it is only just beginning."""
    for condition in pod["status"].get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return "No machine has room for the build at the moment. It waits for one."
    if _waiting_reason(pod) in _NO_IMAGE:
        return "The image of the builder cannot be had at the moment. The cluster tries again."
    return "A machine gets ready to build." if pod["spec"].get("nodeName") else None


def why_it_never_ran(pod: Mapping[str, Any], seconds: float, complaints: str) -> BuildFailure:
    """For a pod that waited for so long. ``complaints``: Kubernetes' own, for administrators."""
    waited = duration(round(seconds))
    if not pod["spec"].get("nodeName"):
        return BuildFailure(
            FailureReason.CAPACITY,
            f"No machine had room for the build within {waited}. Try again later; if that does not help, tell the "
            "administrators.",
        )
    if _waiting_reason(pod) in _NO_IMAGE:
        what = "because the image of the builder could not be pulled"
    elif _waiting_reason(pod) in _NO_CONTAINER:
        what = "because its container could not be made"
    else:
        what = f"within {waited}"
    return BuildFailure(
        FailureReason.BUILDER,
        f"The pod that should build could not start {what}. Tell the administrators{_in_brackets(complaints)}",
    )


def ending_of(pod: Mapping[str, Any] | None, time_limit: float) -> Ending:
    """How an attempt ended whose pod is over; ``None`` for one that vanished without a last word. Seconds."""
    if pod is None:
        return Ending(_DELETED, is_worth_another=True)
    ended: Mapping[str, Any] = _state(pod, BUILDER).get("terminated") or {}
    if (outcome := _told(ended.get("message") or "")) is not None:
        # Ended from outside means: by whoever deleted or evicted the pod.
        if outcome == KILLED:
            return _ended_from_outside(pod)
        return Ending(outcome)
    reason = pod["status"].get("reason")
    if reason == "DeadlineExceeded":
        return Ending(over_its_deadline(time_limit))
    if ended.get("reason") == "OOMKilled" or (ended.get("exitCode") == _KILLED_STATUS and reason is None):
        return _ended_from_outside(pod) if _is_deleted(pod) else Ending(_MEMORY)
    if not ended or reason is not None or _is_deleted(pod):
        return _ended_from_outside(pod)
    return Ending(INTERNAL)


def over_its_deadline(time_limit: float) -> BuildFailure:
    """For a pod that has not ended its build by itself. Seconds."""
    return BuildFailure(
        FailureReason.TIMEOUT,
        f"The build was not done in the time that its pod has. The limit here is {duration(time_limit)}.",
    )


def _ended_from_outside(pod: Mapping[str, Any]) -> Ending:
    is_evicted = pod["status"].get("reason") is not None or not _is_deleted(pod)
    return Ending(_EVICTED if is_evicted else _DELETED, is_worth_another=True)


def _is_deleted(pod: Mapping[str, Any]) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def _told(message: str) -> str | BuildFailure | None:
    """The outcome in a termination message."""
    try:
        value: object = json.loads(message)
    except (ValueError, RecursionError):
        return None
    match value:
        case {"digest": str(digest)}:
            return digest
        case {"reason": str(reason), "message": str(text)} if reason in _REASONS:
            return BuildFailure(FailureReason(reason), text)
        case _:
            return None


def _state(pod: Mapping[str, Any], container: str) -> Mapping[str, Any]:
    for status in pod["status"].get("containerStatuses") or ():
        if status["name"] == container:
            return cast("Mapping[str, Any]", status.get("state") or {})
    return {}


def _waiting_reason(pod: Mapping[str, Any]) -> str | None:
    for container in (BUILDER, LOG):
        waiting: Mapping[str, str] = _state(pod, container).get("waiting") or {}
        if (reason := waiting.get("reason")) in _NO_IMAGE | _NO_CONTAINER:
            return reason
    return None


def _in_brackets(complaints: str) -> str:
    return f" (Kubernetes says: {complaints})." if complaints else "."
