"""What this builder asks of Kubernetes, as plain JSON objects, with a bound on how long each answer may take.

kubernetes_asyncio has no timeout of its own, and where it hands on an answer as it comes it raises nothing for a refusal:
both are done here. Faults of the API server (5xx, 429, a connection that breaks) are tried again, and then raised.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import aiohttp
import stamina
from kubernetes_asyncio import config
from kubernetes_asyncio.client import CoreV1Api
from kubernetes_asyncio.client.api_client import ApiClient
from kubernetes_asyncio.client.configuration import Configuration
from kubernetes_asyncio.stream import WsApiClient

from replay_build_service.errors import SourceFault

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 20.0
WATCH_SECONDS = 240
"""How long one watch lasts; the API server ends it, and the next one begins with a look at what is there."""

HEARTBEAT_SECONDS = 20.0
_SILENCE_SECONDS = WATCH_SECONDS + 30.0
_AGAIN_SECONDS = 1.0
_RETRY_SECONDS = 30.0
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

_STDOUT, _ERROR = 1, 3
"""Channels of an exec session (v4.channel.k8s.io)."""

_FAULTS = (aiohttp.ClientError, TimeoutError, OSError, ssl.SSLError)


class ClusterFault(SourceFault):
    """Kubernetes did not answer properly. Not a fact about what was asked. ``detail`` is for administrators."""

    def __init__(self, detail: str, *, again_after: float | None = None) -> None:
        super().__init__("The cluster that this site runs on does not answer. Try again in a few minutes.")
        self.detail = detail
        self.again_after = again_after
        """Seconds, where the API server says when to ask again."""


class ClusterRefusal(ClusterFault):
    """Kubernetes understood and does not do it: no right, a quota, or what was asked is invalid. No use in asking again."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status

    @property
    def is_quota(self) -> bool:
        """The namespace has used up what it may have: it may go later."""
        return self.status == 403 and "exceeded quota" in self.detail


@dataclass(frozen=True, slots=True)
class PodSeen:
    """A pod at one moment."""

    pod: Mapping[str, Any] | None
    """As the API has it; the last state of one that was deleted, where that was seen; ``None`` where there is none."""
    is_gone: bool


def own_namespace() -> str | None:
    """The namespace that this process's pod is in; ``None`` outside a cluster."""
    try:
        return _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None


async def way_to_the_cluster(kubeconfig: str | None) -> Configuration:
    """What that file says; without one the pod's own account, or else what ``KUBECONFIG`` says. Raises `ConfigException`."""
    configuration = Configuration()
    if kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ:
        config.load_incluster_config(client_configuration=configuration)
    else:
        await config.load_kube_config(config_file=kubeconfig, client_configuration=configuration, persist_config=False)
    return configuration


