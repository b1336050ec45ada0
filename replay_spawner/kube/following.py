"""From a pod that was asked for to a server that answers, or to the reason why there is none."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpcore
from kubernetes_asyncio.client.exceptions import ApiException

from replay_spawner.answers import Answer, Started, ask, pause_after
from replay_spawner.faults import too_late
from replay_spawner.kube import reasons
from replay_spawner.kube.cluster import AskingKubeSpawner, read_pod
from replay_spawner.kube.pods import NOTEBOOK
from replay_spawner.kube.reasons import ClusterSilent
from replay_spawner.kube.states import PodEvent, PodState, failed_pull, pod_state
from replay_spawner.kube.telling import Telling

LOOK_SECONDS = 0.05
"""Between two looks at what the watch knows, which asks nobody."""

EVENTS_SECONDS = 0.25
"""Between two looks through the events, which are everybody's."""

DIRECT_SECONDS = 5.0
"""The watch may hang or be late: after so long without news of the pod, the API itself is asked."""

PATIENCE_SECONDS = 20.0
"""For trouble that may pass: a node tries again after ten."""

HOOK_SECONDS = 0.3
"""How much later than a container's end the event may come that tells of the admin's hook."""


class NoServer(Exception):
    """There will be no server. The text is for the person."""


@dataclass
class Start:
    """One start of a session, and what was seen of it."""

    launch: str
    started: Started
    telling: Telling
    deadline: float
    """By the loop's clock, for all of it."""
    answer_seconds: float
    """From when its container runs."""
    room_seconds: float | None
    """From when the cluster first says that there is no room."""
    uid: str = ""
    """The pod's, once it is made."""
    state: PodState | None = None
    pod: Mapping[str, Any] | None = None
    """As the API tells it; what `state` was read from."""
    watched: Mapping[str, Any] | None = None
    """The last that the watch had of that name: it may be older than what the API itself was asked for."""
    events: list[PodEvent] = field(default_factory=list[PodEvent])
    pull_said: str = ""
    troubles: dict[str, float] = field(default_factory=dict[str, float])
    """When each kind of trouble was first seen."""
    changed_at: float = 0.0
    asked_at: float = 0.0
    events_at: float = 0.0
    no_room_since: float | None = None
    runs_since: float | None = None

    def too_late(self, seconds: float) -> str:
        """A sentence for a start that has no time left."""
        if self.state is not None and self.state.unschedulable is not None and not self.state.is_scheduled:
            return reasons.no_room(self.state.unschedulable, round(seconds, 1))
        if self.state is not None and self.state.content_runs:
            return reasons.content_too_late(round(seconds, 1))
        said = [event for event in self.events if event.reason.startswith("Failed")]
        if said and not self.telling.is_fetching and self.runs_since is None:
            return reasons.not_made(said[-1].message, round(seconds, 1))
        return too_late(round(seconds, 1), self.telling.is_fetching)


