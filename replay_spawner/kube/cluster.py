"""KubeSpawner's way to the cluster, with bounds: what is asked is answered in time or not at all, and watches come back."""

import asyncio
import json
from collections.abc import Awaitable, Mapping
from typing import Any

import aiohttp
from kubernetes_asyncio.client import V1DeleteOptions, V1Preconditions
from kubernetes_asyncio.client.exceptions import ApiException
from kubespawner import KubeSpawner

from replay_spawner.kube.pods import NOTEBOOK
from replay_spawner.kube.reasons import ClusterSilent, is_silence, said_by
from replay_spawner.kube.states import PodEvent, PodState, events_of, pod_state

CALL_SECONDS = 10.0
"""For one answer of the API's about what it knows."""

MOST_LINES = 50
MOST_LOG = 20_000
"""Of a container's log, the last ones: lines, and of these the bytes. Nodes cut lines at 16 KiB."""

_FAULTS = (aiohttp.ClientError, OSError, TimeoutError)


async def answer(call: Awaitable[Any], seconds: float = CALL_SECONDS) -> Mapping[str, Any]:
    """The API's answer, in the API's own spelling, to a call that was made with ``_preload_content=False``.

    The client's models would refuse what a newer cluster leaves out. Raises `ClusterSilent`, and `ApiException` where the
    API answers with a refusal.
    """
    try:
        async with asyncio.timeout(seconds):
            response = await call
            async with response:
                body: bytes = await response.read()
    except ApiException as error:
        if is_silence(error):
            raise ClusterSilent(said_by(error)) from error
        raise
    except _FAULTS as error:
        raise ClusterSilent(repr(error)) from error
    if response.status >= 300:
        refusal = ApiException(response.status, response.reason)
        refusal.body = body
        if is_silence(refusal):
            raise ClusterSilent(said_by(refusal))
        raise refusal
    try:
        told: Mapping[str, Any] = json.loads(body)
    except ValueError as error:
        raise ClusterSilent(f"an answer that is no JSON: {error}") from error
    return told


async def read_pod(api: Any, namespace: str, name: str) -> Mapping[str, Any] | None:
    """A pod as the API knows it now, in the API's spelling; none where there is none. Raises as `answer`."""
    try:
        return await answer(api.read_namespaced_pod(name, namespace, _preload_content=False))
    except ApiException as error:
        if error.status == 404:
            return None
        raise


async def delete_pod(api: Any, namespace: str, name: str, uid: str, grace_seconds: int) -> None:
    """Have this very pod removed, no other one of its name. No error where it is gone. Raises as `answer`."""
    options = V1DeleteOptions(preconditions=V1Preconditions(uid=uid), grace_period_seconds=grace_seconds)
    try:
        await answer(api.delete_namespaced_pod(name, namespace, body=options, _preload_content=False))
    except ApiException as error:
        if error.status not in (404, 409):
            raise


class AskingKubeSpawner(KubeSpawner):
    """Watches that end for good are started anew, and one that could not be started is not taken for an empty cluster."""

    async def _start_reflector(self, kind: str, reflector_class: Any, replace: bool = False, **options: Any) -> Any:
        reflectors: dict[Any, Any] = type(self).reflectors
        key = self._get_reflector_key(kind)
        before = reflectors.get(key)
        if before is not None and _has_ended(before):
            self.log.warning("The watch of %s had ended; it is started anew", kind)
            replace = True
        try:
            return await super()._start_reflector(kind, reflector_class, replace, **options)
        except Exception:
            # What was known stays known: otherwise every server would look as if it were gone.
            if before is not None and _has_loaded(before):
                reflectors[key] = before
            else:
                reflectors.pop(key, None)
            raise

    def _watched_pod(self) -> Mapping[str, Any] | None:
        """The pod of this server's name, as the watch knows it."""
        reflector = self.pod_reflector
        found: Mapping[str, Any] | None = (
            reflector.pods.get(f"{self.namespace}/{self.pod_name}") if reflector is not None else None
        )
        return found

    def _let_the_watch_know(self, pod: Mapping[str, Any]) -> None:
        """Put a pod that the API told of where KubeSpawner looks, which knows no other way."""
        reflector = self.pod_reflector
        if reflector is not None and self._watched_pod() is None:
            reflector.resources[f"{self.namespace}/{self.pod_name}"] = pod

    async def _read_state(self) -> PodState | None:
        """The pod of this server's name, as the API knows it now; none where there is none. Raises as `answer`."""
        pod = await read_pod(self.api, self.namespace, self.pod_name)
        return None if pod is None else pod_state(pod)

    def _events_of(self, uid: str) -> list[PodEvent]:
        reflector = self.event_reflector
        return [] if reflector is None else events_of(uid, reflector.resources.values())

    async def _said(self, *, before_it_was_started_anew: bool = False) -> str:
        """The end of what the session's container said."""
        try:
            async with asyncio.timeout(CALL_SECONDS):
                response = await self.api.read_namespaced_pod_log(
                    self.pod_name,
                    self.namespace,
                    container=NOTEBOOK,
                    tail_lines=MOST_LINES,
                    limit_bytes=MOST_LINES * MOST_LOG,
                    previous=before_it_was_started_anew,
                    _preload_content=False,
                )
                async with response:
                    if response.status == 200:
                        said: bytes = await response.content.read()
                        return said[-MOST_LOG:].decode("utf8", "replace")
                    self.log.warning("The cluster does not tell what %s said: %s", self.pod_name, response.status)
        except (ApiException, *_FAULTS) as error:
            self.log.warning("The cluster does not tell what %s said: %r", self.pod_name, error)
        return "(the hub could not read it)"


def _has_loaded(reflector: Any) -> bool:
    loaded: asyncio.Future[None] = reflector.first_load_future
    return loaded.done() and not loaded.cancelled() and loaded.exception() is None


def _has_ended(reflector: Any) -> bool:
    """Whether it will tell nothing any more: KubeSpawner's gives up after a minute without an API."""
    return reflector.watch_task is not None and reflector.watch_task.done()