class Cluster:
    """One namespace of a cluster. Use as an asynchronous context manager."""

    def __init__(self, namespace: str, kubeconfig: str | None = None) -> None:
        """``kubeconfig``: a file; ``None``: the pod's own account, or else as ``KUBECONFIG`` says."""
        self.namespace = namespace
        self._kubeconfig = kubeconfig
        self._resources = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Raises `ConfigException` where nothing says how the cluster is reached."""
        configuration = await way_to_the_cluster(self._kubeconfig)
        # As they are typed, they take and give models; here they take and give plain objects.
        client: Any = ApiClient(configuration)
        self._api: Any = CoreV1Api(await self._resources.enter_async_context(client))
        client = WsApiClient(configuration, heartbeat=HEARTBEAT_SECONDS)
        self._streams: Any = CoreV1Api(await self._resources.enter_async_context(client))
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._resources.aclose()

    # objects

    async def create_pod(self, pod: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The pod as it was made; ``None`` where one of that name is there. Raises `ClusterFault`."""
        try:
            return await self._asked(lambda: self._api.create_namespaced_pod(self.namespace, dict(pod), **_PLAIN))
        except ClusterRefusal as refusal:
            if refusal.status == 409 and "object is being deleted" not in refusal.detail:
                return None
            raise

    async def pod(self, name: str) -> Mapping[str, Any] | None:
        """Raises `ClusterFault`."""
        try:
            return await self._asked(lambda: self._api.read_namespaced_pod(name, self.namespace, **_PLAIN))
        except ClusterRefusal as refusal:
            if refusal.status == 404:
                return None
            raise

    async def pods(self, selector: str) -> Sequence[Mapping[str, Any]]:
        """Those with these labels. Raises `ClusterFault`."""
        found = await self._asked(
            lambda: self._api.list_namespaced_pod(self.namespace, label_selector=selector, **_PLAIN)
        )
        return cast("list[Mapping[str, Any]]", found["items"])

    async def delete_pod(self, name: str, uid: str, grace: int | None = None) -> None:
        """Have this very pod deleted; no error where it is gone, or another has its name. Raises `ClusterFault`."""
        body: dict[str, Any] = {"preconditions": {"uid": uid}}
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        try:
            await self._asked(lambda: self._api.delete_namespaced_pod(name, self.namespace, body=body, **_PLAIN))
        except ClusterRefusal as refusal:
            if refusal.status not in {404, 409}:
                raise

    async def warnings(self, uid: str) -> Sequence[str]:
        """What Kubernetes complains of about a pod, oldest first: ``FailedMount: …``. Raises `ClusterFault`."""
        selector = f"involvedObject.uid={uid},type=Warning"
        found = await self._asked(
            lambda: self._api.list_namespaced_event(self.namespace, field_selector=selector, **_PLAIN)
        )
        events = sorted(found["items"], key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
        return [f"{event.get('reason')}: {event.get('message')}" for event in events]

    # streams

    async def watch_pod(self, name: str) -> AsyncIterator[PodSeen]:
        """The pod now, and then at each change of it; never ends. Faults are waited out: they say nothing of the pod."""
        selector = f"metadata.name={name}"
        while True:
            try:
                listed = await self._asked(
                    lambda: self._api.list_namespaced_pod(self.namespace, field_selector=selector, **_PLAIN)
                )
                items = cast("list[Mapping[str, Any]]", listed["items"])
                yield PodSeen(items[0], is_gone=False) if items else PodSeen(None, is_gone=True)
                async for change in self._changes(selector, listed["metadata"]["resourceVersion"]):
                    if change["type"] != "BOOKMARK":
                        yield PodSeen(change["object"], is_gone=change["type"] == "DELETED")
            except ClusterFault as fault:
                log.info("The watch of %s is begun anew: %s", name, fault.detail)
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _changes(self, selector: str, version: str) -> AsyncIterator[Mapping[str, Any]]:
        """Until the API server ends the watch. Raises `ClusterFault`, also where ``version`` is too old for it."""
        try:
            answer = await self._api.list_namespaced_pod(
                self.namespace,
                field_selector=selector,
                resource_version=version,
                watch=True,
                timeout_seconds=WATCH_SECONDS,
                _preload_content=False,
                _request_timeout=(CONNECT_SECONDS, _SILENCE_SECONDS),
            )
            async with cast("aiohttp.ClientResponse", answer) as response:
                if response.status != 200:
                    raise await _fault_of(response)
                async for line in _lines(response):
                    change = cast("dict[str, Any]", json.loads(line))
                    if change["type"] == "ERROR":
                        raise ClusterFault(f"The watch ended: {change['object'].get('message')}")
                    yield change
        except (*_FAULTS, ValueError) as error:
            raise ClusterFault(f"The watch broke: {error!r}") from error

    async def execute(self, name: str, container: str, command: Sequence[str]) -> AsyncIterator[bytes]:
        """What a command in a container prints, as it comes. Raises `ClusterFault`, also where the connection ends first."""
        has_ended = False
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                connecting = await self._streams.connect_get_namespaced_pod_exec(
                    name, self.namespace, container=container, command=list(command),
                    stdin=False, stdout=True, stderr=False, tty=False, _preload_content=False,
                )  # fmt: skip
                socket = await connecting
            async with cast("aiohttp.ClientWebSocketResponse", socket) as messages:
                async for message in messages:
                    if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                        continue
                    if message.data[0] == _STDOUT and len(message.data) > 1:
                        yield message.data[1:]
                    has_ended = has_ended or message.data[0] == _ERROR
        except _FAULTS as error:
            raise ClusterFault(f"{command[0]} in {name} could not be followed: {error!r}") from error
        if not has_ended:
            raise ClusterFault(f"The connection to {command[0]} in {name} ended before it did.")

    async def printed(self, name: str, container: str) -> AsyncIterator[bytes]:
        """What a container has printed, as far as its node still has it. Raises `ClusterFault`."""
        try:
            answer = await self._api.read_namespaced_pod_log(
                name, self.namespace, container=container,
                _preload_content=False, _request_timeout=(CONNECT_SECONDS, ANSWER_SECONDS),
            )  # fmt: skip
            async with cast("aiohttp.ClientResponse", cast("object", answer)) as response:
                if response.status != 200:
                    raise await _fault_of(response)
                async for data in response.content.iter_any():
                    yield data
        except _FAULTS as error:
            raise ClusterFault(f"The log of {name} could not be read: {error!r}") from error

    # one question

    async def _asked(self, question: Callable[[], Awaitable[object]]) -> Mapping[str, Any]:
        """Its answer, tried again for a while. Raises `ClusterFault`."""
        async for attempt in stamina.retry_context(on=_worth_another, attempts=8, timeout=_RETRY_SECONDS):
            with attempt:
                return await self._asked_once(question)
        raise AssertionError("the attempts end with an answer or an error")

    @staticmethod
    async def _asked_once(question: Callable[[], Awaitable[object]]) -> Mapping[str, Any]:
        try:
            async with cast("aiohttp.ClientResponse", await question()) as response:
                if response.status >= 300:
                    raise await _fault_of(response)
                return cast("dict[str, Any]", json.loads(await response.read()))
        except (*_FAULTS, ValueError) as error:
            raise ClusterFault(f"The API server does not answer: {error!r}") from error


_PLAIN: Mapping[str, Any] = {"_preload_content": False, "_request_timeout": (CONNECT_SECONDS, ANSWER_SECONDS)}


def _worth_another(error: Exception) -> bool | float:
    if not isinstance(error, ClusterFault) or isinstance(error, ClusterRefusal):
        return False
    return True if error.again_after is None else error.again_after


async def _fault_of(response: aiohttp.ClientResponse) -> ClusterFault:
    text = (await response.read())[:4000].decode(errors="replace")
    try:
        told = str(cast("dict[str, Any]", json.loads(text))["message"])
    except (ValueError, KeyError, TypeError):
        told = text[:300]
    detail = f"{response.status}: {told}"
    if response.status == 429 or response.status >= 500:
        after = response.headers.get("Retry-After", "")
        return ClusterFault(detail, again_after=min(float(after), _RETRY_SECONDS) if after.isdecimal() else None)
    if response.status in {401, 410}:
        return ClusterFault(detail)  # A token that is just being replaced; a watch from too long ago.
    return ClusterRefusal(response.status, detail)


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Whole lines of any length."""
    pending = b""
    async for data in response.content.iter_any():
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            if line:
                yield line
