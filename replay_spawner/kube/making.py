"""The request that makes a session's pod: asked again where the cluster did not answer, and never for two pods."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from kubernetes_asyncio.client import V1Pod
from kubernetes_asyncio.client.exceptions import ApiException

from replay_spawner.kube.cluster import answer, delete_pod, read_pod
from replay_spawner.kube.leftovers import SessionPod
from replay_spawner.kube.states import pod_state


class Making:
    """One session's pod on its way. ``abandoned`` is called with it where it may come after all, and nobody waits."""

    def __init__(self, api: Any, session: SessionPod, abandoned: Callable[[Any, SessionPod], None]) -> None:
        self._api = api
        self._session = session
        self._abandoned = abandoned
        self._request: asyncio.Future[Mapping[str, Any]] | None = None

    async def made(self, pod: V1Pod, seconds: float) -> str:
        """The pod's uid once it is there; empty where this is to be asked again.

        Raises `ClusterSilent`, after which it may be asked again, and `ApiException` where the cluster refuses.
        """
        request = self._request
        if request is None:
            create = self._api.create_namespaced_pod(self._session.namespace, pod, _preload_content=False)
            self._request = request = asyncio.ensure_future(answer(create))
        await asyncio.wait({request}, timeout=seconds)
        if not request.done():
            # It goes on: a second request would find the first one's pod in its place.
            return ""
        self._request = None
        try:
            made = request.result()
        except ApiException as error:
            if error.status != 409:
                raise
            return await self._uid_of_the_one_in_place()
        return str(made["metadata"]["uid"])

    def abandon(self) -> None:
        """Stop waiting. A request that is on its way may still make the pod."""
        if self._request is not None:
            self._request.add_done_callback(self._is_done)
            self._request = None

    def _is_done(self, request: "asyncio.Future[Mapping[str, Any]]") -> None:
        if not request.cancelled() and not isinstance(request.exception(), ApiException):
            self._abandoned(self._api, self._session)

    async def _uid_of_the_one_in_place(self) -> str:
        """Of a pod that is this session's after all: an answer was lost. Any other has to go first."""
        session = self._session
        pod = await read_pod(self._api, session.namespace, session.name)
        if pod is None:
            return ""
        state = pod_state(pod)
        if state.launch == session.launch and not state.is_going:
            return state.uid
        await delete_pod(self._api, session.namespace, session.name, state.uid, 0)
        return ""