class FollowingKubeSpawner(AskingKubeSpawner):
    """Follows one start by the watch of pods, the events, and what the server itself answers."""

    async def _until_it_answers(self, start: Start) -> Mapping[str, Any]:
        """The pod, once the session's server answers. Raises `NoServer`."""
        clock = asyncio.get_running_loop().time
        start.changed_at = clock()
        async with httpcore.AsyncConnectionPool(max_keepalive_connections=0) as pool:
            while True:
                await self._look(start, clock())
                state = start.state
                if state is not None:
                    if state.has_ended:
                        raise NoServer(await self._why_it_ended(start, state))
                    self._refuse_trouble(start, state, clock())
                    if state.notebook_runs and state.has_address and start.pod is not None:
                        if start.runs_since is None:
                            start.runs_since = clock()
                        if await self._answers(start, start.pod, pool):
                            return start.pod
                        await self._refuse_the_silent(start, clock())
                await asyncio.sleep(
                    LOOK_SECONDS if start.runs_since is None else pause_after(clock() - start.runs_since)
                )

    async def _look(self, start: Start, now: float) -> None:
        """What is known of the pod now, from the watch or, where that says nothing, from the API."""
        watched = self._watched_pod()
        if watched is not None and watched is not start.watched:
            start.watched = watched
            if (state := pod_state(watched)).launch == start.launch:
                start.state, start.pod, start.changed_at = state, watched, now
        is_gone = watched is None and start.state is not None
        since = now - max(start.changed_at, start.asked_at)
        if start.uid and (since > DIRECT_SECONDS or (is_gone and now - start.asked_at > 2 * LOOK_SECONDS)):
            start.asked_at = now
            await self._look_directly(start)
        if start.state is not None and now - start.events_at > EVENTS_SECONDS:
            start.events_at = now
            start.events = self._events_of(start.state.uid)
            start.pull_said = next(filter(None, map(failed_pull, reversed(start.events))), start.pull_said)
        if start.state is not None:
            start.telling.look(start.state, start.events)

    async def _look_directly(self, start: Start) -> None:
        try:
            pod = await read_pod(self.api, self.namespace, self.pod_name)
        except (ClusterSilent, ApiException) as error:
            self.log.warning("The cluster does not tell of pod %s: %r", self.pod_name, error)
            return
        if pod is None or (state := pod_state(pod)).launch != start.launch:
            raise NoServer(reasons.removed(start.state))
        start.state, start.pod = state, pod

    def _refuse_trouble(self, start: Start, state: PodState, now: float) -> None:
        if state.waiting is not None and state.waiting.reason == "ErrImagePull" and state.waiting.message:
            start.pull_said = state.waiting.message
        trouble = reasons.trouble_of(state, start.started, start.pull_said)
        if trouble is not None:
            since = start.troubles.setdefault(trouble.kind, now)
            if trouble.is_final or now - since >= PATIENCE_SECONDS:
                raise NoServer(trouble.sentence)
            if trouble.kind == "pull":
                start.telling.pull_is_tried_again()
        if state.unschedulable is None or state.is_scheduled:
            start.no_room_since = None
            return
        if start.no_room_since is None:
            start.no_room_since = now
        waited = now - start.no_room_since
        if start.room_seconds is not None and waited >= start.room_seconds:
            raise NoServer(reasons.no_room(state.unschedulable, round(waited, 1)))

    async def _answers(self, start: Start, pod: Mapping[str, Any], pool: httpcore.AsyncConnectionPool) -> bool:
        if self.internal_ssl:
            # Only the hub has the certificate to ask with; it looks for itself.
            return super().is_pod_running(pod)
        # JupyterHub sets the server before it starts the spawner.
        base_url = str(self.server.base_url)  # pyright: ignore[reportOptionalMemberAccess]
        match await ask(pool, f"{self._get_pod_url(pod)}{base_url}api"):
            case Answer.HUB_SERVER:
                return True
            case Answer.SOMETHING_ELSE:
                raise NoServer(start.started.why_it_is_no_server)
            case Answer.NOTHING_YET:
                return False

    async def _refuse_the_silent(self, start: Start, now: float) -> None:
        since = now if start.runs_since is None else start.runs_since
        if now - since >= start.answer_seconds or now >= start.deadline - 1:
            await self._look_directly(start)
            if start.state is not None and start.state.has_ended:
                raise NoServer(await self._why_it_ended(start, start.state))
            raise NoServer(start.started.why_nothing_answers(round(now - since, 1), await self._said()))

    async def _why_it_ended(self, start: Start, state: PodState) -> str:
        if state.has_start_hook:
            await asyncio.sleep(HOOK_SECONDS)
        hook_failed = any(event.reason == "FailedPostStartHook" for event in self._events_of(state.uid))
        anew = state.ended is not None and state.ended.runs_again
        is_the_notebooks = state.ended is not None and state.ended.container == NOTEBOOK
        log = await self._said(before_it_was_started_anew=anew) if is_the_notebooks else ""
        return reasons.why_it_ended(state, start.started, log, hook_failed=hook_failed)
