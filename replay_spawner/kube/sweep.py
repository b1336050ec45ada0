"""What is in the cluster of this hub's sessions: their pods, and the Secrets that were made for them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from kubernetes_asyncio.client import V1DeleteOptions, V1Preconditions
from kubernetes_asyncio.client.exceptions import ApiException

from replay_spawner.kube.cluster import answer
from replay_spawner.kube.leftovers import Leftovers, SessionPod
from replay_spawner.kube.reasons import ClusterSilent
from replay_spawner.plans import HUB_LABEL, LAUNCH_LABEL
from replay_spawner.sweeping import Leftover, age_of

LIST_SECONDS = 60.0
"""For the cluster to tell what there is of a kind."""

AT_ONCE = 500
"""Of a kind, in one answer; the next one goes on from there."""


class _Thing(NamedTuple):
    kind: str
    namespace: str
    name: str
    uid: str


class ClusterPlace:
    """One namespace, or all of them where each person has one."""

    def __init__(self, api: Any, namespace: str | None, leftovers: Leftovers, hub: str) -> None:
        """``namespace`` is none for all; ``hub`` is this hub's mark."""
        self._api = api
        self._namespace = namespace
        self._leftovers = leftovers
        self._hub = hub

    async def found(self) -> Sequence[Leftover]:
        """Pods first: with a pod goes what is its own."""
        api, here = self._api, self._namespace is not None
        pods = api.list_namespaced_pod if here else api.list_pod_for_all_namespaces
        secrets = api.list_namespaced_secret if here else api.list_secret_for_all_namespaces
        return [*await self._listed("pod", pods), *await self._listed("secret", secrets)]

    async def remove(self, leftover: Leftover) -> None:
        thing: _Thing = leftover.what
        if thing.kind == "pod":
            pod = SessionPod(thing.namespace, thing.name, leftover.launch)
            if not await self._leftovers.remove(self._api, pod):
                raise ClusterSilent("it is tried again until it is gone")
            return
        options = V1DeleteOptions(preconditions=V1Preconditions(uid=thing.uid))
        try:
            await answer(
                self._api.delete_namespaced_secret(thing.name, thing.namespace, body=options, _preload_content=False)
            )
        except ApiException as error:
            if error.status not in (404, 409):
                raise

    async def _listed(self, kind: str, ask: Callable[..., Awaitable[Any]]) -> list[Leftover]:
        where = () if self._namespace is None else (self._namespace,)
        selector = f"{HUB_LABEL}={self._hub},{LAUNCH_LABEL}"
        listed: list[Mapping[str, Any]] = []
        position: str | None = ""
        while position is not None:
            more = {"_continue": position} if position else {}
            found = await answer(
                ask(*where, label_selector=selector, limit=AT_ONCE, _preload_content=False, **more), LIST_SECONDS
            )
            listed += [one["metadata"] for one in found.get("items") or []]
            position = (found.get("metadata") or {}).get("continue") or None
        # Looked at once more: an API that left out the selector would have everything removed.
        return [_leftover(kind, one) for one in listed if self._is_of_a_session(one)]

    def _is_of_a_session(self, metadata: Mapping[str, Any]) -> bool:
        labels: Mapping[str, str] = metadata.get("labels") or {}
        return labels.get(HUB_LABEL) == self._hub and LAUNCH_LABEL in labels


def _leftover(kind: str, metadata: Mapping[str, Any]) -> Leftover:
    made = datetime.fromisoformat(metadata["creationTimestamp"]).timestamp()
    thing = _Thing(kind, metadata["namespace"], metadata["name"], metadata["uid"])
    return Leftover(metadata["labels"][LAUNCH_LABEL], f"{kind} {thing.name}", age_of(made), thing)
