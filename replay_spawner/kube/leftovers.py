"""Pods of sessions that have ended: removed now, or once the cluster answers again."""

import asyncio
import logging
from typing import Any, NamedTuple

from kubernetes_asyncio.client.exceptions import ApiException

from replay_spawner.kube.cluster import delete_pod, read_pod
from replay_spawner.kube.reasons import ClusterSilent
from replay_spawner.kube.states import pod_state

AGAIN_SECONDS = 5.0
"""Between two tries of what could not be removed."""

LOOK_SECONDS = 0.05
LOOK_AT_LEAST_SECONDS = 0.5
"""Between two looks whether a pod is gone, the longer it takes the less often."""


class SessionPod(NamedTuple):
    """Where a session's pod is, or was: of its name may be another one by now."""

    namespace: str
    name: str
    launch: str


class Leftovers:
    """What is still to be removed, of all sessions of this hub. Its task ends with the hub's loop."""

    def __init__(self) -> None:
        self.log: Any = logging.getLogger(__name__)
        self._pods: set[SessionPod] = set()
        self._task: asyncio.Task[None] | None = None

    async def remove(self, api: Any, pod: SessionPod, *, grace_seconds: int = 0, seconds: float = 30.0) -> bool:
        """Remove a session's pod, and return once it is gone; raises nothing.

        Where it is not gone within ``seconds``, this returns False, and it is tried again until it is.
        """
        try:
            async with asyncio.timeout(seconds + grace_seconds):
                await self._until_gone(api, pod, grace_seconds)
            return True
        except TimeoutError:
            self.log.warning("Pod %s is not gone after %g seconds, and is removed later", pod.name, seconds)
            self.add(api, pod)
        except (ClusterSilent, ApiException) as error:
            self.log.warning("Pod %s could not be removed, which is tried again: %r", pod.name, error)
            self.add(api, pod)
        return False

    def add(self, api: Any, pod: SessionPod) -> None:
        """Have a pod removed in a while, and again until the cluster says that it is gone."""
        self._pods.add(pod)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._until_all_are_gone(api))

    async def _until_all_are_gone(self, api: Any) -> None:
        while self._pods:
            await asyncio.sleep(AGAIN_SECONDS)
            for pod in sorted(self._pods):
                try:
                    async with asyncio.timeout(AGAIN_SECONDS):
                        await self._until_gone(api, pod, 0)
                except (ClusterSilent, ApiException, TimeoutError) as error:
                    self.log.info("Pod %s is still to be removed: %r", pod.name, error)
                else:
                    self._pods.discard(pod)

    async def _until_gone(self, api: Any, pod: SessionPod, grace_seconds: int) -> None:
        """What belongs to the pod (a Secret, a Service) is its own, and goes with it."""
        asked, pause = "", LOOK_SECONDS
        while True:
            found = await read_pod(api, pod.namespace, pod.name)
            if found is None or (state := pod_state(found)).launch != pod.launch:
                return
            if asked != state.uid:
                await delete_pod(api, pod.namespace, pod.name, state.uid, grace_seconds)
                asked = state.uid
            elif not state.something_runs:
                # All of it has ended. The node would take the pod away only when it next tidies up.
                await delete_pod(api, pod.namespace, pod.name, state.uid, 0)
            await asyncio.sleep(pause)
            pause = min(1.2 * pause, LOOK_AT_LEAST_SECONDS)
